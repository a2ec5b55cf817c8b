#!/usr/bin/env bash
# Nudging with small real models on this machine, from nothing: installs, fetches two models (350 MB), asks 24 short questions of
# the base model, the nudging model and both together, tries one baseline, and writes a report. Run again, it skips what is done.
# Usage: scripts/demo.sh [OUTPUT_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh
output=${1:-outputs/demo}
started=$SECONDS

step() { # step WHAT COMMAND...: say what is done, do it, say how long it took
    local what=$1 began=$SECONDS
    shift
    echo "== $what"
    "$@" || fail "this step failed: $what. The lines above say why; the same command goes on from here."
    echo "   done in $((SECONDS - began)) s"
}

answer() { # answer OPTIONS...: one experiment; the summaries come together at the end
    .venv/bin/python run_api.py --data_dir scripts/demo_data --output_dir "$output" --dataset_name gsm8k \
        --max_token_total 64 --completion_token_num 8 --completion_token_num_nudging 8 --num_threads 4 "$@" >/dev/null
}

base=(--base_model demo-base)
nudging=(--nudging_model demo-aligned)
step "installing what the demo needs into .venv (llama.cpp, no torch)" install_requirements requirements-local.txt
step "fetching the models: gemma-3-270m (base) and SmolLM2-135M-Instruct (aligned)" \
    .venv/bin/python scripts/get_demo_models.py demo-base demo-aligned
step "the base model alone, 24 questions" answer --exp base_only "${base[@]}"
step "the nudging model alone, 24 questions" answer --exp nudging_only "${nudging[@]}"
step "nudging at a threshold of 0.4, 24 questions" answer --exp nudging "${base[@]}" "${nudging[@]}" --top_prob_thres 0.4
step "a baseline, the average ensemble, 4 questions" \
    answer --exp baseline --baseline_method ensemble --num_samples 4 "${base[@]}" --proxy_chat_model demo-aligned
echo
.venv/bin/python scripts/results_table.py "$output"
echo
.venv/bin/python scripts/report.py "$output" -o "$output/report.html"
echo "demo finished in $((SECONDS - started)) s; open $output/report.html in a browser"
