#!/usr/bin/env bash
# Finds the threshold of a pair on a sample of questions: a table, a plot, and the command for the whole run.
# Usage: scripts/find_threshold.sh --base_model BASE [--base_host URL] --nudging_model CHAT ... [--nudging_host URL ...] [options of run_api.py]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
install_requirements --keep requirements.txt
exec "$venv/bin/python" "$root/scripts/find_threshold.py" "$@"
