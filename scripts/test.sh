#!/usr/bin/env bash
# Sets up .venv and runs all checks and tests; further arguments go to pytest (scripts/test.sh -k nudging).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

install_requirements requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
