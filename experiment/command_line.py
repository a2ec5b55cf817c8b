"""The command line of run_api.py: its options, grouped, with an example per experiment, as RunSettings."""

import argparse

from command.console import Command
from command.errors import OptionError
from command.paths import read_text, user_path
from datasets_loader import DATA_SETS, INSTRUCTION_PROMPT
from experiment.judge_settings import JUDGE_OPTIONS, JUDGES
from experiment.model_options import Options, PlainParser
from experiment.scoring import CHOICES
from experiment.settings import BASELINE_METHODS, DEFAULT_DATA_SET, EXPERIMENTS, RunSettings

_EXAMPLES = """\
examples (a model served by vLLM on port 8000, the small one on 8001):
  the base model alone:
    python run_api.py --exp base_only --base_model BASE --base_host http://localhost:8000/v1 --num_samples 100
  the nudging model alone:
    python run_api.py --exp nudging_only --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100
  nudging:
    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4 --num_samples 100
  average ensemble:
    python run_api.py --exp baseline --baseline_method ensemble --base_model BASE --base_host http://localhost:8000/v1 \\
        --proxy_chat_model CHAT --proxy_chat_host http://localhost:8001/v1 --num_samples 100
  proxy tuning:
    python run_api.py --exp baseline --baseline_method proxy_tuning --base_model BASE --base_host http://localhost:8000/v1 \\
        --proxy_chat_model CHAT --proxy_chat_host http://localhost:8001/v1 \\
        --proxy_base_model SMALL --proxy_base_host http://localhost:8002/v1 --num_samples 100
"""

COMMAND = Command("run_api.py")


def text_or_file(told: str) -> str:
    """An option's text: itself, or after @ that of a file, without the line's end at its end."""
    if not told.startswith("@"):
        return told
    try:
        return read_text(user_path(told[1:])).removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{told[1:]} cannot be read ({error})") from None


def build_parser() -> argparse.ArgumentParser:
    """The command line of run_api.py; the defaults are RunSettings' own."""
    parser = PlainParser(
        prog=COMMAND.name,
        description="Nudging experiments: a base model, a small aligned model, or both together answer a data set.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = Options(parser, RunSettings)
    options.group("experiment")
    options.option("exp", ", ".join(EXPERIMENTS), metavar="EXP")
    options.option("baseline_method", "the baseline: " + " or ".join(BASELINE_METHODS), metavar="METHOD")
    options.group("data")
    options.option("dataset_name", f"{', '.join(DATA_SETS)} (default: {DEFAULT_DATA_SET})", metavar="NAME")
    options.option(
        "questions",
        "questions of your own in the place of a data set: a file .jsonl, .json, .csv, .tsv or .txt with question, prompt or "
        "messages in each row, and optionally answer, context and id (docs/research.md)",
        metavar="FILE",
    )
    options.option("num_samples", "how many questions (default: all)", "--num_sample", type=int, metavar="N")
    options.option(
        "answers",
        "how many answers to each question, drawn at a temperature above 0; the summary then says how different they are",
        type=int,
        metavar="N",
    )
    options.option(
        "seed", "of what is drawn: the same one draws the same answers (default: none)", type=int, metavar="S"
    )
    options.option(
        "shard",
        "answer the i-th of n parts of the samples alone (samples i, i+n, i+2n, ...), for array jobs; "
        "scripts/merge_shards.py joins the parts",
        metavar="i/n",
    )
    options.option("split", "the data set's split (default: the one of the paper's experiments, mostly test)")
    options.option("data_dir", "read DIR/NAME/SPLIT.jsonl[.gz] in the hub's schema instead of the hub", metavar="DIR")
    options.option(
        "system_prompt",
        "in the place of the data set's own; @FILE reads it from a file (default with --questions: "
        f'"{INSTRUCTION_PROMPT}")',
        metavar="TEXT|@FILE",
        type=text_or_file,
    )
    options.option(
        "few_shot",
        "how many questions with their answers, of the data set's train split, stand before each question",
        type=int,
        metavar="N",
    )
    options.option("few_shot_file", "take them from a file of questions with answers instead", metavar="FILE")
    options.models()
    options.decoding()
    options.requests()
    options.option("num_threads", "questions answered side by side", type=int, metavar="N")
    options.group("scoring")
    options.option(
        "scoring",
        f"of --questions: {', '.join(CHOICES)}, or FILE.py:function, which is called with each record (docs/research.md); the data "
        "sets have their own",
        metavar="HOW",
    )
    options.group("scoring of the judged data sets, and of --scoring judge")
    options.option(
        "judge",
        "auto; rule, which reads letter, yes or no, date or word by rules of our own, without a model (docs/research.md); or none, "
        "which leaves the answers unscored",
        metavar="|".join(JUDGES),
    )
    for name, how in JUDGE_OPTIONS.items():
        options.option(name, **how)
    options.group("results")
    options.option("output_dir", "where results go: DIR/NAME/...", metavar="DIR")
    options.option("exp_prefix", "put into the names of the result files", metavar="PREFIX")
    options.flag("rerun", "start afresh; existing results are moved aside")
    options.flag("dry_run", "print the first prompts and what would run; send nothing")
    options.flag("print_intermediate_output", "print every round of nudging, on standard error")
    return parser


def parse_settings(argv: list[str] | None = None) -> RunSettings:
    """Settings from a command line (None: this process's); bad ones end the process with exit code 2 and a plain line."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    try:
        return RunSettings(**options | {"end_tokens": tuple(options["end_tokens"])})
    except OptionError as error:
        COMMAND.note(f"error: {error}")
        raise SystemExit(2) from None
