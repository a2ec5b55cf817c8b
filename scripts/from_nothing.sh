#!/usr/bin/env bash
# Tries the README's two set-up commands, scripts/demo.sh and scripts/test.sh, as somebody would who has never seen this machine:
# a fresh clone of the last commit, an empty home, no caches, no variables but PATH and the terminal's, and pip's private settings
# left aside. Prints what was left out and how long each step took; its status is 1 if a command failed.
# Usage: scripts/from_nothing.sh [FOLDER] [-- options of scripts/test.sh]
set -euo pipefail
. "$(dirname "$0")/venv.sh"
work=""
if [ $# != 0 ] && [ "$1" != -- ]; then
    work=$1
    shift
fi
[ "${1:-}" != -- ] || shift
[ -n "$work" ] || work=$(mktemp -d)
[ ! -e "$work/clone" ] || fail "$work/clone is there already; name an empty folder"
mkdir -p "$work/home" "$work/tmp"
work=$(cd "$work" && pwd)

# Certificates and a proxy are the network's, not the user's; PIP_CERT tells older pips what the others are told.
kept=(PATH="$PATH" HOME="$work/home" TMPDIR="$work/tmp" TERM="${TERM:-dumb}" LANG="${LANG:-C.UTF-8}" PIP_CONFIG_FILE=/dev/null)
for name in SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS http_proxy https_proxy no_proxy HTTPS_PROXY NO_PROXY PYTHON; do
    [ -z "${!name:-}" ] || kept+=("$name=${!name}")
done
[ -z "${SSL_CERT_FILE:-}" ] || kept+=(PIP_CERT="$SSL_CERT_FILE")
say() { printf '%s\n' "$*"; }

say "== left out of this try"
settings=$(python3 -m pip config list 2>/dev/null | sed -E 's#://[^/@]*@#://***@#; s/^/   pip: /' || true)
say "${settings:-   pip: it has no settings here}"
for variable in $(compgen -e | grep -E '^(PIP|UV|HF|NUDGING|VLLM|OPENAI|TORCH|VIRTUAL_ENV|CONDA|PYTHONPATH|XDG)' || true); do
    say "   the variable $variable"
done
for cache in "$HOME/.cache/pip" "$HOME/.cache/uv" "$HOME/.cache/nudging"; do
    [ ! -e "$cache" ] || say "   the cache ${cache/#$HOME/\~}"
done
say "   what stays: the packages of this system, the certificates and proxies of this network"

status=0
try() { # try NAME COMMAND...
    local name=$1 began=$SECONDS code=0
    shift
    say "== $name"
    (cd "$work/clone" && env -i "${kept[@]}" "$@") </dev/null || code=$?
    steps+=("$name: exit code $code after $((SECONDS - began)) s")
    [ "$code" = 0 ] || status=1
}
steps=()
git clone --quiet "$root" "$work/clone"
try "./scripts/demo.sh" ./scripts/demo.sh
try "./scripts/test.sh $*" ./scripts/test.sh "$@"
say "== $(git -C "$root" log -1 --format='commit %h'), $(uname -sm), $(nproc) processors; in $work: $(du -sh "$work" | cut -f1)"
printf '   %s\n' "${steps[@]}"
say "   $work can be deleted now"
exit "$status"
