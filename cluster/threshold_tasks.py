"""The runs of a search for a threshold: which questions, which numbers, which models, and the command for the whole run."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.sweep_config import ConfigError, Task, settings_of
from command.paths import is_file, user_path
from command.secrets import hide
from datasets_loader import DATA_SETS
from decoding.criteria import CRITERIA
from experiment.model_settings import check_number
from experiment.settings import DEFAULT_DATA_SET, RunSettings

AUTO = "auto"
# Splits that a threshold may be chosen on, the likeliest first; the one that experiments are done on is left out.
DEV_SPLITS = ("validation", "dev", "train")
# Options of run_api.py that a search sets itself.
OURS = ("exp", "baseline_method", "threshold", "top_prob_thres", "shard")
# Further options that a single model is not given, with their values.
OF_NUDGING = ("--blend",)
# What the command for the whole run leaves out: the sample, and where it was answered.
OF_SAMPLE = ("--num_samples", "--split", "--output_dir")


def numbers_of(criterion: str, told: list[str]) -> list[float]:
    """The numbers that are tried, each once, in order.

    Raises:
        UserError: there are none, or one is no number of the criterion.
    """
    rule = CRITERIA[criterion]
    if rule.threshold is None:
        raise ConfigError(f"--criterion {criterion} has no number to look for")
    if told == [AUTO]:
        return list(rule.grid)
    try:
        numbers = sorted({float(word) for word in told})
    except ValueError:
        raise ConfigError(f"--thresholds are numbers, or {AUTO} alone; they are {' '.join(told)}") from None
    for number in numbers:
        check_number(criterion, number, "--thresholds")
    return numbers


def dev_split(name: str, split: str | None, data_dir: str | None) -> tuple[str | None, str]:
    """The split of a data set on which a threshold is looked for (None: its usual one), and what has to be said of it."""
    usual = DATA_SETS[name].splits[0]
    for other in DEV_SPLITS if split is None else ():
        there = other in DATA_SETS[name].splits[1:]
        if there and data_dir:
            folder = user_path(data_dir) / name
            there = any(is_file(folder / f"{other}{ending}") for ending in (".jsonl", ".jsonl.gz"))
        if there:
            return other, f"questions of the split {other} of {name}, while experiments ask those of {usual}"
    if split in (None, usual):
        none = "" if split else f" ({data_dir or 'it'} has no other)"
        return split, (
            f"warning: the threshold is looked for on the split {usual} of {name}, on which experiments are done{none}: report it "
            "as chosen on these questions, or choose it on others by --split or --questions"
        )
    return split, f"questions of the split {split} of {name}, while experiments ask those of {usual}"


def tasks_of(options: argparse.Namespace, more: list[str], say: Callable[[str], None]) -> list[Task]:
    """The runs of a search: the base model alone, and each nudging model alone and with each number.

    Raises:
        UserError: an option cannot be.
    """
    for word in more:
        name = word.split("=")[0].removeprefix("--")
        if word.startswith("--") and name in OURS:
            raise ConfigError(f"--{name} is the search's own; leave it out (--thresholds are the numbers to try)")
        if word == "--rerun":
            raise ConfigError("a search goes on from what is there; to start afresh, name another --output_dir")
    numbers = numbers_of(options.criterion, options.thresholds)
    common = ["--output_dir", options.output_dir, "--num_samples", str(options.num_samples), *_asked(options, say)]
    base = ["--base_model", options.base_model, *(["--base_host", options.base_host] if options.base_host else [])]
    alone = _without(more, OF_NUDGING)
    tasks = [_task(options.base_model, "base_only", [*base, *common, *alone])]
    for model, host in _with_hosts(options.nudging_model, options.nudging_host or []):
        nudging = ["--nudging_model", model, *(["--nudging_host", host] if host else [])]
        tasks.append(_task(model, "nudging_only", [*nudging, *common, *alone]))
        for number in numbers:
            how = ["--criterion", options.criterion, "--threshold", str(number)]
            if options.criterion == RunSettings.criterion:
                how = ["--top_prob_thres", str(number)]
            tasks.append(_task(model, "nudging", [*base, *nudging, *how, *common, *more]))
    by_files: dict[Path, Task] = {}
    for task in tasks:
        other = by_files.setdefault(task.files.json, task)
        if other is not task:
            raise ConfigError(
                f"{other.label} and {task.label} would have the same result files, as the models' names end alike; search with one "
                "at a time, in an --output_dir of its own"
            )
    return tasks


def _asked(options: argparse.Namespace, say: Callable[[str], None]) -> list[str]:
    """The options that say which questions are asked."""
    if options.questions:
        for option in ("dataset_name", "split", "data_dir"):
            if getattr(options, option):
                raise ConfigError(f"--{option} is of a data set, and --questions takes the place of one: leave one out")
        return ["--questions", options.questions]
    name = options.dataset_name or DEFAULT_DATA_SET
    split, told = dev_split(name, options.split, options.data_dir)
    say(told)
    asked = ["--dataset_name", name, *(["--split", split] if split else [])]
    return asked + (["--data_dir", options.data_dir] if options.data_dir else [])


def _with_hosts(models: list[str], hosts: list[str]) -> list[tuple[str, str]]:
    """Each nudging model once, with its host ("" for none)."""
    if len(hosts) not in (0, 1, len(models)):
        raise ConfigError(
            f"--nudging_host has {len(hosts)} entries and --nudging_model {len(models)}: one for each, or one for all"
        )
    all_hosts = hosts if len(hosts) == len(models) else (hosts or [""]) * len(models)
    return list(dict.fromkeys(zip(models, all_hosts, strict=True)))


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Words of a command line without some options and their values."""
    kept, skip = [], False
    for word in words:
        if word.startswith("--"):
            skip = word.split("=")[0] in options
        if not skip:
            kept.append(word)
    return kept


def _task(model: str, experiment: str, options: list[str]) -> Task:
    line = ("--exp", experiment, *options)
    return Task(model, experiment, line, settings_of("", line))


def full_command(task: Task) -> str:
    """The command that answers all questions of the split of experiments (or of the file) as a run of the search was answered."""
    return hide(shlex.join(["python", "run_api.py", *_without(task.options, OF_SAMPLE)]))
