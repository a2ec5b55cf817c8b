"""Scores by rule, and summaries with 95 % intervals of any result file.

    python eval_utils.py outputs/strategyqa/all_info/NAME.json [--judge_model MODEL --judge_host URL]

scores what has no score yet in a result file, and summarises it, by the rules of the nudging paper's program (arXiv 2410.09300).
"""

import argparse
import os
import sys
from pathlib import Path

from command.console import Command, visible
from command.files import ResultsError
from datasets_loader import DATA_SETS, DataSet
from experiment.judge_settings import JudgeSettings
from experiment.result_files import ResultFiles, read_records, readable_text
from experiment.rules import score_by_rule
from experiment.summary import summarise

COMMAND = Command("eval_utils.py")


def main(argv: list[str] | None = None) -> int:
    """Score and summarise an existing result file; returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND.name, description="Score and summarise an existing result file.")
    parser.add_argument(
        "result", type=Path, help="a .json or .jsonl file that run_api.py has written, or the published program's .json"
    )
    parser.add_argument(
        "--dataset_name", choices=DATA_SETS, help="the data set (default: read from the path outputs/NAME/all_info/...)"
    )
    parser.add_argument("--judge", choices=("auto", "none"), default=JudgeSettings.judge, help="none: summarise only")
    parser.add_argument("--judge_model", help="the judge (default: the data set's)")
    parser.add_argument("--judge_host", help="base URL of an OpenAI-compatible server (default: OpenAI)")
    parser.add_argument(
        "--judge_api_key_env",
        default=JudgeSettings.judge_api_key_env,
        help="environment variable that holds its API key",
    )
    parser.add_argument("--num_threads", type=int, default=JudgeSettings.num_threads)
    parser.add_argument("--request_timeout", type=float, default=JudgeSettings.request_timeout)
    parser.add_argument("--max_retries", type=int, default=JudgeSettings.max_retries)
    options = vars(parser.parse_args(argv))
    path, name = options.pop("result"), options.pop("dataset_name")
    name = name or next((part for part in reversed(path.absolute().parts) if part in DATA_SETS), None)

    def work() -> int:
        if name is None:
            raise ResultsError(f"of which data set are the answers in {path}? Say so by --dataset_name")
        return _score_file(path, DATA_SETS[name], JudgeSettings(**options))

    return COMMAND.run(work, interrupted="interrupted; the scores so far are saved, the same command continues")


def _score_file(path: Path, data_set: DataSet, settings: JudgeSettings) -> int:
    files = ResultFiles.of(path)
    # A log beside the named file knows more than it, where a run was continued and killed since.
    records = files.records() or read_records(path)
    if not all("gold_answer" in record for record in records):
        raise ResultsError(f"{path}: there is no gold answer in some of its records, so they cannot be scored")
    # Imported here: the client takes a second, which --help need not wait for.
    from experiment.judge import judge_for, judge_records

    judge, why_not = judge_for(data_set, settings), settings.why_none(data_set)
    failure = ""
    with files.locked():
        if data_set.scoring == "rule":
            score_by_rule(records)
        elif judge is not None:
            files.open_log()
            failure = judge_records(records, data_set, judge, settings.num_threads, files.append)
        sessions = files.read_run().get("sessions", [])
        seconds = sum(session.get("seconds", 0) for session in sessions) if sessions else None
        summary = summarise(records, data_set.scoring, seconds, judge.model if judge else None)
        print(visible(str(summary)))
        # A lone file is not joined by others; in the run's own folder all of them are brought up to date.
        files.write_final(records, readable_text(records) if files.has_layout else None)
        if files.has_layout:
            files.write_summary(summary.fields)
    if why_not and not summary.fields["unscored"]:
        why_not = ""
    for message in (why_not, failure and f"{summary.fields['unscored']} answers could not be scored: {failure}"):
        if message:
            COMMAND.note(message)
    return 1 if failure else 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # all files are written: no waiting for judgements that nobody will read
