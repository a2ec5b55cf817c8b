"""Finds the threshold of a pair: a sample of questions is answered once with each, by the base model and the nudging model alone.

    scripts/find_threshold.sh --dataset_name gsm8k --base_model BASE --base_host URL --nudging_model CHAT --nudging_host URL

Each run is one of run_api.py, which goes on where it was interrupted; the table compares them question by question.
"""

import argparse
import shlex
from pathlib import Path

from cluster import threshold_table
from cluster.sweep import STOPPED, list_tasks, run_all
from cluster.sweep_config import ConfigError, Sweep, Task, settings_of
from cluster.sweep_tables import SlurmTable
from command.console import Command, visible
from command.options import Parser
from command.paths import is_file, user_path
from datasets_loader import DATA_SETS
from decoding.criteria import CRITERIA
from experiment.settings import DEFAULT_DATA_SET, RunSettings
from reporting.run_table import Run, find_runs
from reporting.threshold_plot import save_plot

COMMAND = Command("find_threshold.sh")
DEV_SAMPLES = 100
AUTO = "auto"
# Splits that a threshold may be chosen on, the likeliest first: not those that experiments are done on.
DEV_SPLITS = ("validation", "dev", "train")
# Options that the search sets itself.
OURS = ("exp", "baseline_method", "threshold", "top_prob_thres", "criterion", "shard", "rerun", "dry_run", "output_dir")
OF_NUDGING = ("blend", "seed")


def build_parser() -> argparse.ArgumentParser:
    """The command line of find_threshold.sh."""
    parser = Parser(
        prog=COMMAND.name,
        description="Find the threshold of a pair on a sample of questions. All further options are run_api.py's, such as "
        "--dataset_name, --questions, --scoring, --judge, --base_host, --max_token_total, --num_threads.",
    )
    option = parser.add_argument
    option("--base_model", required=True, metavar="MODEL", help="the large base model")
    option("--nudging_model", required=True, nargs="+", metavar="MODEL", help="one small aligned model, or several")
    option("--nudging_host", nargs="+", default=[], metavar="URL[,URL]", help="their hosts, in the same order")
    option("--criterion", default=RunSettings.criterion, choices=CRITERIA, help="(default: %(default)s)")
    option(
        "--thresholds",
        nargs="+",
        default=[AUTO],
        metavar="X",
        help="the numbers to try, or auto: those that the criterion's entry in the table of criteria names (default: auto)",
    )
    option("--dataset_name", choices=DATA_SETS, metavar="NAME", help=f"(default: {DEFAULT_DATA_SET})")
    option("--questions", metavar="FILE", help="a file of questions in the place of a data set")
    option(
        "--split",
        help="(default: the data set's validation or train split where it has one besides that of experiments)",
    )
    option("--data_dir", metavar="DIR", help="as for run_api.py")
    option(
        "--num_samples", type=int, default=DEV_SAMPLES, metavar="N", help="how many questions (default: %(default)s)"
    )
    option("--output_dir", default="outputs/find_threshold", metavar="DIR", help="(default: %(default)s)")
    option("--dry_run", action="store_true", help="list the runs and what has become of each; start nothing")
    option("--table_only", action="store_true", help="make the table of what is there; run nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search for a threshold.

    Returns the exit code: 0, 1 (runs failed), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    parser = build_parser()
    options, more = parser.parse_known_args(argv)

    def work() -> int:
        tasks = tasks_of(options, more)
        sweep = Sweep(Path(options.output_dir), user_path(options.output_dir), tasks, SlurmTable())
        if options.dry_run:
            return list_tasks(sweep)
        code = 0 if options.table_only else run_all(sweep)
        if code in STOPPED.values():
            return code
        return report(tasks, sweep.output_dir, options) or code

    return COMMAND.run(work, errors=(OSError,), interrupted="interrupted; the same command continues")


def numbers_of(criterion: str, told: list[str]) -> list[float]:
    """The numbers that are tried.

    Raises:
        ConfigError: there are none, or one is no number of the criterion.
    """
    rule = CRITERIA[criterion]
    if rule.threshold is None:
        raise ConfigError(f"--criterion {criterion} has no number to look for")
    if told == [AUTO]:
        return list(rule.grid)
    try:
        numbers = sorted({float(word) for word in told})
    except ValueError:
        raise ConfigError(f"--thresholds are numbers, or {AUTO}; they are {' '.join(told)}") from None
    for number in numbers:
        if not rule.lowest <= number <= rule.highest:
            raise ConfigError(
                f"--thresholds of {criterion} are {rule.quantity}, {rule.lowest:g} to {rule.highest:.4g}; one is {number:g}"
            )
    return numbers


def dev_split(options: argparse.Namespace) -> tuple[str | None, str]:
    """The split of a data set on which a threshold is looked for, None for its usual one; and what has to be said of it."""
    name = options.dataset_name or DEFAULT_DATA_SET
    usual = DATA_SETS[name].splits[0]
    for split in DEV_SPLITS if options.split is None else ():
        there = split in DATA_SETS[name].splits[1:]
        if there and options.data_dir:
            folder = user_path(options.data_dir) / name
            there = any(is_file(folder / f"{split}{ending}") for ending in (".jsonl", ".jsonl.gz"))
        if there:
            return split, f"questions of the split {split} of {name}, which its experiments do not ask"
    if options.split in (None, usual):
        return options.split, (
            f"warning: the threshold is looked for on the split {usual} of {name}, which its experiments ask: choose it on other "
            "questions, or report it as chosen on these"
        )
    return options.split, f"questions of the split {options.split} of {name}"


def tasks_of(options: argparse.Namespace, more: list[str]) -> list[Task]:
    """The runs of a search: the base model alone, and each nudging model alone and with each number.

    Raises:
        ConfigError: an option cannot be.
    """
    if wrong := next((word for word in more for name in OURS if word.split("=")[0] == f"--{name}"), None):
        raise ConfigError(f"{wrong} is the search's own; leave it out (the numbers to try are --thresholds)")
    if options.nudging_host and len(options.nudging_host) != len(options.nudging_model):
        raise ConfigError(
            f"--nudging_host has {len(options.nudging_host)} entries and --nudging_model {len(options.nudging_model)}: one for each"
        )
    common = ["--output_dir", options.output_dir, "--num_samples", str(options.num_samples)]
    if options.questions:
        common += ["--questions", options.questions]
        for option in ("dataset_name", "split", "data_dir"):
            if getattr(options, option):
                raise ConfigError(f"--{option} is of a data set, and --questions takes the place of one: leave one out")
    else:
        split, told = dev_split(options)
        COMMAND.note(told)
        common += ["--dataset_name", options.dataset_name or DEFAULT_DATA_SET]
        common += ["--split", split] if split else []
        common += ["--data_dir", options.data_dir] if options.data_dir else []
    alone, of_pair = _parted(more)
    base = ["--base_model", options.base_model]
    tasks = [_task("base alone", "base_only", [*base, *common, *alone])]
    hosts = options.nudging_host or [None] * len(options.nudging_model)
    for model, host in zip(options.nudging_model, hosts, strict=True):
        nudging = ["--nudging_model", model, *(["--nudging_host", host] if host else [])]
        tasks.append(_task(model, "nudging_only", [*nudging, *common, *alone]))
        for number in numbers_of(options.criterion, options.thresholds):
            how = ["--top_prob_thres", str(number)]
            if options.criterion != RunSettings.criterion:
                how = ["--criterion", options.criterion, "--threshold", str(number)]
            tasks.append(_task(model, "nudging", [*base, *nudging, *how, *common, *of_pair]))
    return tasks


def _parted(more: list[str]) -> tuple[list[str], list[str]]:
    """Further options as they are given to one model alone, and to a pair."""
    alone, skip = [], False
    for word in more:
        if word.startswith("--"):
            skip = word.split("=")[0].removeprefix("--") in OF_NUDGING[:1]
        if not skip:
            alone.append(word)
    return alone, more


def _task(pair: str, experiment: str, options: list[str]) -> Task:
    line = ("--exp", experiment, *options)
    return Task(pair, experiment, line, settings_of(COMMAND.name, line))


def report(tasks: list[Task], folder: Path, options: argparse.Namespace) -> int:
    """Print and write the table, the plot and the command for the whole run; returns 1 if a run is not there, else 0.

    Raises:
        ResultsError: no run is there.
    """
    there = [path for task in tasks for path in (task.files.json, task.files.jsonl) if path.exists()]
    found_runs = {
        run.path.with_suffix(""): run for run in find_runs(there, lambda told: COMMAND.note(f"left out: {told}"))
    }
    runs = {task: found_runs.get(task.files.json.with_suffix("")) for task in tasks}
    for task, run in runs.items():
        if run is None:
            COMMAND.note(f"not there: {task.label}")
    nudged = [run for task, run in runs.items() if task.experiment == "nudging" and run]
    base = next((run for task, run in runs.items() if task.experiment == "base_only"), None)
    alone = {run.models[-1]: run for task, run in runs.items() if task.experiment == "nudging_only" and run}
    found = threshold_table.findings(nudged, base, alone)
    name = f"{tasks[0].settings.dataset_name}_{options.criterion}"
    text = threshold_table.readable(found)
    print(visible(f"\n{caption(found, tasks[0].settings)}\n\n{text}\n"))
    for line in threshold_table.verdict(found):
        print(visible(line))
    threshold_table.table_of(found).to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(f"{caption(found, tasks[0].settings)}\n\n{text}\n", encoding="utf-8")
    written = [f"{name}.csv", f"{name}.md"]
    if nudged:
        written += [path.name for path in plot(found, folder / name, caption(found, tasks[0].settings))]
    if found.best is not None:
        (best,) = (task for task, run in runs.items() if run is found.best.run)
        command = full_command(best, options)
        (folder / f"{name}.sh").write_text(f"{command}\n", encoding="utf-8")
        written.append(f"{name}.sh")
        print(visible(f"\nthe whole run with the best:\n  {command}"))
    print(visible(f"\nwritten to {folder}: {', '.join(written)}"))
    return 1 if None in runs.values() else 0


def plot(found: threshold_table.Found, path: Path, title: str) -> list[Path]:
    """Draw accuracy and intervention rate over the thresholds, one column of plots per nudging model; the files."""
    groups: dict[tuple, list[Run]] = {}
    for row in found.rows:
        groups.setdefault(row.run.models, []).append(row.run)
    alone = [
        {"base_only": found.alone.get("base model"), "nudging_only": found.alone.get(f"nudging model {models[-1]}")}
        for models in groups
    ]
    best = found.best and found.best.run
    return save_plot(path, title, list(groups.values()), alone, best, {id(row.run) for row in found.equal})


def caption(found: threshold_table.Found, settings: RunSettings) -> str:
    """What all figures are of: questions, pair, criterion, intervals, engine."""
    rule = CRITERIA[settings.criterion]
    runs = [row.run for row in found.rows]
    first = runs[0] if runs else None
    criterion = first.told.criterion if first else settings.criterion
    rule = CRITERIA[criterion]
    n = max((run.figures["samples"] for run in runs), default=0)
    split = f" ({settings.used_split})" if settings.used_split else ""
    pairs = "; ".join(dict.fromkeys(" + ".join(run.models) for run in runs))
    blend = f", blend {first.told.blend}" if first and first.told.blend else ""
    engine = "; ".join(dict.fromkeys(run.engine for run in runs if run.engine))
    return (
        f"{settings.dataset_name}{split}, {n} questions: {pairs}. Criterion {criterion} ({rule.quantity}){blend}, 95 % intervals"
        + (f", {engine}" if engine else "")
    )


def full_command(task: Task, options: argparse.Namespace) -> str:
    """The command that answers all questions of the experiment's own split with a run's settings."""
    words, skip = [], False
    for word in task.options:
        if word.startswith("--"):
            skip = word in ("--num_samples", "--split", "--output_dir")
        if not skip:
            words.append(word)
    return shlex.join(["python", "run_api.py", *words])
