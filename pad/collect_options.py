"""The command line of collect_model_outs.py."""

import argparse
from dataclasses import fields

from command.options import Parser
from pad.preferences import PLACE
from pad.prompt_sets import PROMPT_SETS
from pad.settings import DEFAULT_TOPK, DEFAULT_WEIGHT, CollectSettings

_DESCRIPTION = """\
Reward-guided generation: a reward model chooses among the base LM's most probable
next tokens, by logit + weight x reward. PAD's reward is a language model that was
tuned for preferences (implicit), ARGS's a classifier of texts (scalar).
"""

_EXAMPLES = """\
examples:
  an answer to your own preference, by the bundled models:
    python collect_model_outs.py --llm demo-aligned --rm demo-aligned --ref self \\
        --principles "brief, cheerful" --frame "Answer in a {principles} way. " --prompt "How do I learn to swim?"
  PAD, several preferences and weights, and the base LM alone:
    python collect_model_outs.py --llm princeton-nlp/Llama-3-Base-8B-SFT --rm RuizheChen/PAD \\
        --dataset mine.jsonl --principles_file preferences.txt --rm_weight 0.4 0.8 1.2 --out_file results/mine
  ARGS, with a sequence classifier as reward model:
    python collect_model_outs.py --config configs/args_greedy.config --out_file results/hh_args \\
        --llm models/llama-7b-sft --rm models/llama-7b-rm --dataset Dahoas/full-hh-rlhf --run_percent 25
"""

_WITHOUT_OPTIONS = """\
collect_model_outs.py answers prompts with a base LM that a reward model guides. To begin with:
  python collect_model_outs.py --llm demo-aligned --rm demo-aligned --ref self \\
      --principles "brief, cheerful" --frame "Answer in a {principles} way. " --prompt "How do I learn to swim?"
  (the bundled model needs: python scripts/get_demo_models.py --transformers)
  python collect_model_outs.py --help
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of collect_model_outs.py; the defaults are CollectSettings' own."""
    parser = Parser(
        prog="collect_model_outs.py",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        without_options=_WITHOUT_OPTIONS,
    )
    defaults = {field.name: field.default for field in fields(CollectSettings)}

    def option(name: str, help: str, **how) -> None:
        shown = "" if defaults[name] in (None, "") else " (default: %(default)s)"
        group.add_argument(f"--{name}", default=defaults[name], help=help + shown, **how)

    def flag(name: str, help: str, **how) -> None:
        group.add_argument(f"--{name}", action="store_true", help=help, **how)

    rare = {"rare": True}
    group = parser.add_argument_group("models (folders, hub ids, or bundled names such as demo-aligned)")
    option("llm", "the base LM, whose tokens are chosen among", metavar="MODEL")
    option("rm", "the reward model; not needed where every weight is 0", metavar="MODEL")
    option(
        "ref",
        "what an implicit reward is relative to: llm (the base LM, published), self (the reward model without the preference), "
        "none, or a MODEL",
        metavar="REF",
    )
    option(
        "dimension",
        "which output of a classifier with several is the reward: number or label",
        metavar="N|NAME",
        **rare,
    )
    option(
        "rm_type",
        "implicit (PAD, a causal LM), scalar (ARGS, a sequence classifier), or auto by the model's kind",
        **rare,
    )
    option("PAD", "a label that is kept with the results; says that the reward is implicit", metavar="LABEL", **rare)
    option("tokenizer", "another tokenizer than the base LM's own", metavar="MODEL", **rare)
    flag("allow_cross_tokenizer", "let an implicit reward model have another tokenizer than the base LM (slow)", **rare)
    group = parser.add_argument_group("prompts")
    option("prompt", "a prompt, answered on the screen; may be repeated", action="append", metavar="TEXT")
    option("dataset", ", ".join(PROMPT_SETS) + ", or a .json, .jsonl, .csv, .tsv or .txt file", metavar="NAME|FILE")
    option("prompt_field", "of a file's rows, which holds the prompt", metavar="NAME")
    option("limit", "at most N prompts", type=int, metavar="N", **rare)
    option("run_percent", "the first P per cent of the prompts", type=float, metavar="P", **rare)
    option("split", "the data set's split (default: its own)", **rare)
    option("data_dir", "read DIR/NAME/SPLIT.jsonl[.gz] in the hub's schema instead of the hub", metavar="DIR", **rare)
    option("chat_template", "on, off, or auto: on for implicit rewards where the tokenizer has one", **rare)
    group = parser.add_argument_group("preference (rows may have their own: sys_prompt, principles, messages)")
    option("principles", 'what answers should be, such as "polite, brief"', metavar="TEXT")
    option("principles_file", "several preferences, one in each line: polite, brief", metavar="FILE")
    option("sys_prompt", "a preference as a whole text, put before each prompt as it is", metavar="TEXT")
    option("frame", f"the text around the principles, with {PLACE} in it, instead of PAD's", metavar="TEXT", **rare)
    option("preference_as", "prompt: before the user's words; system: the system turn of the chat template", **rare)
    option(
        "baseline",
        "also the base LM without any preference: on, off, or auto: with several preferences or a list of weights",
    )
    group = parser.add_argument_group("decoding")
    option(
        "rm_weight",
        f"weights of the reward, instead of --config (default: {DEFAULT_WEIGHT})",
        type=float,
        nargs="+",
        action="extend",
        metavar="W",
    )
    option(
        "topk",
        f"candidates for each token, instead of --config (default: {DEFAULT_TOPK})",
        type=int,
        metavar="K",
    )
    option("config", "configurations, one JSON object per line; its rm_weight may be a list", metavar="FILE")
    option("answers", "to each prompt, of configurations that draw", type=int, metavar="N")
    option("max_new_token", "the most tokens of an answer", type=int, metavar="N")
    option(
        "stop", "a text that ends an answer, and is not part of it; may be repeated", action="append", metavar="TEXT"
    )
    option("seed", "of sampling", type=int, metavar="N")
    option("batch_size", "prompts answered together", type=int, metavar="N")
    flag("ignore_eos", "go on after the end of an answer, as the published programs do", **rare)
    group = parser.add_argument_group("machine")
    option("llm_gpu", "the base LM's device: cuda:0, mps, cpu, auto", metavar="DEVICE")
    option("rm_gpu", "the reward model's; a GPU that is not there gives way to cuda:0, then the CPU", metavar="DEVICE")
    option("device_map", "auto spreads the base LM over all GPUs", metavar="none|auto", **rare)
    option("dtype", "of weights: auto, float32, float16, bfloat16; auto is bfloat16 on GPUs, float32 on CPUs", **rare)
    flag("load_in_4bit", "weights in 4 bits (needs bitsandbytes)", **rare)
    option(
        "engine",
        "how passes are computed: graphs (replayed from CUDA graphs), packed, transformers (its own passes and cache), or "
        "auto: graphs on CUDA devices, transformers elsewhere and where a model cannot be run otherwise",
        **rare,
    )
    group = parser.add_argument_group("results")
    option(
        "out_file",
        "PREFIX of the files PREFIX_0.jsonl, PREFIX_1.jsonl, ..., one per preference, configuration and weight, and "
        "PREFIX_baseline.jsonl",
        metavar="PREFIX",
    )
    flag("recover", "go on with the files that are there (the default)", **rare)
    flag("overwrite", "start afresh; existing files are moved aside")
    return parser
