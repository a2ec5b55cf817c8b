"""Runs a sweep (see sweep_example.toml) here or as a Slurm job array, and makes one table of it; scripts/sweep.sh starts it."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from cluster.slurm import read_task, submit
from cluster.sweep_config import ConfigError, Sweep, Task, as_run, lacks_scores, read_sweep, state
from command.console import Command, visible
from command.files import ResultsError
from command.options import Parser
from command.paths import user_path
from command.stopping import HUNG_UP, INTERRUPTED, TERMINATED, Terminated
from experiment.shards import find_sharded_runs, merge
from reporting.run_table import find_runs, results_table
from reporting.table import csv, markdown

ROOT = Path(__file__).resolve().parent.parent
# What run_api.py ends with after a signal, of itself or before it could answer one.
STOPPED = {code: code for code in (HUNG_UP, INTERRUPTED, TERMINATED)} | {-1: HUNG_UP, -2: INTERRUPTED, -15: TERMINATED}

COMMAND = Command("sweep.sh")
say = COMMAND.note


def build_parser() -> argparse.ArgumentParser:
    """The command line of sweep.sh."""
    parser = Parser(
        prog="sweep.sh",
        description="Run data sets x experiments x thresholds x pairs from a config file; finished runs are skipped, "
        "unfinished ones continued.",
    )
    option = parser.add_argument
    option("config", type=user_path, metavar="CONFIG.toml", help="see scripts/sweep_example.toml")
    option("--dry_run", action="store_true", help="list the runs and what has become of each; start nothing")
    option("--slurm", action="store_true", help="submit them as a Slurm job array and return")
    option("--table_only", action="store_true", help="merge finished shards and make the table; run nothing")
    option("--only", metavar="PAIR", help="the runs of one pair alone (default: of all)")
    option("--task", type=int, help=argparse.SUPPRESS)  # what an array task runs: a line of CONFIG, then a task list
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a sweep.

    Returns the exit code: 0, 1 (runs failed), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    options = build_parser().parse_args(argv)

    def work() -> int:
        if options.task is not None:
            return become(read_task(options.config, options.task))
        sweep = read_sweep(options.config, options.only, slurm=options.slurm)
        if options.dry_run:
            return list_tasks(sweep.tasks, sweep.output_dir, COMMAND)
        if options.slurm:
            return submit_tasks(sweep, options)
        return (0 if options.table_only else run_all(sweep)) or collect(sweep, every=not options.table_only)

    return COMMAND.run(work, interrupted="interrupted; the same command continues")


def list_tasks(tasks: list[Task], folder: Path, command: Command) -> int:
    """Print every run with its state, and say which cannot start, and why; returns 1 if there are any, else 0.

    Args:
        folder: where results go, as it is told.
        command: what the runs are listed for.
    """
    from cluster.why_not import WhyNot  # with all that makes prompts, which no other option needs

    left, why_not = 0, WhyNot()
    faults: dict[str, list[str]] = {}
    for task in tasks:
        words, done = state(task)
        left += not done
        print(visible(f"{words:<24} {task.label}"))
        if not done and (fault := why_not(task)):
            faults.setdefault(fault, []).append(task.label)
    command.show(visible(f"{len(tasks)} runs, {left} to run; results go to {folder}"))
    for fault, labels in faults.items():
        command.note(f"cannot start: {labels[0]}" + f" and {len(labels) - 1} more" * (len(labels) > 1) + f": {fault}")
    if unset := {name for task in tasks if task.serve is None for name in task.needed_variables}:
        command.note(f"still to be set in the environment, for hosts: {', '.join(sorted(unset))}")
    return 1 if faults else 0


def run_all(sweep: Sweep) -> int:
    """Run what is not done, one after the other; returns 1 if any failed or was not scored, 130 or 143 if it was stopped."""
    code = run_tasks(sweep.tasks, COMMAND)
    if code == 1:
        try:
            collect(sweep, every=False)
        except ResultsError as error:
            say(f"no table: {error}")
    return code


def run_tasks(tasks: list[Task], command: Command) -> int:
    """Run what is not done, one after the other, for a command, which says what went wrong; returns as `run_all` does."""
    failed, unscored = [], []
    for number, task in enumerate(tasks, 1):
        words, done = state(task)
        print(visible(f"== [{number}/{len(tasks)}] {task.label}: {words}"), flush=True)
        if done:
            unscored += [task] if lacks_scores(task) else []
            continue
        try:
            code = run_task(as_run(task.options))
        except ConfigError as error:
            command.note(f"{task.label}: {error}")
            failed.append(task)
            continue
        if code in STOPPED:
            command.note("stopped; the same command continues")
            return STOPPED[code]
        if code:
            (unscored if lacks_scores(task) else failed).append(task)
    for task in failed:
        command.note(f"failed: {task.label}")
    for task in unscored:
        command.note(f"{task.label}: {state(task)[0]}")
    return 1 if failed or unscored else 0


def run_task(options: list[str]) -> int:
    """Run run_api.py to its end and return its exit code; signals that reach this process reach it too."""
    process = subprocess.Popen([sys.executable, str(ROOT / "run_api.py"), *options])
    try:
        return process.wait()
    except Terminated:
        process.terminate()
        return process.wait()
    except KeyboardInterrupt:  # the terminal has sent it to run_api.py as well
        return process.wait()


def become(options: list[str]) -> int:
    """Turn this process into run_api.py with the options of an array task, so that signals reach it.

    Raises:
        ConfigError: a host's environment variable is not set.
    """
    os.execv(sys.executable, [sys.executable, str(ROOT / "run_api.py"), *as_run(options)])


def submit_tasks(sweep: Sweep, options: argparse.Namespace) -> int:
    """Submit what is not done as a job array, and a job after it that makes the table; returns 0.

    Raises:
        SlurmError: sbatch does not take it.
    """
    todo = [task for task in sweep.tasks if not state(task)[1]]
    if not todo:
        print("nothing to run; scripts/sweep.sh CONFIG --table_only makes the table")
        return 0
    more = ["--only", options.only] if options.only else []
    array, table, folder = submit(sweep, todo, more)
    print(f"submitted {len(todo)} runs as job array {array}; job {table} makes the table after it")
    print(f"logs and the task list: {folder}")
    return 0


def collect(sweep: Sweep, every: bool) -> int:
    """Merge the shards and write and print one table of all results.

    Args:
        every: whether all shards have to be there; otherwise what cannot be merged yet is only told.

    Returns:
        1 if shards that should be there cannot be merged, else 0.
    """
    code = 0
    ours = {
        (task.whole_files.json.parent.resolve(), task.whole_files.json.stem)
        for task in sweep.tasks
        if task.settings.shard
    }
    for run in find_sharded_runs([sweep.output_dir]) if ours and sweep.output_dir.is_dir() else []:
        if (run.whole.json.parent.resolve(), run.name) not in ours:
            continue
        try:
            print(visible(merge(run)))
        except ResultsError as error:
            say(f"not merged: {error}")
            code = 1 if every else 0
    if not sweep.output_dir.is_dir():
        raise ResultsError(f"no results yet in {sweep.output_dir}")
    table = results_table(find_runs([sweep.output_dir], lambda message: say(f"left out: {message}")))
    written = sweep.output_dir / "results.csv", sweep.output_dir / "results.md"
    try:
        for path, text in zip(written, (csv(table), markdown(table)), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"the table cannot be written ({error})") from None
    print()
    print(markdown(table))
    print(f"results: {written[0]} and {written[1]}")
    return code
