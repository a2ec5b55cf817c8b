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
