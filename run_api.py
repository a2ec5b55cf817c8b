"""The nudging experiments: options -> settings -> samples over a thread pool -> results -> summary.

    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300).
"""

from command.entry import begin, end

if __name__ == "__main__":
    begin("run_api.py")  # the imports below take seconds

import contextlib

from experiment.asking import scoring_in_words
from experiment.command_line import COMMAND, parse_settings
from experiment.connect import connect, lengths
from experiment.judgements import is_judged
from experiment.readiness import check_folder, check_models, prepared
from experiment.run import Run
from experiment.sample import describe, unwritable, used_request_mode
from experiment.settings import RunSettings


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
    the_run = prepared(settings)
    files, examples, builders = the_run.files, the_run.examples, the_run.prompt_builders
    if settings.dry_run:
        return dry_run(the_run)
    warn_of_missing_gold(the_run)
    with files.locked(), contextlib.ExitStack() as servers:
        the_run.read_earlier()
        say_what_is_there(the_run)
        if is_judged(the_run.data_set.scoring) and not the_run.why_no_judge:
            settings.judge_settings.check_connection(settings.judge_settings.name_for(the_run.data_set))
        models = {}
        if the_run.todo:
            models = connect(settings, lengths(settings, the_run.data_set, examples, builders), servers)
        request_mode = used_request_mode(settings, models)
        if settings.rerun:
            for path in files.set_aside():
                COMMAND.note(f"moved aside: {path}")
        files.open_log(lambda: the_run.ordered, COMMAND.note)
        return the_run.answer_and_score(models, request_mode)


def dry_run(the_run: Run) -> int:
    """Check what a run checks before it asks anything, print its first prompts, and send and write nothing.

    Returns 0, or 1 where prompts cannot be written.

    Raises:
        UserError: the run could not start.
    """
    settings = the_run.settings
    check_folder(settings)
    the_run.read_earlier()
    if the_run.todo:
        check_models(settings, is_judged(the_run.data_set.scoring))
    COMMAND.show(describe(settings, the_run.data_set, the_run.examples, the_run.prompt_builders))
    warn_of_missing_gold(the_run)
    say_what_is_there(the_run)
    if failing := unwritable(the_run.data_set, the_run.examples, the_run.prompt_builders):
        row, why = next(iter(failing.items()))
        COMMAND.note(
            f"error: {len(failing)} of {len(the_run.examples)} samples would fail; the first: row {row}: {why}"
        )
    return 1 if failing else 0


def warn_of_missing_gold(the_run: Run) -> None:
    """Say that scores will mean nothing, where they will not."""
    if not the_run.data_set.is_own and not all(example.gold for example in the_run.examples):
        split = the_run.settings.used_split
        COMMAND.note(f"warning: split {split} has questions without a gold answer; their scores mean nothing")


def say_what_is_there(the_run: Run) -> None:
    """Say which answers are there already, and why they will not be scored."""
    if the_run.data_set.is_own and (said := scoring_in_words(the_run.data_set.scoring, the_run.examples)):
        COMMAND.note(said)
    if the_run.why_no_judge and the_run.todo:
        COMMAND.note(
            f"{the_run.why_no_judge}; the answers are generated and saved, and scored later by: {the_run.scoring_command}"
        )
    elif the_run.why_no_judge and not the_run.is_scored:
        COMMAND.note(f"{the_run.why_no_judge}; score the answers by: {the_run.scoring_command}")
    if the_run.todo and the_run.settings.seed is not None and the_run.settings.draws_beside_others:
        COMMAND.note(
            "--seed: servers that compute answers side by side round by which ones these are, so that the same seed may draw "
            "other answers next time; to draw them again, ask with --num_threads 1"
        )
    if the_run.todo and the_run.records:
        COMMAND.note(
            f"{len(the_run.records)} of {len(the_run.wanted)} answers are there already, {len(the_run.todo)} to go"
        )


if __name__ == "__main__":
    end(main)
