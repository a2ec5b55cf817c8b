#!/usr/bin/env bash
# Why nudging works, for answers of one's own: where a base and an aligned model disagree, and what is nudged; tables, plots, a page.
# Usage: scripts/analyse.sh RESULT.json ... [--base_model BASE [--base_host URL] --nudging_model CHAT [--nudging_host URL]] [--dry_run]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
install_requirements --keep requirements.txt
exec "$venv/bin/python" "$root/scripts/analyse.py" "$@"
