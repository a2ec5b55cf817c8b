#!/usr/bin/env bash
# Runs a sweep from a config file, here or on a Slurm cluster, and makes one table of its results; run again, it goes on.
# Usage: scripts/sweep.sh CONFIG.toml [--dry_run | --slurm | --table_only] [--only PAIR]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
install_requirements --keep requirements.txt
exec "$venv/bin/python" "$root/scripts/sweep.py" "$@"
