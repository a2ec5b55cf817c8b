# shellcheck shell=bash
# Sourced by pad_psoups.sh and pad_steers.sh: the PAD experiments of one data set, one after the other on one GPU.
# LLM, RM, OUT, PYTHON, BATCH and MORE (further options of collect_model_outs.py) can be set from outside.
LLM=${LLM:-princeton-nlp/Llama-3-Base-8B-SFT}
RM=${RM:-RuizheChen/PAD}
OUT=${OUT:-results}
PYTHON=${PYTHON:-python}
BATCH=${BATCH:-8}
HELPFUL=${HELPFUL:-Ray2333/gpt2-large-helpful-reward_model}
HARMLESS=${HARMLESS:-Ray2333/gpt2-large-harmless-reward_model}
HUMOR=${HUMOR:-mohameddhiab/humor-no-humor}
ARMORM=${ARMORM:-RLHFlow/ArmoRM-Llama3-8B-v0.1}
read -r -a more <<<"${MORE:-}"

# Name of the preset -> the preferences as the prompt has them.
declare -A PREFERENCES=(
    [harmless]="harmless"
    [helpfulness]="helpfulness"
    [humor]="humor"
    [harmlesshelpfulness]="harmless and helpfulness"
    [harmlesshumor]="harmless and humor"
    [helpfulnesshumor]="helpfulness and humor"
    [hhh]="harmless and helpfulness and humor"
)

collect() { # collect DATA_SET OUT_NAME CONFIG PREFERENCE_TEXT
    "$PYTHON" collect_model_outs.py --dataset "$1" --out_file "$OUT/$2" --config "configs/$3.config" --sys_prompt "$4" \
        --llm "$LLM" --rm "$RM" --llm_gpu cuda:0 --rm_gpu cuda:0 --batch_size "$BATCH" ${more[@]+"${more[@]}"} ||
        [ $? -eq 1 ] # prompts that do not fit were skipped; the others are answered
}

run_all() { # run_all DATA_SET: the base LM alone, then every combination of preferences; what is there already is kept
    local name
    collect "$1" "$1_vanilla" vanilla_decoding ""
    for name in harmless helpfulness humor harmlesshelpfulness harmlesshumor helpfulnesshumor hhh; do
        collect "$1" "$1_$name" "$1_llama3SFT_$name" \
            "[Guidelines] Your task is to generate response by considering the following principle. [Principles] ${PREFERENCES[$name]} [Instruction] "
    done
}

score_all() { # score_all DATA_SET: all outputs by the reward models of the paper, against the base LM alone, in one command
    local name files=()
    for name in harmless helpfulness humor harmlesshelpfulness harmlesshumor helpfulnesshumor hhh; do
        files+=("$OUT/$1_${name}_0.jsonl")
    done
    "$PYTHON" measure_reward.py --out_file "${files[@]}" --baseline "$OUT/$1_vanilla_0.jsonl" \
        --rm "$HELPFUL" "$HARMLESS" "$HUMOR" "$ARMORM=0" "$ARMORM=10" \
        --save "$OUT/scores/$1.json" --table "$OUT/scores/$1.md"
}
