"""The command line of run_api.py: its options, grouped, with an example per experiment, as RunSettings."""

import argparse

from command.console import Command
from command.errors import OptionError
from command.paths import read_text, user_path
from datasets_loader import DATA_SETS, INSTRUCTION_PROMPT
from experiment.judge_settings import JUDGE_OPTIONS, JUDGES
from experiment.model_options import TERMS, Options, PlainParser
from experiment.scoring import CHOICES
from experiment.settings import DEFAULT_DATA_SET, RunSettings

_DESCRIPTION = f"""\
Nudging experiments: a base model, a small aligned model, or both together
answer the questions of a data set, or your own; the answers are scored.

{TERMS}
A judge is a model that scores the answers that no rule can score. Settings that
you leave out are those of the published program."""
_EXAMPLES = """\
examples (BASE behind vLLM on port 8000, the small model CHAT on 8001):
  python run_api.py --exp nudging --top_prob_thres 0.4 --num_samples 100 \\
      --base_model BASE --base_host http://localhost:8000/v1 \\
      --nudging_model CHAT --nudging_host http://localhost:8001/v1
  python run_api.py --exp base_only --num_samples 100 \\
      --base_model BASE --base_host http://localhost:8000/v1
  python run_api.py --exp nudging --questions mine.csv --scoring choice \\
      --base_model demo-base --nudging_model demo-aligned
"""
_ALL_EXAMPLES = """\
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
_WITHOUT_OPTIONS = """\
run_api.py lets a base model, a small aligned model, or both together (nudging) answer questions. For example:
  without a server, the bundled pair (fetched once by: python scripts/get_demo_models.py):
    python run_api.py --exp nudging --base_model demo-base --nudging_model demo-aligned --top_prob_thres 0.4 \\
        --data_dir scripts/demo_data --dataset_name justeval --judge none --num_samples 5
  over two servers:
    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4 --num_samples 100
  the options:
    python run_api.py --help
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
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        more_epilog=_ALL_EXAMPLES,
        without_options=_WITHOUT_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = Options(parser, RunSettings)
    options.group("experiment")
    options.option(
        "exp",
        "who answers: base_only (the base model), nudging_only (the nudging model), nudging (both), baseline (see --help_all)",
        metavar="EXP",
    )
    options.option(
        "baseline_method",
        "how --exp baseline joins models: ensemble (the mean of two models' distributions) or proxy_tuning (the base model, moved "
        "by what alignment changed in a small one)",
        metavar="METHOD",
        rare=True,
    )
    _add_data(options)
    options.models()
    options.decoding()
    options.option("num_threads", "questions answered side by side", type=int, metavar="N")
    options.requests()
    options.group("scoring")
    options.option(
        "scoring",
        f"how answers to --questions are scored: {', '.join(CHOICES)}, or FILE.py:function (docs/research.md); "
        "data sets have their own",
        metavar="HOW",
    )
    options.option(
        "judge",
        "where a judge is needed: auto asks --judge_model; rule reads letter, yes or no, date or word without a model; none leaves "
        "the answers unscored",
        metavar="|".join(JUDGES),
    )
    for name, how in JUDGE_OPTIONS.items():
        options.option(name, **how)
    options.group("results")
    options.option("output_dir", "where results go: DIR/NAME/...", metavar="DIR")
    options.option("exp_prefix", "begins the names of the result files", metavar="PREFIX", rare=True)
    options.flag("rerun", "start afresh; existing results are moved aside", rare=True)
    options.flag("dry_run", "print the first prompts and what would run; send nothing")
    options.flag("print_intermediate_output", "print every round of nudging, on standard error", rare=True)
    return parser


def _add_data(options: Options) -> None:
    """The options of what is asked."""
    options.group("questions")
    options.option("dataset_name", f"{', '.join(DATA_SETS)} (default: {DEFAULT_DATA_SET})", metavar="NAME")
    options.option(
        "questions",
        "your own questions instead: a file .jsonl, .json, .csv, .tsv or .txt with question, prompt or messages in each row, and "
        "optionally answer, context and id (docs/research.md)",
        metavar="FILE",
    )
    options.option("num_samples", "how many questions (default: all)", "--num_sample", type=int, metavar="N")
    options.option(
        "answers",
        "how many answers to each question, drawn at a temperature above 0; the summary then says how different they are",
        type=int,
        metavar="N",
        rare=True,
    )
    options.option(
        "seed",
        "of what is drawn: the same one draws the same answers, of servers with --num_threads 1 (default: none)",
        type=int,
        metavar="S",
        rare=True,
    )
    options.option(
        "shard",
        "answer the i-th of n parts of the samples alone (samples i, i+n, i+2n, ...), for array jobs; "
        "scripts/merge_shards.py joins the parts",
        metavar="i/n",
        rare=True,
    )
    options.option(
        "split", "the data set's split (default: the one of the paper's experiments, mostly test)", rare=True
    )
    options.option(
        "data_dir", "read DIR/NAME/SPLIT.jsonl[.gz] in the hub's schema instead of the hub", metavar="DIR", rare=True
    )
    options.option(
        "system_prompt",
        "in the place of the data set's own; @FILE reads it from a file (default with --questions: "
        f'"{INSTRUCTION_PROMPT}")',
        metavar="TEXT|@FILE",
        type=text_or_file,
        rare=True,
    )
    options.option(
        "few_shot",
        "how many questions with their answers, of the data set's train split, stand before each question",
        type=int,
        metavar="N",
        rare=True,
    )
    options.option(
        "few_shot_file", "take them from a file of questions with answers instead", metavar="FILE", rare=True
    )


def parse_settings(argv: list[str] | None = None) -> RunSettings:
    """Settings from a command line (None: this process's); bad ones end the process with exit code 2 and a plain line."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    try:
        return RunSettings(**options | {"end_tokens": tuple(options["end_tokens"])})
    except OptionError as error:
        COMMAND.note(f"error: {error}")
        raise SystemExit(2) from None
