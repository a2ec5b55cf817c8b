#!/usr/bin/env bash
# Hosts a pair of models with vLLM, on GPUs or, without any, on the CPU; --help says how, docs/hosting.md says why.
# Usage: scripts/serve_models.sh BASE NUDGING [options] [-- options of vLLM]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[ ! -x "$root/.venv/bin/python" ] || python=$root/.venv/bin/python
exec "$python" "$root/scripts/serve_models.py" "$@"
