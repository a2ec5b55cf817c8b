"""The nudging experiments: options -> settings -> samples over a thread pool -> results -> summary.

    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300).
"""

import contextlib
import os
import sys

from datasets_loader import DATA_SETS, load_examples
from experiment.command_line import COMMAND, parse_settings
from experiment.connect import connect
from experiment.result_files import ResultFiles
from experiment.run import Run
from experiment.sample import describe, prompt_builders, unwritable, used_request_mode
from experiment.settings import RunSettings, SettingsError


def main(argv: list[str] | None = None) -> int:
    """Run one experiment.

    Returns the exit code: 0, 1 (samples failed or were not scored), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    settings = parse_settings(argv)
    return COMMAND.run(
        lambda: run(settings),
        interrupted=f"interrupted; what is finished is saved, {settings.same_command} continues",
    )


def run(settings: RunSettings) -> int:
    """Run one experiment; returns the exit code.

    Raises:
        UserError: it cannot start, or not go on.
    """
    note, data_set = COMMAND.note, DATA_SETS[settings.dataset_name]
    builders = prompt_builders(settings)
    examples = load_examples(
        settings.dataset_name, split=settings.split, num_samples=settings.num_samples, data_dir=settings.data_dir
    )
    if not settings.shard_indices(len(examples)):
        raise SettingsError(
            f"--shard {settings.shard} has no samples, since there are {len(examples)} in all; use fewer shards"
        )
    if settings.dry_run:
        print(describe(settings, data_set, examples, builders))
        if failing := unwritable(data_set, examples, builders):
            row, why = next(iter(failing.items()))
            note(f"error: {len(failing)} of {len(examples)} samples would fail; the first: row {row}: {why}")
        return 1 if failing else 0
    if not all(example.gold for example in examples):
        note(f"warning: split {settings.used_split} has questions without a gold answer; their scores mean nothing")
    files = ResultFiles(settings.result_folder, settings.result_name)
    with files.locked(), contextlib.ExitStack() as servers:
        the_run = Run(settings, files, examples, builders)
        the_run.read_earlier()
        say_what_is_there(the_run)
        models = connect(settings, data_set, examples, builders, servers) if the_run.todo else {}
        request_mode = used_request_mode(settings, models)
        if settings.rerun:
            for path in files.set_aside():
                note(f"moved aside: {path}")
        files.open_log()
        return the_run.answer_and_score(models, request_mode)


def say_what_is_there(the_run: Run) -> None:
    """Say which answers are there already, and why they will not be scored."""
    if the_run.why_no_judge and the_run.todo:
        COMMAND.note(
            f"{the_run.why_no_judge}; the answers are generated and saved, and scored later by: {the_run.scoring_command}"
        )
    elif the_run.why_no_judge and not the_run.is_scored:
        COMMAND.note(f"{the_run.why_no_judge}; score the answers by: {the_run.scoring_command}")
    if the_run.todo and the_run.records:
        COMMAND.note(
            f"{len(the_run.records)} of {len(the_run.wanted)} answers are there already, {len(the_run.todo)} to go"
        )


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # all files are written: no waiting for threads whose answers nobody will read
