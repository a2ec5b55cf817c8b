#!/usr/bin/env bash
# Sets up .venv and runs all checks and tests. --quick: the offline unit tests alone, in seconds.
# Further arguments go to pytest: scripts/test.sh --quick -k nudging
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

selection=()
if [ "${1:-}" = --quick ]; then
    shift
    selection=(-m "not slow")
fi
install_requirements requirements-dev.txt
if [ ${#selection[@]} = 0 ] && ! command -v chromedriver >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing chromium for the tests of the report ..."
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium chromium-driver; } \
            >/dev/null || echo "chromium cannot be installed; the report is tested without a browser"
    else
        echo "no chromium and no root to install it: the report is tested without a browser"
    fi
fi
if [ ${#selection[@]} = 0 ] && ! command -v slurmctld >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing Slurm for the tests of sweeps on a cluster ..."
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends slurm-wlm munge; } \
            >/dev/null || echo "Slurm cannot be installed; sweeps are not tested on a cluster"
    else
        echo "no Slurm and no root to install it: sweeps are not tested on a cluster"
    fi
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n 2 --dist worksteal ${selection[@]+"${selection[@]}"} "$@"
