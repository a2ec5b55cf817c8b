#!/usr/bin/env bash
# Runs the sweep behind the main table of the nudging paper and prints the table, the published figures beside ours.
# Usage: scripts/paper_table.sh [--dry_run | --slurm | --table_only] [--only llama-2|gemma-2|olmo] [--config FILE.toml]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
install_requirements --keep requirements.txt
exec "$venv/bin/python" "$root/scripts/paper_table.py" "$@"
