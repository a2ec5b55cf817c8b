#!/usr/bin/env bash
# The PAD paper's experiments on psoups: generates with every preset and scores against the base LM. A second run goes on.
#   scripts/pad_psoups.sh            all of it;  scripts/pad_psoups.sh collect, or score: one half
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/pad_commands.sh

case ${1:-all} in
    collect) run_all psoups ;;
    score) score_all psoups ;;
    all)
        run_all psoups
        score_all psoups
        ;;
    *) echo "usage: $0 [collect|score]" >&2 && exit 2 ;;
esac
