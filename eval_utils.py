"""Scores by rule, and summaries with 95 % intervals of any result file.

    python eval_utils.py outputs/strategyqa/all_info/NAME.json [--judge_model MODEL --judge_host URL]

scores what has no score yet in a result file, and summarises it, by the rules of the nudging paper's program (arXiv 2410.09300).
Scores that are there stay: another judge needs --rescore, which copies the old files aside.
"""

from command.entry import begin, end
from command.paths import is_file, user_path

if __name__ == "__main__":
    begin("eval_utils.py")  # the imports below take seconds

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

from command.console import Command, visible
from command.errors import OptionError
from command.files import ResultsError
from command.options import Parser
from datasets_loader import DATA_SETS, DataSet
from experiment.judge_settings import JUDGE_OPTIONS, JUDGES, JudgeSettings
from experiment.judgements import NONE, Judged, is_judged
from experiment.result_files import ResultFiles, read_records, readable_text
from experiment.rules import score_by_rule
from experiment.scoring import CHOICES, check_scoring, drop_other_scores, lacks_scores, score_all, used_scoring
from experiment.summary import summarise
from language_models.local.devices import ENGINE_CHOICES
from language_models.local.loading import DTYPES
from questions.own import own_data_set

COMMAND = Command("eval_utils.py")
_DESCRIPTION = """\
Scores what has no score yet in a result file, and summarises it with 95 %
intervals. A judge is a model that scores the answers that no rule can score."""
_WITHOUT_OPTIONS = """\
eval_utils.py scores and summarises a result file. For example:
    python eval_utils.py outputs/gsm8k/all_info/NAME.json
    python eval_utils.py outputs/justeval/all_info/NAME.json --judge_model MODEL --judge_host http://localhost:8003/v1
    python eval_utils.py --help
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line; the judge's options are those of run_api.py."""
    parser = Parser(
        prog=COMMAND.name,
        description=_DESCRIPTION,
        without_options=_WITHOUT_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "result",
        type=user_path,
        help="a .json or .jsonl file that run_api.py has written, or the published program's .json",
    )
    parser.add_argument(
        "--dataset_name",
        choices=DATA_SETS,
        metavar="NAME",
        help=f"the data set: {', '.join(DATA_SETS)} (default: read from the path outputs/NAME/all_info/...)",
    )
    parser.add_argument(
        "--scoring",
        metavar="HOW",
        help=f"of answers to questions of your own: {', '.join(CHOICES[1:])}, or FILE.py:function (default: as the run was scored)",
    )
    parser.add_argument(
        "--judge",
        choices=JUDGES,
        default=JudgeSettings.judge,
        help="where a judge is needed: auto asks --judge_model; rule reads the answers by rules of our own, without a model; none: "
        "summarise only",
    )
    for name, how in JUDGE_OPTIONS.items():
        parser.add_argument(f"--{name}", default=getattr(JudgeSettings, name), **how)
    parser.add_argument(
        "--rescore", action="store_true", help="judge all answers anew; the old files are copied aside first"
    )
    parser.add_argument(
        "--device",
        default=JudgeSettings.device,
        rare=True,
        metavar="DEVICE",
        help="where a judge that this process loads computes: auto (a GPU if there is one), cuda, cuda:1, mps or cpu",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=JudgeSettings.dtype,
        rare=True,
        help="number format of such a judge; auto is bfloat16 on a GPU, float32 on a CPU",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINE_CHOICES,
        default=JudgeSettings.engine,
        rare=True,
        help="how it computes (see run_api.py --help_all)",
    )
    for name, kind, metavar, said in (
        ("num_threads", int, "N", "answers that are judged side by side"),
        ("request_timeout", float, "S", "seconds that the judge's server may stay silent"),
        ("max_retries", int, "N", "how often a failed request is sent again"),
        ("max_outage", float, "S", "seconds that the judge's server may be unreachable"),
    ):
        default = getattr(JudgeSettings, name)
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar=metavar, help=said, rare=name != "num_threads"
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Score and summarise an existing result file; returns the exit code: 0, 1 (answers have no scores), 2 (cannot be done)."""
    options = vars(build_parser().parse_args(argv))
    path, name, scoring, rescore = (options.pop(one) for one in ("result", "dataset_name", "scoring", "rescore"))

    def work() -> int:
        data_set = _data_set(path, name, scoring)
        return _score_file(path, data_set, JudgeSettings(**options), rescore)

    again = "the same command" + " without --rescore" * rescore
    return COMMAND.run(work, interrupted=f"interrupted; the scores so far are saved, {again} continues")


def _data_set(path: Path, name: str | None, scoring: str | None) -> DataSet:
    """How the answers of a result file are scored.

    Raises:
        ResultsError: of which data set they are is not known.
        OptionError: there is no such scoring, or it is of questions of one's own and these are none.
    """
    metadata = ResultFiles.of(path).read_run()
    known = metadata.get("scoring")
    if scoring is not None:
        check_scoring(scoring)
        asked = name or (None if known else metadata.get("settings", {}).get("dataset_name"))
        if asked is not None:
            raise OptionError(
                f"--scoring is of questions of one's own; answers to {asked} are scored in one way: leave it out"
            )
    elif name is not None and known:
        raise OptionError(
            f"--dataset_name: {path} has answers to questions of one's own: leave it out, or take --scoring"
        )
    if known or scoring:
        return own_data_set(None, used_scoring(scoring or NONE, known))
    name = name or next((part for part in reversed(path.absolute().parts) if part in DATA_SETS), None)
    if name is None:
        raise ResultsError(
            f"of which data set are the answers in {path}? Say so by --dataset_name, or for questions of your own --scoring"
        )
    return DATA_SETS[name]


def _score_file(path: Path, data_set: DataSet, settings: JudgeSettings, rescore: bool) -> int:
    settings.check_engine()
    settings.check_rule(data_set)
    files, why_none = ResultFiles.of(path), settings.why_none(data_set)
    if not any(is_file(file) for file in (path, files.json, files.jsonl)):
        raise ResultsError(f"there is no file {path}")
    judged = is_judged(data_set.scoring)
    if rescore and (why_none or not judged):
        how = "the answers to this data set are scored by rule"
        if data_set.is_own:
            how = f"the answers are scored by --scoring {data_set.scoring}"
        raise ResultsError(f"--rescore needs a judge; {why_none or how}")
    if judged and not why_none:
        settings.check_connection(settings.name_for(data_set))
    with files.locked():
        # A log beside the named file knows more than it, where a run was continued and killed since.
        records, metadata = files.records() or read_records(path), files.read_run()
        if not all("gold_answer" in record for record in records):
            raise ResultsError(f"{path}: there is no gold answer in some of its records, so they cannot be scored")
        before = copy.deepcopy(records)
        again = "the same command" + " without --rescore" * rescore
        # Scores, and texts, that this program has not written are copied before anything is added to them; a log is its own.
        ours = bool(metadata) or files.jsonl.exists()
        kept_aside = ours or not (files.txt.exists() or any(record.get("scores") for record in records))

        def keep_aside() -> None:
            nonlocal kept_aside
            if not kept_aside:
                kept_aside = True
                for copied in files.set_aside(copy=True):
                    COMMAND.note(f"copied aside: {copied}")

        def begin() -> None:
            keep_aside()
            if rescore:  # a later command that goes on from here must not take old scores for new
                files.write_final(records, None)

        unscorable = 0
        if data_set.is_own:
            drop_other_scores(records, data_set.scoring, path)
        if not judged:
            tally = Judged()
            if data_set.is_own:
                unscorable = score_all(records, data_set.scoring, COMMAND.note)
            else:
                score_by_rule(records)
        else:
            if rescore:
                kept_aside = False
                records = [_without_scores(record) for record in records]
            tally = _judge(records, data_set, settings, path, files, begin) if not why_none else Judged()
            if rescore and not (tally.read or tally.unreadable):
                records, again = before, "the same command"  # nothing new to score by: the old scores stay
        sessions = metadata.get("sessions", [])
        seconds = sum(session.get("seconds", 0) for session in sessions) if sessions else None
        summary = summarise(records, data_set.scoring, seconds)
        print(visible(str(summary)))
        if records != before:
            keep_aside()
            # A lone file is not joined by others; in the run's own folder all of them are brought up to date.
            files.write_final(records, readable_text(records) if files.has_layout else None)
        if data_set.is_own and metadata and metadata.get("scoring") != data_set.scoring:
            files.write_run(metadata | {"scoring": data_set.scoring})
        if files.has_layout:
            files.write_summary(summary.fields)
    unscored = summary.fields["unscored"]
    for line in (*tally.in_words(again), *([why_none] if why_none and unscored else [])):
        COMMAND.note(line)
    if tally.exit_code:
        COMMAND.note(f"interrupted; the scores so far are saved, {again} continues")
    if data_set.is_own:
        unscored = lacks_scores(records, data_set.scoring)
        if data_set.scoring == NONE:
            COMMAND.note("unscored: --scoring says how to score the answers")
    return tally.exit_code or (1 if (unscored and settings.judge != "none") or tally.left_out or unscorable else 0)


def _without_scores(record: dict) -> dict:
    if "error" in record:
        return record
    return {name: value for name, value in record.items() if name != "judge_replies"} | {"scores": None}


def _judge(
    records: list[dict],
    data_set: DataSet,
    settings: JudgeSettings,
    path: Path,
    files: ResultFiles,
    before_saving: Callable[[], None],
) -> Judged:
    """Score what has no scores, in place."""
    # Imported here: the client takes a second, which --help need not wait for.
    from experiment.judge import judge_missing, refuse_other_judges

    refuse_other_judges(records, data_set.scoring, settings, data_set, path)
    opened = False

    def save(entry: dict) -> None:
        nonlocal opened
        if not opened:
            before_saving()
            files.open_log(lambda: records, COMMAND.note)
            opened = True
        files.append(entry)

    return judge_missing(records, data_set.scoring, settings, settings.name_for(data_set), save, COMMAND.note)


if __name__ == "__main__":
    end(main)
