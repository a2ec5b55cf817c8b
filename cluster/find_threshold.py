"""Finds the threshold of a pair: a sample of questions is answered once with each, by the base model and the nudging model alone.

    scripts/find_threshold.sh --dataset_name gsm8k --base_model BASE --base_host URL --nudging_model CHAT --nudging_host URL

Each run is one of run_api.py, which goes on where it was interrupted; the table compares them question by question.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.sweep import STOPPED, list_tasks, run_tasks
from cluster.sweep_config import Task
from cluster.threshold_findings import Found, findings
from cluster.threshold_table import caption, figures_table, how_compared, markdown, verdict
from cluster.threshold_tasks import AUTO, full_command, tasks_of
from command.console import Command, visible
from command.files import ResultsError
from command.options import Parser
from command.paths import user_path
from datasets_loader import DATA_SETS
from decoding.criteria import CRITERIA
from experiment.names import fitting_name, last_part
from experiment.settings import DEFAULT_DATA_SET, RunSettings
from reporting.run_table import Run, find_runs
from reporting.threshold_plot import save_plot

COMMAND = Command("find_threshold.sh")
DEV_SAMPLES = 100
_WITHOUT_OPTIONS = """\
find_threshold.sh finds the threshold of a pair on a sample of questions. For example:
  without a server, the bundled pair (fetched once by: python scripts/get_demo_models.py):
    scripts/find_threshold.sh --base_model demo-base --nudging_model demo-aligned --num_samples 12
  over two servers:
    scripts/find_threshold.sh --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1
  the options:
    scripts/find_threshold.sh --help
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of find_threshold.sh."""
    parser = Parser(
        prog=COMMAND.name,
        allow_abbrev=False,  # what is not known here is an option of run_api.py
        description="Find the threshold of a pair on a sample of questions, the probability below which the base model counts as "
        "uncertain and the nudging model writes: each number is one run, the single models one each; a table, a plot and the "
        "command for the whole run come of it. Further options are run_api.py's (see its --help_all), such as --scoring, --judge, "
        "--nudging_template, --max_token_total, --num_threads; behind -- all are.",
        without_options=_WITHOUT_OPTIONS,
    )
    option = parser.add_argument
    option(
        "--base_model",
        required=True,
        metavar="MODEL",
        help="the large base model, which was not trained to follow instructions",
    )
    option(
        "--base_host", metavar="URL", help="base URL of its server, such as http://localhost:8000/v1, as for run_api.py"
    )
    option(
        "--nudging_model",
        required=True,
        nargs="+",
        action="extend",
        metavar="MODEL",
        help="the small aligned model, which was; or several to compare",
    )
    option(
        "--nudging_host",
        nargs="+",
        action="extend",
        metavar="URL",
        help='their servers in the same order ("" for none), or one for all',
    )
    option(
        "--criterion",
        default=RunSettings.criterion,
        metavar="NAME",
        choices=CRITERIA,
        help=f"how uncertainty is measured: {', '.join(CRITERIA)}",
        rare=True,
    )
    option(
        "--thresholds",
        nargs="+",
        default=[AUTO],
        metavar="X",
        help="the numbers to try, or auto: those that the table of criteria has for the criterion, such as 0.1, 0.2, ... 0.9 for "
        "top_prob (default: auto)",
    )
    option(
        "--dataset_name",
        choices=DATA_SETS,
        metavar="NAME",
        help=f"{', '.join(DATA_SETS)} (default: {DEFAULT_DATA_SET})",
    )
    option("--questions", metavar="FILE", help="a file of questions in the place of a data set")
    option(
        "--split",
        rare=True,
        help="the data set's split (default: its validation, dev or train split, so that the threshold is chosen on other "
        "questions than experiments ask; its usual one where it has no other)",
    )
    option("--data_dir", metavar="DIR", help="read data sets from there, as for run_api.py", rare=True)
    option(
        *("--num_samples", "--num_sample"),
        type=int,
        default=DEV_SAMPLES,
        metavar="N",
        help="how many questions (default: %(default)s)",
    )
    option("--output_dir", default="outputs/find_threshold", metavar="DIR", help="where runs, table and plot go")
    option("--dry_run", action="store_true", help="list the runs and what has become of each; start nothing")
    option("--table_only", action="store_true", help="table and plot of what is there; run nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search for a threshold.

    Returns the exit code: 0, 1 (runs failed), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    words = sys.argv[1:] if argv is None else argv
    at = words.index("--") if "--" in words else len(words)
    options, more = build_parser().parse_known_args(words[:at])
    more += words[at + 1 :]

    def work() -> int:
        tasks = tasks_of(options, more, COMMAND.note)
        if options.dry_run:
            return list_tasks(tasks, user_path(options.output_dir), COMMAND)
        code = 0 if options.table_only else run_tasks(tasks, COMMAND)
        if code in STOPPED.values():
            return code
        return report(tasks) or code

    return COMMAND.run(work, interrupted="interrupted; the same command continues")


def report(tasks: list[Task]) -> int:
    """Print and write the table, the plot and the command for the whole run; returns 1 if a run is not there, else 0.

    Raises:
        ResultsError: no run is there, two cannot be compared, or nothing can be written.
    """
    runs = runs_of(tasks)
    nudged = [(task.pair, run) for task, run in runs.items() if task.experiment == "nudging"]
    alone = {task: run for task, run in runs.items() if task.experiment != "nudging"}
    base = next((run for task, run in alone.items() if task.experiment == "base_only"), None)
    found = findings(nudged, base, {task.pair: run for task, run in alone.items() if task.experiment == "nudging_only"})
    settings = tasks[0].settings
    title, table, said = caption(found, settings.used_split), markdown(found), [how_compared(found), *verdict(found)]
    said = [visible(line) for line in said if line]
    print(f"\n{title}\n\n{table}\n", *said, sep="\n")
    for task in tasks:
        if task not in runs:
            COMMAND.note(f"not there: {task.label}")
        elif not runs[task].finished:
            COMMAND.note(f"unfinished: {task.label}")
    files = Files.of(tasks)
    try:
        written = files.write(found, title, "\n\n".join([title, table, *said]))
        if found.best:
            (best,) = (task for task, run in runs.items() if run is found.best.run)
            command = full_command(best)
            written.append(
                files.write_text(
                    ".sh", f"# {title}\n# {next(line for line in said if line.startswith('best:'))}\n{command}\n"
                )
            )
            print(visible(f"\nthe whole run with it:\n  {command}"))
    except OSError as error:
        raise ResultsError(f"{files.path}.*: cannot be written ({error})") from None
    print(visible(f"\nwritten: {files.path} {', '.join(path.suffix for path in written)}"))
    return 1 if len(runs) < len(tasks) else 0


def runs_of(tasks: list[Task]) -> dict[Task, Run]:
    """The runs of a search that are there (ResultsError: there are none)."""
    there = [task.files.json for task in tasks if task.files.json.exists()]
    there += [task.files.jsonl for task in tasks if task.files.jsonl.exists() and not task.files.json.exists()]
    if not there:
        raise ResultsError(f"none of the {len(tasks)} runs has an answer yet, so that there is nothing to compare")
    found = find_runs(there, lambda told: COMMAND.note(f"left out: {told}"))
    by_name = {run.path.with_suffix(""): run for run in found}
    return {task: run for task in tasks if (run := by_name.get(task.files.json.with_suffix("")))}


@dataclass(frozen=True)
class Files:
    """Where the results of a search are written: `path` is without endings."""

    path: Path

    @classmethod
    def of(cls, tasks: list[Task]) -> "Files":
        """The files of a search, named like those of its runs."""
        of_pair = next(task for task in tasks if task.experiment == "nudging")
        settings, criterion = of_pair.settings, of_pair.settings.criterion
        start = settings.result_name.partition(f"{criterion}_{settings.used_threshold}_thres_")[0]
        blend = f"blend_{settings.blend_weight}_" if settings.blend else ""
        models = [settings.base_model, *dict.fromkeys(task.pair for task in tasks if task.experiment == "nudging")]
        name = fitting_name(
            f"{start}{criterion}_thresholds_{blend}nudging_",
            "_".join(map(last_part, models)),
            settings.result_name[settings.result_name.rindex(f"_{settings.num_samples}_samples") :],
        )
        return cls(settings.result_folder / (name or f"{criterion}_thresholds"))

    def write_text(self, ending: str, text: str) -> Path:
        """Write a text (OSError: it cannot be written)."""
        path = self.path.with_name(self.path.name + ending)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path

    def write(self, found: Found, title: str, text: str) -> list[Path]:
        """Write what has been found as CSV and Markdown, and its plot as SVG and PNG.

        Raises:
            OSError: it cannot be written.
        """
        self.path.with_name(self.path.name + ".sh").unlink(missing_ok=True)  # of an earlier best
        written = [
            self.write_text(".csv", figures_table(found).to_csv(index=False)),
            self.write_text(".md", text + "\n"),
        ]
        groups: dict[str, list[Run]] = {}
        for row in found.rows:
            groups.setdefault(row.nudger, []).append(row.run)
        if groups:
            alone = [{"base_only": found.base, "nudging_only": found.nudgers.get(nudger)} for nudger in groups]
            equal = {id(row.run) for row in found.equal}
            best = found.best and found.best.run
            try:
                written += save_plot(self.path, title, list(groups.values()), alone, best, equal)
            except ImportError:
                COMMAND.note("no plot: it needs matplotlib (pip install matplotlib)")
        return written
