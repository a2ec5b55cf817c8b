"""The nudging experiments: options -> settings -> samples over a thread pool -> results -> summary.

    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300).
"""

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from dataclasses import asdict

from tqdm import tqdm

from command.console import visible
from command.files import ResultsError
from command.options import without_password
from command.pool import as_finished
from command.provenance import git_commit, now, versions
from command.stopping import StopSignals
from datasets_loader import DATA_SETS, DataSet, Example, load_examples
from experiment.command_line import COMMAND, parse_settings
from experiment.connect import connect
from experiment.judge import Judge, is_scored, judge_for, judge_records
from experiment.result_files import ResultFiles, readable_text
from experiment.rules import score_by_rule
from experiment.sample import PromptWriter, answer_one, describe, prompt_writers, used_calls
from experiment.settings import RunSettings, SettingsError
from experiment.summary import summarise
from language_models.hosted.replicas import Replicas

note = COMMAND.note


def main(argv: list[str] | None = None) -> int:
    """Run one experiment.

    Returns the exit code: 0, 1 (samples failed or were not scored), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    settings = parse_settings(argv)
    return COMMAND.run(
        lambda: run(settings),
        interrupted=f"interrupted; what is finished is saved, {the_same_command(settings)} continues",
    )


def run(settings: RunSettings) -> int:
    """Run one experiment; returns the exit code.

    Raises:
        UserError: it cannot start, or not go on.
    """
    data_set = DATA_SETS[settings.dataset_name]
    prompts = prompt_writers(settings)
    examples = load_examples(
        settings.dataset_name, split=settings.split, num_samples=settings.num_samples, data_dir=settings.data_dir
    )
    wanted = settings.shard_indices(len(examples))
    if not wanted:
        raise SettingsError(
            f"--shard {settings.shard} has no samples, since there are {len(examples)} in all; use fewer shards"
        )
    if settings.dry_run:
        print(describe(settings, data_set, examples, prompts))
        return 0
    if not all(example.gold for example in examples):
        note(f"warning: split {settings.used_split} has questions without a gold answer; their scores mean nothing")
    files = ResultFiles(settings.result_folder, settings.result_name)
    with files.locked(), contextlib.ExitStack() as servers:
        story, records = earlier_answers(settings, files, examples)
        todo = [i for i in wanted if i not in records]
        judge, why_no_judge = judge_for(data_set, **settings.judge_options)
        if why_no_judge and not (todo or is_complete(records, data_set)):
            note(f"{why_no_judge}; score the answers by: {scoring_command(settings, files)}")
        elif why_no_judge and todo:
            note(
                f"{why_no_judge}; the answers are generated and saved, and scored later by: "
                f"{scoring_command(settings, files)}"
            )
        if todo and records:
            note(f"{len(records)} of {len(wanted)} answers are there already, {len(todo)} to go")
        models = connect(settings, data_set, examples, prompts, servers) if todo else {}
        settings = dataclasses.replace(settings, calls=used_calls(settings, models))
        if settings.rerun:
            for path in files.set_aside():
                note(f"moved aside: {path}")
        files.open_log()
        return answer_and_score(settings, files, examples, todo, prompts, records, models, story, judge, why_no_judge)


def answer_and_score(
    settings: RunSettings,
    files: ResultFiles,
    examples: list[Example],
    todo: list[int],
    writers: dict[str, PromptWriter],
    records: dict[int, dict],
    models: dict[str, Replicas],
    story: dict,
    judge: Judge | None,
    why_no_judge: str,
) -> int:
    """Answer what is to do, score, write and summarise; returns the exit code.

    Raises:
        ResultsError: the results cannot be written.
    """
    data_set = DATA_SETS[settings.dataset_name]
    session = {
        "start": now(),
        "versions": versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
        "calls": settings.calls,
        "servers": {role: model.report for role, model in models.items()},
    }
    if todo:
        story["sessions"].append(session)
        files.write_run(story)
    started, interrupted, failure, total = time.monotonic(), 0, "", len(records) + len(todo)
    try:
        if todo:
            interrupted = answer_all(settings, data_set, examples, todo, writers, models, records, files)
        ordered = [records[i] for i in sorted(records)]
        if data_set.scoring == "rule":
            score_by_rule(ordered)
        elif judge is not None and not interrupted:
            failure = judge_records(ordered, data_set, judge, settings.num_threads, files.append)
    finally:
        session |= {"end": now(), "seconds": round(time.monotonic() - started, 3)}
        session["usage"] = {role: asdict(model.usage) for role, model in models.items()}
        session["usage_by_host"] = {role: model.usage_by_host for role, model in models.items()}
        with contextlib.suppress(ResultsError):  # where the disk is full, the error under way says more
            if todo:
                files.write_run(story)
    if interrupted:
        files.close_log()
        note(f"interrupted: {len(ordered)} of {total} answers are saved; {the_same_command(settings)} continues")
        return interrupted
    files.write_final(ordered, readable_text(ordered))
    files.write_run(story)
    seconds = sum(past.get("seconds", 0) for past in story["sessions"])
    summary = summarise(ordered, data_set.scoring, seconds=seconds, judge_model=judge.model if judge else None)
    files.write_summary(summary.fields)
    print(visible(str(summary)))
    print(f"\nresults: {files.txt} and {files.json}")
    if failed := summary.fields["failed"]:
        error = next(record["error"] for record in ordered if "error" in record)
        note(
            f"{failed} of {len(ordered)} samples failed; {the_same_command(settings)} tries them again; the first: {error}"
        )
    if failure:
        note(
            f"{summary.fields['unscored']} answers could not be scored ({failure}); "
            f"{the_same_command(settings)} tries again"
        )
    elif why_no_judge and summary.fields["unscored"]:
        note(f"not scored yet; to score: {scoring_command(settings, files)}")
    return 1 if failed or failure else 0


def the_same_command(settings: RunSettings) -> str:
    """How to say which command goes on from here."""
    return "the same command without --rerun" if settings.rerun else "the same command"


def is_complete(records: dict[int, dict], data_set: DataSet) -> bool:
    """Whether every answer has scores."""
    return data_set.scoring == "rule" or all(is_scored(record, data_set.scoring) for record in records.values())


def answer_all(
    settings: RunSettings,
    data_set: DataSet,
    examples: list[Example],
    todo: list[int],
    writers: dict[str, PromptWriter],
    models: dict[str, Replicas],
    records: dict[int, dict],
    files: ResultFiles,
) -> int:
    """Answer the samples of `todo` over a thread pool, adding to `records` and the log.

    Returns the exit code of the signal that stopped it, 0 if none did.
    """
    stop = StopSignals(note)
    started, done, correct, failed = time.monotonic(), 0, 0, 0
    # A log file of a batch job gets a line now and then; a terminal is kept up to date.
    live = sys.stderr.isatty()
    label = f"{settings.exp} {settings.dataset_name}"
    bar = tqdm(total=len(todo), desc=label, unit="answer", mininterval=0.5 if live else 30)
    answers = as_finished(
        lambda index: answer_one(settings, data_set, index, examples[index], writers, models),
        todo,
        settings.num_threads,
        stop=stop,
        idle=bar.refresh if live else lambda: None,
    )
    with stop, bar, contextlib.closing(answers):
        for _, record in answers:
            if isinstance(record, BaseException):
                raise record
            files.append(record)
            records[record["index"]] = record
            done += 1
            failed += "error" in record
            correct += (record.get("scores") or {}).get("correct", 0)
            shown = {"correct": f"{correct}/{done - failed}"} if data_set.scoring == "rule" and done > failed else {}
            if failed:
                shown["failed"] = failed
            requests = sum(model.usage.requests for model in models.values())
            rate = f"{requests / (time.monotonic() - started):.1f}"
            bar.set_postfix(shown | {"requests/s": rate}, refresh=False)
            bar.update()
    # With all samples answered there is nothing to stop, unless a judge would follow.
    return stop.exit_code if done < len(todo) or data_set.scoring != "rule" else 0


def earlier_answers(settings: RunSettings, files: ResultFiles, examples: list[Example]) -> tuple[dict, dict[int, dict]]:
    """The run's story and the finished records of earlier sessions by index; nothing of them with --rerun.

    Raises:
        ResultsError: the files are another run's, or cannot be read.
    """
    story = {
        "settings": settings.decisive,
        "all_settings": asdict(settings),
        "samples": len(settings.shard_indices(len(examples))),
        "samples_of_all_shards": len(examples),
        "sessions": [],
    }
    if settings.rerun:
        return story, {}
    records = {record["index"]: record for record in files.records() if "error" not in record}
    before = files.read_run()
    then = before.get("settings", {})
    differing = settings.differing(then)
    if records and before and differing:
        changes = ", ".join(f"--{name} was {then.get(name)!r}, is {settings.decisive[name]!r}" for name in differing)
        raise ResultsError(
            f"{files.jsonl} was started with other settings: {changes}. "
            "Use the same ones, another --exp_prefix or --output_dir, or start afresh with --rerun"
        )
    wanted = settings.shard_indices(len(examples))
    for index, record in records.items():
        if index not in wanted or record["question"] != examples[index].question:
            raise ResultsError(
                f"{files.jsonl}: its sample {index} asks another question than the data set does now; "
                "use the same data, another --output_dir, or start afresh with --rerun"
            )
    if records and not before:
        story["answers_of_unknown_settings"] = len(records)
    kept = ("sessions", "answers_of_unknown_settings", "merged_from", "merged_at")
    return story | {name: before[name] for name in kept if name in before}, records


def scoring_command(settings: RunSettings, files: ResultFiles) -> str:
    """The command that scores the results later."""
    words = ["python", "eval_utils.py", str(files.json), "--dataset_name", settings.dataset_name]
    for option in ("judge_model", "judge_host"):
        if value := getattr(settings, option):
            words += [f"--{option}", without_password(value)]
    if settings.judge_api_key_env != RunSettings.judge_api_key_env:
        words += ["--judge_api_key_env", settings.judge_api_key_env]
    return shlex.join(words)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # all files are written: no waiting for threads whose answers nobody will read
