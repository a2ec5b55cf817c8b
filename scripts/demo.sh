#!/usr/bin/env bash
# Nudging with small real models on this machine, from nothing: installs, fetches two models (350 MB), asks 48 short questions of
# the base model, the nudging model and both together, shows what came of it, and writes a report. Run again, it skips what is done.
# Usage: scripts/demo.sh [OUTPUT_FOLDER [QUESTIONS]]     QUESTIONS: how many, drawn from the 48
set -euo pipefail
. "$(dirname "$0")/venv.sh"
output=${1:-outputs/demo}
[ $# = 0 ] || [ "${output#/}" != "$output" ] || output=$PWD/$output
cd "$root"
questions=${2:-48}
results=$output/justeval
threshold=0.4 # chosen on 24 other questions: scripts/demo_data/justeval/dev.jsonl
started=$SECONDS
# llama.cpp's threads wait for one another by spinning, which on a machine that is busy otherwise takes several times as long.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

step() { # step WHAT COMMAND...: say what is done, do it, say how long it took
    local what=$1 began=$SECONDS
    shift
    echo "== $what"
    "$@" || fail "this step failed: $what. The lines above say why; the same command goes on from here."
    echo "   done in $((SECONDS - began)) s"
}

answer() { # answer OPTIONS...: one experiment; what its answers are like is counted at the end, by rules, without a judge
    "$venv/bin/python" run_api.py --data_dir scripts/demo_data --output_dir "$output" --dataset_name justeval --judge none \
        --num_samples "$questions" --max_token_total 64 --completion_token_num 8 --completion_token_num_nudging 8 --num_threads 4 "$@" >/dev/null
}

base=(--base_model demo-base)
nudging=(--nudging_model demo-aligned)
step "installing what the demo needs into .venv (llama.cpp, no torch)" install_requirements requirements-local.txt
step "fetching the models: gemma-3-270m (base) and SmolLM2-135M-Instruct (aligned), 350 MB" \
    "$venv/bin/python" scripts/get_demo_models.py demo-base demo-aligned
step "the base model alone, $questions questions" answer --exp base_only "${base[@]}"
step "the nudging model alone, $questions questions" answer --exp nudging_only "${nudging[@]}"
step "nudging at a threshold of $threshold, $questions questions" \
    answer --exp nudging "${base[@]}" "${nudging[@]}" --top_prob_thres "$threshold"
"$venv/bin/python" scripts/report.py "$results" -o "$output/report.html" --title "Demo of nudging: $questions short questions"
echo
"$venv/bin/python" scripts/demo_screen.py "$results"
echo
echo "demo finished in $((SECONDS - started)) s; every answer: open $output/report.html in a browser"
