"""The command line of measure_reward.py, and what of it can be checked before anything is read."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from command.errors import OptionError
from command.options import Parser
from command.paths import expanded, is_folder
from language_models.local.devices import ENGINE_CHOICES
from language_models.local.loading import DTYPES
from pad.answers import EXPERIMENTS
from pad.pairwise_judge import CRITERIA

FORMATS = ("native", "upstream", "args")
# What files may be called.
ENDINGS = {"table": (".csv", ".md"), "plot": (".svg", ".png")}

_DESCRIPTION = """\
Scores of answers by reward models (programs that give a text a number), diversity,
coherence, and win rates by a judge (a chat model that compares two answers).
"""

_EXAMPLES = """\
examples:
  python measure_reward.py --out_file results/mine_0.jsonl --baseline results/mine_baseline.jsonl \\
      --rm Ray2333/gpt2-large-helpful-reward_model
  several preferences, weights and reward models:
  python measure_reward.py --out_file results/mine_*.jsonl --baseline results/mine_baseline.jsonl \\
      --rm Ray2333/gpt2-large-harmless-reward_model RLHFlow/ArmoRM-Llama3-8B-v0.1=10 \\
      --table results/mine.csv --plot results/mine.svg
"""

_WITHOUT_OPTIONS = """\
measure_reward.py scores answers that collect_model_outs.py has written. To begin with:
  python measure_reward.py --out_file results/mine_0.jsonl --metrics
  python measure_reward.py --out_file results/mine_0.jsonl --rm Ray2333/gpt2-large-helpful-reward_model
  python measure_reward.py --help
"""


@dataclass(frozen=True)
class Wanted:
    """A reward model, and which of its outputs is the score, by number or name (None: its only one)."""

    model: str
    dimension: str | None = None

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return self.model if self.dimension is None else f"{self.model}={self.dimension}"


def wanted_scorers(options: argparse.Namespace) -> list[Wanted]:
    """The reward models of --rm, those of one model together, in order.

    Raises:
        OptionError: one stands there twice, or --dimension and --tokenizer are of one among several.
    """
    found = [_wanted(text) for text in options.rm or ()]
    if options.dimension is not None and found:
        if len(found) > 1 or found[0].dimension is not None:
            raise OptionError("--dimension is for a single --rm; behind one of several its output stands as MODEL=N")
        found = [Wanted(found[0].model, options.dimension)]
    if options.tokenizer and len({one.model for one in found}) > 1:
        raise OptionError("--tokenizer is for a single --rm; several take their own")
    for one in found:
        if found.count(one) > 1:
            raise OptionError(f"--rm names {one.label} twice")
    models = list(dict.fromkeys(one.model for one in found))
    return sorted(found, key=lambda one: models.index(one.model))


def _wanted(text: str) -> Wanted:
    model, mark, dimension = text.rpartition("=")
    if not mark or not model or not dimension or "/" in dimension or is_folder(text):
        return Wanted(text)
    return Wanted(model, dimension)


def build_parser(judge_options: Mapping[str, Mapping]) -> argparse.ArgumentParser:
    """The command line of measure_reward.py.

    Args:
        judge_options: how a judge is reached, which other commands have too: names of options and argparse's words for them.
    """
    parser = Parser(
        prog="measure_reward.py",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        without_options=_WITHOUT_OPTIONS,
    )
    rare = {"rare": True}
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--out_file",
        type=expanded,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="answers, one file or several: JSON array or lines; {} in a name stands for each number below",
    )
    group.add_argument("--start_index", type=int, default=0, metavar="N", help="the first number", **rare)
    group.add_argument("--end_index", type=int, default=0, metavar="N", help="the last number", **rare)
    group.add_argument(
        "--baseline", type=expanded, metavar="FILE", help="other answers to the same prompts, to compare with"
    )
    group.add_argument(
        "--experiment",
        choices=EXPERIMENTS,
        default="hhrlhf",
        help="where an invented next turn begins",
        **rare,
    )
    group.add_argument(
        "--field", metavar="NAME", help="the field of the answers (default: result, output or response)", **rare
    )
    group = parser.add_argument_group("reward model")
    group.add_argument(
        "--rm",
        "--rm_path",
        nargs="+",
        action="extend",
        metavar="MODEL[=N]",
        help="a reward model or several, folder or hub id: sequence classifiers, or ArmoRM; =N or =NAME takes one of its outputs",
    )
    group.add_argument("--dimension", metavar="N|NAME", help="which output of a single --rm, by number or name")
    group.add_argument("--tokenizer", metavar="MODEL", help="another tokenizer than that of a single --rm", **rare)
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="native",
        help="text and counting: native, as the model was trained; upstream, PAD's published program's; args, ARGS's",
    )
    group.add_argument(
        "--rm_gpu", default="cuda:0", metavar="DEVICE", help="where it runs; the CPU where that is not there"
    )
    group.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="of weights: bfloat16 on GPUs, float32 on CPUs", **rare
    )
    group.add_argument("--load_in_4bit", action="store_true", help="weights in 4 bits (needs bitsandbytes)", **rare)
    group.add_argument("--batch_size", type=int, default=8, metavar="N", help="answers scored together")
    group = parser.add_argument_group("diversity and coherence")
    group.add_argument("--metrics", action="store_true", help="repetition, diversity, length")
    group.add_argument("--embedder", metavar="MODEL", help="coherence by this sentence encoder", **rare)
    group = parser.add_argument_group("judge (compares with --baseline)")
    group.add_argument(
        "--judge_model", metavar="MODEL", help="a model of --judge_host, a GGUF file, a folder or hub id"
    )
    for name, how in judge_options.items():
        group.add_argument(f"--{name}", **how | rare)
    group.add_argument(
        "--engine",
        choices=ENGINE_CHOICES,
        default="auto",
        help="of a judge that this process loads (see run_api.py --help_all)",
        **rare,
    )
    group.add_argument("--judge_criterion", choices=CRITERIA, default="overall", help="what it judges")
    group.add_argument(
        "--judge_log",
        type=expanded,
        metavar="FILE",
        help="keeps its replies; what is in it is not asked again",
        **rare,
    )
    group.add_argument("--n", type=int, metavar="N", help="at most N prompts, drawn by --seed (default: all)", **rare)
    group.add_argument("--seed", type=int, default=0, help="by which they are drawn", **rare)
    group.add_argument("--num_threads", type=int, default=8, help="requests at a time", **rare)
    group.add_argument("--request_timeout", type=float, default=600.0, help="in seconds", **rare)
    group.add_argument("--max_retries", type=int, default=8, help="of a request that failed", **rare)
    group = parser.add_argument_group("results")
    group.add_argument("--save", type=expanded, metavar="FILE", help="all figures and scores as JSON")
    group.add_argument(
        "--table", type=expanded, metavar="FILE", help="one row for each file and reward model: .csv or .md"
    )
    group.add_argument(
        "--plot", type=expanded, metavar="FILE", help="reward against weight, a line for each preference: .svg or .png"
    )
    group.add_argument(
        "--npout",
        type=expanded,
        default="",
        metavar="FILE",
        help="scores as NumPy arrays, NaN for skipped rows: .npz, one for each file and reward model, or .npy",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise OptionError if the options cannot work."""
    if not options.out_file:
        raise OptionError("--out_file is needed: the answers to measure")
    if not (options.rm or options.metrics or options.embedder or options.judge_model):
        raise OptionError("nothing to measure: name a reward model by --rm, or --metrics, --embedder, --judge_model")
    if options.judge_model and not options.baseline:
        raise OptionError("--judge_model compares with --baseline, which is missing")
    for name in ("batch_size", "n"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise OptionError(f"--{name} must be at least 1; it is {getattr(options, name)}")
    wanted = wanted_scorers(options)
    for name in ("npout", "save", "table", "plot"):
        if path := getattr(options, name):
            if name != "save" and not wanted:
                raise OptionError(f"--{name} is for scores: name a reward model by --rm")
            _check_writable(f"--{name}", Path(path), ENDINGS.get(name))
    if options.end_index < options.start_index:
        raise OptionError(f"--end_index {options.end_index} is below --start_index {options.start_index}")


def _check_writable(option: str, path: Path, endings: tuple[str, ...] | None) -> None:
    if endings and path.suffix.lower() not in endings:
        raise OptionError(f"{option} {path}: its name ends in {' or '.join(endings)}")
    why = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"the folder {path.parent} cannot be made ({error.strerror})"
    if not why and path.is_dir():
        why = "it is a folder"
    elif not why and not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "there is no permission"
    if why:
        raise OptionError(f"{option} {path} cannot be written: {why}; name a file in a folder of one's own")
