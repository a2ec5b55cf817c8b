"""Finished and unfinished runs found on disk, and one table of them: what scripts/results_table.py and scripts/report.py share."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from command.console import visible
from command.files import ResultsError
from command.json_log import read_json
from command.paths import is_folder
from command.schema import Number, Text, TextOrNull, WholeOrNull, open_table, shown
from datasets_loader import DATA_SETS
from experiment.result_files import ResultFiles, read_records
from experiment.rules import score_by_rule, scores_of
from experiment.scorers import BY_RULE
from experiment.shards import shard_of_name
from experiment.summary import prompt_count, summarise
from reporting.run_pace import Pace, pace
from reporting.several_columns import COLUMNS, columns_of_several, shown_of_several
from reporting.told import KINDS, MODEL_ROLES, TOP_PROB, Told, engines, told_by_name, told_by_settings

_SUFFIXES = (".run.json", ".summary.json", ".jsonl", ".json", ".txt")
# What of a record may be of any shape in a foreign or damaged file.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@open_table
class _ToldSettings:
    exp: Text
    dataset_name: TextOrNull = None
    baseline_method: TextOrNull = None
    base_model: TextOrNull = None
    nudging_model: TextOrNull = None
    proxy_chat_model: TextOrNull = None
    proxy_base_model: TextOrNull = None
    criterion: TextOrNull = None
    threshold: Number | None = None
    top_prob_thres: Number | None = None
    blend: Number | TextOrNull = None
    num_samples: WholeOrNull = None


@open_table
class _ToldMetadata:
    """What of run.json a table of runs needs; what else is wrong in it costs a figure at most (see `pace`)."""

    settings: _ToldSettings
    scoring: TextOrNull = None


@dataclass(frozen=True)
class Run:
    """One run as its files tell it.

    `told` is how it was done, `engine` what computed it ("" where that is not known). `settings` are those that answers depend on,
    empty for files that no run.json stands beside; `figures` are `eval_utils.Summary.fields`, `pace` is how fast it went. Whatever
    is not known is None or empty. `finished` is False while there is only a .jsonl.
    """

    path: Path
    data_set: str | None
    told: Told
    engine: str
    finished: bool
    settings: dict = field(repr=False)
    records: list[dict] = field(repr=False)
    figures: dict = field(repr=False)
    pace: Pace

    @property
    def kind(self) -> str | None:
        """See Told."""
        return self.told.kind

    @property
    def models(self) -> tuple[str, ...]:
        """See Told."""
        return self.told.models

    @property
    def threshold(self) -> float | None:
        """See Told."""
        return self.told.threshold

    @property
    def num_samples(self) -> int | None:
        """See Told."""
        return self.told.num_samples

    @property
    def name(self) -> str:
        """The name of the result files, without folder and suffix."""
        return _without_suffix(self.path)

    @property
    def asked_with(self) -> str:
        """What stands before each question beside the usual; "" for nothing."""
        shots, system = (self.settings.get(name) for name in ("few_shot", "system_prompt"))
        told = [f"{shots} questions with answers"] if shots else []
        return "\n".join([*told, *([f"system prompt {shown(system)}"] if system is not None else [])])

    @property
    def scored_by(self) -> str | None:
        """How answers to questions of one's own are scored, where they are, and that a rule stands in for a judge."""
        scoring = self.figures["scoring"]
        if by_rule := [judge for judge in self.figures.get("judges", {}) if judge.startswith(BY_RULE)]:
            return ", ".join(by_rule)
        own = self.settings and self.data_set not in DATA_SETS
        return scoring if own and self.figures["scored"] else None

    @property
    def shard(self) -> str | None:
        """Which part of a run it is, such as "2/4"; None for a whole run."""
        told = shard_of_name(self.name)
        return told and f"{told[1]}/{told[2]}"


def find_runs(paths: Iterable[Path], warn: Callable[[str], None]) -> list[Run]:
    """The runs in result files and folders, each once, ordered by data set, experiment and threshold.

    Args:
        paths: files of runs (.json, .jsonl, .txt), or folders, searched for all_info folders all the way down; what
            --rerun has set aside (folders replaced-*) and shards of runs that are merged are left out.
        warn: told in a line about each file that is left out.

    Raises:
        ResultsError: a path does not exist, or no run is found in any.
    """
    runs: dict[Path, Run] = {}
    problems: list[str] = []
    for path in _result_files(paths):
        files = _files_of(path)
        if files.json.absolute() in runs:
            continue
        try:
            run = _read_run(path, files, problems.append)
        except ResultsError as error:
            problems.append(str(error))
        else:
            runs[files.json.absolute()] = run
    if not runs:
        raise ResultsError(problems[0] if problems else f"no results found in {', '.join(map(str, paths))}")
    for problem in dict.fromkeys(problems):
        warn(problem)

    def order(run: Run) -> tuple:
        kind = KINDS.index(run.kind) if run.kind in KINDS else len(KINDS)
        number = run.threshold or 0
        return (
            run.data_set or "",
            kind,
            run.models,
            run.told.criterion or "",
            run.told.blend or "",
            number,
            str(run.path),
        )

    return sorted(runs.values(), key=order)


def _result_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if is_folder(path):
            for found in sorted(path.rglob("*")):
                below = found.relative_to(path).parts[:-1]
                if (
                    found.parent.name == "all_info"
                    and found.suffix in (".json", ".jsonl")
                    and not found.name.endswith(_SUFFIXES[:2])
                    and not any(part.startswith("replaced-") for part in below)
                    and not _is_merged(found)
                ):
                    yield found
        elif os.path.exists(path):
            yield path
        else:
            raise ResultsError(f"{path} does not exist")


def _is_merged(path: Path) -> bool:
    """Whether a file is a shard's whose whole run is there."""
    told = shard_of_name(_without_suffix(path))
    return told is not None and path.with_name(f"{told[0]}.json").exists()


def _without_suffix(path: Path) -> str:
    return next((path.name.removesuffix(s) for s in _SUFFIXES if path.name.endswith(s)), path.name)


def _files_of(path: Path) -> ResultFiles:
    return ResultFiles.of(path if path.suffix == ".txt" else path.with_name(_without_suffix(path) + ".json"))


def _read_run(path: Path, files: ResultFiles, warn: Callable[[str], None]) -> Run:
    """The run that a file belongs to.

    Raises:
        ResultsError: it cannot be read, or holds no answers.
    """
    try:
        if files.jsonl.exists() or files.json.exists():
            where, records = (files.jsonl if files.jsonl.exists() else files.json), files.records()
        else:  # a file that somebody has moved out of its all_info folder
            where, records = path, read_records(path)
        if not records:
            raise ResultsError(f"{where} holds no answers yet")
        metadata = _read_metadata(files, warn)
        settings = metadata["settings"] if metadata else {}
        data_set = settings.get("dataset_name") or (
            files.txt.parent.name if files.txt.parent.name in DATA_SETS else None
        )
        told = told_by_settings(settings) if settings else told_by_name(_without_suffix(path), records)
        scoring = metadata.get("scoring") or _scoring(data_set, records)
        if scoring == "rule":  # the published program writes -1, and counts when it prints
            score_by_rule([r for r in records if r.get("scores") and not scores_of(r, scoring)])
        records = [record | {"scores": scores_of(record, scoring)} for record in records]
        return Run(
            path=where,
            data_set=data_set,
            settings=settings,
            records=records,
            figures=summarise(records, scoring).fields,
            pace=pace(metadata, records),
            finished=where.suffix == ".json" or files.json.exists(),
            told=told,
            engine=engines(metadata),
        )
    except _DAMAGE as error:
        raise ResultsError(f"{path} is not a result file ({type(error).__name__}: {error})") from None


def _read_metadata(files: ResultFiles, warn: Callable[[str], None]) -> dict:
    """What run.json holds, its settings at least; empty if there is none or it is damaged."""
    try:
        return read_json(files.run, "the settings of this run are told by its name alone", _ToldMetadata)
    except ResultsError as error:
        warn(str(error))
        return {}


def _scoring(data_set: str | None, records: list[dict]) -> str | tuple[str, ...]:
    if data_set in DATA_SETS:
        return DATA_SETS[data_set].scoring
    # Where nothing is scored yet, the published program writes -1.
    scores = next((told for record in records if isinstance(told := record.get("scores"), dict) and told), {})
    if isinstance(scores.get("scores"), dict):  # the published program's
        return tuple(scores["scores"])
    if "mean" not in scores and "correct" not in scores and "score" in scores:
        return "own"  # a function's of one's own
    return "judge" if "mean" not in scores else tuple(a for a, score in scores.items() if isinstance(score, dict))


def results_table(runs: list[Run]) -> pd.DataFrame:
    """One row of figures per run, as for CSV: shares from 0 to 1, requests and tokens per answer by model role, seconds."""
    rows = []
    for run in runs:
        f = run.figures
        accuracy, mean, own = (f.get(f"{name}_interval_95") for name in ("accuracy", "mean_score", "mean_own_score"))
        row = {
            "data_set": run.data_set,
            "experiment": run.kind,
            "models": " + ".join(run.models),
            "criterion": run.told.criterion,
            "threshold": run.threshold,
            "blend": run.told.blend,
            "engine": run.engine or None,
            "asked_with": run.asked_with or None,
            "scored_by": run.scored_by,
            "finished": run.finished,
            "shard": run.shard,
            "n": f["samples"],
            "failed": f["failed"],
            "unscored": f["unscored"],
            "accuracy": f.get("accuracy"),
            "accuracy_low": accuracy and accuracy[0],
            "accuracy_high": accuracy and accuracy[1],
            "mean_score": f.get("mean_score"),
            "mean_score_low": mean and mean[0],
            "mean_score_high": mean and mean[1],
            "mean_own_score": f.get("mean_own_score"),
            "mean_own_score_low": own and own[0],
            "mean_own_score_high": own and own[1],
            **columns_of_several(f),
            "intervention_rate": f.get("mean_ratio_nudging"),
            "nudged_character_share": f.get("nudged_character_share"),
            "stop_reasons": ", ".join(f"{reason} {n}" for reason, n in f["stop_reasons"].items()),
        }
        for quantity in ("requests", "prompt_tokens", "completion_tokens"):
            row |= {f"{quantity}_{role}": use[quantity] for role, use in f["per_answer"].items()}
        row |= {"latency_seconds": run.pace.latency, "at_a_time": run.pace.at_a_time}
        row |= {"answers_per_minute": run.pace.answers_per_minute, "file": str(run.path)}
        # pandas takes no lone surrogates.
        rows.append({name: visible(value) if isinstance(value, str) else value for name, value in row.items()})
    table = pd.DataFrame(rows)
    # A column that says the same of every run, as all did before there were others, is left out.
    own = ("asked_with", "scored_by", "mean_own_score", "mean_own_score_low", "mean_own_score_high", *COLUMNS)
    for column, usual in (("shard", None), ("blend", None), ("criterion", TOP_PROB), *((name, None) for name in own)):
        if all(value is None or value == usual for value in table[column].replace(math.nan, None)):
            del table[column]
    last = ["latency_seconds", "at_a_time", "answers_per_minute", "file"]
    return table[[column for column in table.columns if column not in last] + last]


def readable_table(table: pd.DataFrame) -> pd.DataFrame:
    """`results_table` for people: texts alone, lines of a cell parted by newlines, columns without content left out."""

    def role_lines(row: pd.Series, form: Callable[[str], str]) -> str:
        roles = [role for role in MODEL_ROLES if _known(row.get(f"requests_{role}"))]
        return "\n".join(f"{role.replace('_', ' ')} {form(role)}" for role in roles)

    rows = []
    for _, row in table.iterrows():
        unscored = row["unscored"] and f"{row['unscored']} unscored"
        rows.append(
            {
                "Data set": row["data_set"] if _known(row["data_set"]) else "unknown",
                "Experiment": row["experiment"].replace("_", " ") if _known(row["experiment"]) else "unknown",
                "Models": (row["models"] or "unknown").replace(" + ", "\n"),
                "Criterion": (row.get("criterion") or "").replace("_", " ") if _known(row.get("criterion")) else "",
                "Threshold": _number(row["threshold"], "{:g}"),
                "Blend": row["blend"] if _known(row.get("blend")) else "",
                "Asked with": row["asked_with"] if _known(row.get("asked_with")) else "",
                "State": _state(row),
                "Answers": str(row["n"] - row["failed"])
                + _number(row.get("answers_per_question"), "\n{:.0f} per question")
                + (f"\n{unscored}" if unscored else ""),
                "Failed": str(row["failed"]) if table["failed"].any() else "",
                "Scored by": row["scored_by"] if _known(row.get("scored_by")) else "",
                "Accuracy (95 % interval)": _share_with_interval(row),
                "Mean score, 1 to 5 (95 % interval)": _number(row["mean_score"], "{:.2f}")
                + _interval(row["mean_score_low"], row["mean_score_high"], "{:.2f}"),
                "Mean score, 0 to 1 (95 % interval)": _number(row.get("mean_own_score"), "{:.2f}")
                + _interval(row.get("mean_own_score_low"), row.get("mean_own_score_high"), "{:.2f}"),
                **shown_of_several(row, _number, _interval),
                "Intervention rate, as published": _percent(row["intervention_rate"]),
                "Nudged characters, of all": _percent(row["nudged_character_share"]),
                "Latency, s per answer": _number(row["latency_seconds"], "{:.2f}")
                + _number(row["at_a_time"], " (at {:.0f} at a time)"),
                "Answers per minute": _number(row["answers_per_minute"], "{:.1f}"),
                "Requests per answer": role_lines(row, lambda role, row=row: f"{row[f'requests_{role}']:.1f}"),
                "Tokens per answer, in + out": role_lines(
                    row,
                    lambda role, row=row: (
                        f"{prompt_count(row[f'prompt_tokens_{role}'])} + {row[f'completion_tokens_{role}']:,.0f}"
                    ),
                ),
                "Engine": (row["engine"] or "").replace(", ", "\n") if _known(row["engine"]) else "",
                "Stop reasons": row["stop_reasons"].replace(", ", "\n").replace("_", " "),
            }
        )
    shown = pd.DataFrame(rows)
    return shown.loc[:, (shown != "").any()]


def _state(row: pd.Series) -> str:
    shard = row.get("shard")
    return ", ".join([f"shard {shard}"] * _known(shard) + ["unfinished"] * (not row["finished"]))


def _known(value) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _number(value, form: str) -> str:
    return form.format(value) if _known(value) else ""


def _percent(share) -> str:
    return _number(share, "{:.1%}").replace("%", " %")


def _interval(low, high, form: str) -> str:
    return f" ({form.format(low)} to {form.format(high)})" if _known(low) else ""


def _share_with_interval(row: pd.Series) -> str:
    if not _known(row["accuracy"]):
        return ""
    percent = [100 * row[column] for column in ("accuracy", "accuracy_low", "accuracy_high")]
    return f"{percent[0]:.1f} %" + _interval(percent[1], percent[2], "{:.1f}")
