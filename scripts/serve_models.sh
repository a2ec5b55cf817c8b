#!/usr/bin/env bash
# Hosts a pair of models with vLLM, on GPUs or, without any, on the CPU; --help says how, docs/hosting.md says why.
# Usage: scripts/serve_models.sh BASE NUDGING [options] [-- options of vLLM]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
python=$venv/bin/python
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python=$(find_python) || exit 1
exec "$python" "$root/scripts/serve_models.py" "$@"
