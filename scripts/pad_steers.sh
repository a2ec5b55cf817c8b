#!/usr/bin/env bash
# The PAD paper's experiments on steers: generates with every preset and scores against the base LM. A second run goes on.
#   scripts/pad_steers.sh            all of it;  scripts/pad_steers.sh collect, or score: one half
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/pad_commands.sh

case ${1:-all} in
    collect) run_all steers ;;
    score) score_all steers ;;
    all)
        run_all steers
        score_all steers
        ;;
    *) echo "usage: $0 [collect|score]" >&2 && exit 2 ;;
esac
