"""The shards of a run (run_api.py --shard i/n) found, checked and joined into the run that one process would have written."""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from command.files import ResultsError
from command.provenance import now
from command.schema import Count, Text, TextOrNull, Whole, open_table, read_as, shown
from datasets_loader import DATA_SETS
from experiment.judgements import Scoring
from experiment.result_files import ResultFiles, readable_text
from experiment.scorers import BY_RULE
from experiment.summary import summarise

_SHARD = re.compile(r"(?P<name>.+)_shard(?P<i>\d+)of(?P<n>\d+)", re.S)
_SHOWN = 8


def shard_of_name(name: str) -> tuple[str, int, int] | None:
    """The unsharded name, which shard and of how many, told by a result file's name without suffix; None if it is no shard."""
    match = _SHARD.fullmatch(name)
    return (match["name"], int(match["i"]), int(match["n"])) if match else None


@open_table
class _ShardSettings:
    dataset_name: Text
    answers: Count = 1


@open_table
class _ShardMetadata:
    """What run.json has to say of a shard."""

    settings: _ShardSettings
    samples_of_all_shards: Whole
    questions_sha256: TextOrNull = None
    scoring: TextOrNull = None


@dataclass(frozen=True)
class ShardedRun:
    """A run in n shards: its folder, the name of the whole, and the numbers of the shards that have files."""

    folder: Path
    name: str
    n: int
    found: tuple[int, ...]

    @property
    def whole(self) -> ResultFiles:
        """The files of the whole run."""
        return ResultFiles(self.folder, self.name)

    def shard(self, i: int) -> ResultFiles:
        """The files of one shard."""
        return ResultFiles(self.folder, f"{self.name}_shard{i}of{self.n}")


def find_sharded_runs(paths: Iterable[Path]) -> list[ShardedRun]:
    """The sharded runs below folders, or that files belong to.

    Raises:
        ResultsError: a path does not exist or is no shard's file, or a run has been split in two ways.
    """
    found: dict[tuple[Path, str], dict[int, set[int]]] = {}
    for path in paths:
        if not os.path.exists(path):
            raise ResultsError(f"{path} does not exist")
        for file in _log_files(path) if path.is_dir() else [path]:
            name = re.sub(r"\.(run\.json|summary\.json|jsonl|json|txt)$", "", file.name)
            folder = file.parent.parent if file.parent.name == "all_info" else file.parent
            if told := shard_of_name(name):
                found.setdefault((folder, told[0]), {}).setdefault(told[2], set()).add(told[1])
            elif not path.is_dir():
                raise ResultsError(f"{path} is no shard's file: their names end in _shard1of4 and so on")
    for (folder, name), splits in found.items():
        if len(splits) > 1:
            ways = " and ".join(f"{n}" for n in sorted(splits))
            raise ResultsError(
                f"{folder / name} has been split into {ways} shards; move the files of one way elsewhere"
            )
    return [
        ShardedRun(folder, name, n, tuple(sorted(numbers)))
        for (folder, name), splits in sorted(found.items())
        for n, numbers in splits.items()
    ]


def _log_files(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*_shard*of*.jsonl")
        if path.parent.name == "all_info" and not any(part.startswith("replaced-") for part in path.parts)
    ]


def merge(run: ShardedRun, *, replace: bool = False) -> str:
    """Write the files of the whole run; the shards' own stay.

    Args:
        replace: move a whole run that is there already aside, as --rerun does.

    Returns:
        A line that says what was done.

    Raises:
        ResultsError: shards or samples are missing, counted twice or of other settings; or the whole run exists and is not
            what these shards make. Nothing is written then.
    """
    with contextlib.ExitStack() as locks:
        for i in run.found:
            locks.enter_context(run.shard(i).locked())
        locks.enter_context(run.whole.locked())
        per_shard, records = _checked(run)
        where = run.whole.json
        if not replace and (run.whole.json.exists() or run.whole.jsonl.exists()):
            there = {r["index"]: r for r in run.whole.records() if "error" not in r}
            made_here = "merged_from" in run.whole.read_run() and all(_same_answer(r, there) for r in records)
            if not made_here:
                raise ResultsError(f"{where} exists, and its answers are not of these shards; --replace moves it aside")
            if run.whole.summary.exists() and all(r["index"] in there or "error" in r for r in records):
                return f"{where}: merged already"
            records = [there.get(r["index"], r) for r in records]  # they may have scores by now
        metadata = _joined_metadata(run, per_shard)
        seconds = sum(session.get("seconds", 0) for session in metadata["sessions"])
        summary = summarise(records, scoring_of(metadata), seconds=seconds)
        if replace:
            run.whole.set_aside()
        # The metadata goes first: with it, what a kill leaves behind is known for a merge, and the next merge completes it.
        run.whole.write_run(metadata)
        run.whole.write_final(records, readable_text(records))
        run.whole.write_summary(summary.fields)
    failed = summary.fields["failed"]
    failures = f"; {failed} failed samples are among them, which run_api.py without --shard tries again" * bool(failed)
    return f"{where}: {len(records)} samples of {run.n} shards{failures}"


def _same_answer(record: dict, there: dict[int, dict]) -> bool:
    """Whether the whole run has the answer of a shard's record; failed samples, and those it lacks, contradict nothing."""
    merged = there.get(record["index"], record)
    return "error" in record or (record["question"], record["raw_answer"]) == (merged["question"], merged["raw_answer"])


def scoring_of(metadata: dict) -> Scoring:
    """How a run is scored, by its run.json: questions of one's own say it there, a data set has one way."""
    return metadata.get("scoring") or DATA_SETS[metadata["settings"]["dataset_name"]].scoring


def _checked(run: ShardedRun) -> tuple[list[dict], list[dict]]:
    """The metadata of the shards in order, and the records of all in the order of the samples.

    Raises:
        ResultsError: they do not make one whole run.
    """
    per_shard = {i: run.shard(i).read_run() for i in run.found}
    for i, metadata in per_shard.items():
        where, remedy = run.shard(i).run, f"run shard {i} again"
        read_as(_ShardMetadata, metadata, where, ResultsError, remedy=remedy)
        name = metadata["settings"]["dataset_name"]
        if metadata.get("scoring") is None and name not in DATA_SETS:
            raise ResultsError(
                f"{where}: settings.dataset_name must be a data set of this program; it is {shown(name)}; {remedy}"
            )
    first, total = (per_shard[run.found[0]][key] for key in ("settings", "samples_of_all_shards"))
    answers = first.get("answers", 1)  # to each question: all of them are in one shard
    if missing := [i for i in range(1, min(run.n, total // answers) + 1) if i not in run.found]:
        raise ResultsError(f"{run.folder / run.name}: missing {_listed('shard', missing)} of {run.n}")
    for i, metadata in per_shard.items():
        differing = [key for key in first | metadata["settings"] if first.get(key) != metadata["settings"].get(key)]
        if differing != ["shard"] * (i != run.found[0]) or metadata["samples_of_all_shards"] != total:
            names = ", ".join(f"--{key}" for key in differing if key != "shard") or "the data set's size"
            raise ResultsError(f"{run.shard(i).jsonl} was made with other settings than shard {run.found[0]}: {names}")
        if metadata.get("scoring") != (known := per_shard[run.found[0]].get("scoring")):
            raise ResultsError(
                f"{run.shard(i).jsonl} is scored by --scoring {metadata.get('scoring')}, and shard {run.found[0]} by {known}; "
                "score both alike by eval_utils.py --scoring"
            )
    _check_questions(run, per_shard)
    merged: dict[int, tuple[int, dict]] = {}
    for i in run.found:
        for record in run.shard(i).records():
            index = record["index"]
            if index in merged:
                raise ResultsError(f"{run.folder / run.name}: sample {index} is in shard {merged[index][0]} and in {i}")
            if index >= total or index // answers % run.n != i - 1:
                raise ResultsError(f"{run.shard(i).jsonl}: sample {index} does not belong to shard {i} of {run.n}")
            merged[index] = i, record
    if gaps := [index for index in range(total) if index not in merged]:
        unfinished = sorted({index // answers % run.n + 1 for index in gaps})
        raise ResultsError(
            f"{run.folder / run.name}: missing {_listed('sample', gaps)} of {total}; "
            f"continue {_listed('shard', unfinished)} of {run.n} first"
        )
    _check_one_kind_of_scores(run, merged)
    return [per_shard[i] for i in run.found], [merged[index][1] for index in range(total)]


def _check_one_kind_of_scores(run: ShardedRun, merged: dict[int, tuple[int, dict]]) -> None:
    """Raise ResultsError where rules of ours have scored some shards and a judge others: figures of different kinds."""
    kinds: dict[str, int] = {}
    for i, record in merged.values():
        if "error" not in record and isinstance(record.get("scores"), dict):
            judge = str(record["scores"].get("judge", ""))
            kinds.setdefault(judge if judge.startswith(BY_RULE) else "a judge", i)
    if len(kinds) > 1:
        told = ", ".join(f"shard {i} by {kind}" for kind, i in kinds.items())
        raise ResultsError(
            f"{run.folder / run.name}: scored in different ways ({told}); score all alike by eval_utils.py --rescore"
        )


def _check_questions(run: ShardedRun, per_shard: dict[int, dict]) -> None:
    """Raise ResultsError unless all shards have asked the same questions.

    Versions before the fingerprint cut off blanks at the ends of some data sets' questions; in others they asked the same.
    """
    known = {i: told for i, metadata in per_shard.items() if (told := metadata.get("questions_sha256"))}
    for i, told in known.items():
        if told != known[first := min(known)]:
            raise ResultsError(
                f"{run.shard(i).jsonl} asked other questions than shard {first}: use the same data for both"
            )
    earlier = [i for i in per_shard if i not in known]
    name = per_shard[earlier[0]]["settings"]["dataset_name"] if earlier else None
    if known and name in DATA_SETS and DATA_SETS[name].keeps_blanks:
        raise ResultsError(
            f"{run.shard(earlier[0]).jsonl}: an earlier version made it, which cut off blanks at the ends of questions; "
            f"answer {_listed('shard', earlier)} of {run.n} again with --rerun"
        )


def _listed(what: str, numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (f" and {len(numbers) - _SHOWN} more" * (len(numbers) > _SHOWN))
    return f"{what}{'s' * (len(numbers) > 1)} {shown}"


def _joined_metadata(run: ShardedRun, per_shard: list[dict]) -> dict:
    settings = {key: value for key, value in per_shard[0]["settings"].items() if key != "shard"}
    sessions = [
        session | {"shard": f"{i}/{run.n}"}
        for i, metadata in zip(run.found, per_shard, strict=True)
        for session in metadata.get("sessions", [])
    ]
    scoring = {"scoring": per_shard[0]["scoring"]} if per_shard[0].get("scoring") else {}
    return scoring | {
        "settings": settings,
        "all_settings": json.loads(json.dumps(per_shard[0].get("all_settings", {}))) | {"shard": None},
        "samples": per_shard[0]["samples_of_all_shards"],
        "samples_of_all_shards": per_shard[0]["samples_of_all_shards"],
        "questions_sha256": per_shard[0].get("questions_sha256"),
        "merged_from": [run.shard(i).jsonl.name for i in run.found],
        "merged_at": now(),
        "sessions": sorted(sessions, key=lambda session: session.get("start", "")),
    }
