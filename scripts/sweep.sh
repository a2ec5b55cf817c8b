#!/usr/bin/env bash
# Runs a sweep from a config file, here or on a Slurm cluster, and makes one table of its results; run again, it goes on.
# Usage: scripts/sweep.sh CONFIG.toml [--dry_run | --slurm | --table_only] [--only PAIR]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ ! -x "$root/.venv/bin/python" ]; then
    (cd "$root" && . scripts/venv.sh && install_requirements requirements.txt)
fi
exec "$root/.venv/bin/python" "$root/scripts/sweep.py" "$@"
