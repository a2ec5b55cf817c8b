"""Files of answers to be scored, and what is said of each: figures by reward model, one table, arrays."""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tabulate import tabulate

from command.console import visible
from command.files import ResultsError, saved_elsewhere, write_atomically
from command.paired import compare
from datasets_loader import DataError
from pad.answers import Answered, read_answer, row_number
from pad.preferences import from_text
from pad.rows import read_rows
from pad.summary import check_same_questions, mean_and_error, paired, published_figures
from utils import without_surrogates

if TYPE_CHECKING:
    import argparse

    from pad.measure_options import Wanted
    from pad.scorers import Scored

PER_ROW = "per row"
_ABOUT = ("name", "rm_weight", "preference")


@dataclass(frozen=True)
class AnswersFile:
    """A file of answers by prompt and sample, how many rows it has, and what they all say of themselves.

    `prompts` is the highest number of one and 1, skipped rows too. `about` has "name", "rm_weight" and "preference"; None where
    rows say nothing, "per row" where they differ.
    """

    name: str
    answers: dict[tuple[int, int], Answered]
    rows: int
    prompts: int
    about: dict

    @property
    def several(self) -> bool:
        """Whether there are several answers to a prompt."""
        return any(sample for _, sample in self.answers)


def read_file(name: str, options: "argparse.Namespace", say: Callable[[str], None]) -> AnswersFile:
    """The answers of a file.

    Raises:
        DataError: it cannot be read, has no answers, or two of one index and sample.
    """
    rows = read_rows(Path(name), say)
    answers: dict[tuple[int, int], Answered] = {}
    about: dict[str, list] = {key: [] for key in _ABOUT}
    how = {"experiment": options.experiment, "field": options.field, "any_response": options.format != "native"}
    for number, row in enumerate(rows):
        answered = read_answer(row, number, name, **how)
        if answered is None:
            continue
        if answered.key in answers:
            sample = f" and the sample {answered.sample}" if answered.sample else ""
            raise DataError(f"{name}: two rows have the index {answered.index}{sample}")
        answers[answered.key] = answered
        for key, value in _said(row).items():
            if value not in about[key]:
                about[key].append(value)
    if not answers:
        raise DataError(f"{name} holds no answers")
    return AnswersFile(
        name,
        answers,
        len(rows),
        1 + max(row_number(row, number) for number, row in enumerate(rows)),
        {key: found[0] if len(found) == 1 else PER_ROW for key, found in about.items()},
    )


def _said(row: dict) -> dict:
    """What a row says of how it was made."""
    config = row["config"] if isinstance(row.get("config"), dict) else {}
    found = {key: row.get(key, config.get(key)) for key in _ABOUT}
    weight = found["rm_weight"]
    plain = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    texts = {key: value if isinstance(value := found[key], str) else None for key in ("name", "preference")}
    if texts["preference"] is None and isinstance(text := row.get("sys_prompt"), str):  # of earlier versions
        texts["preference"] = from_text(text).name
    return {"name": texts["name"], "rm_weight": weight if plain else None, "preference": texts["preference"]}


def check_baseline(files: list[AnswersFile], baseline: AnswersFile) -> None:
    """Raise DataError where the baseline answers other questions than a file, or none of a file's."""
    theirs = by_prompt(baseline.answers)
    for file in files:
        if not by_prompt(file.answers).keys() & theirs.keys():
            raise DataError(
                f"--baseline {baseline.name} and {file.name} have no answered prompt in common; compare outputs of the same prompts"
            )
        check_same_questions(by_prompt(file.answers), theirs, f"--baseline {baseline.name} and {file.name}")


def by_prompt(answers: Mapping[tuple[int, int], Answered]) -> dict[int, Answered]:
    """The first answer to each prompt."""
    found: dict[int, Answered] = {}
    for (index, _), answered in sorted(answers.items(), key=lambda item: item[0]):
        found.setdefault(index, answered)
    return found


def means(scores: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """The score of each prompt: of several answers to it the mean."""
    groups: dict[int, list[float]] = {}
    for (index, _), score in scores.items():
        groups.setdefault(index, []).append(score)
    return {index: statistics.fmean(group) for index, group in groups.items()}


@dataclass
class Measured:
    """What one reward model says of one file."""

    file: AnswersFile
    wanted: "Wanted"
    scored: "Scored"
    baseline: Mapping[int, float] | None  # of the baseline's prompts, where the file is not the baseline itself
    is_baseline: bool = False

    @property
    def scores(self) -> dict[int, float]:
        """By prompt."""
        return means(self.scored.scores)

    def report(self, options: "argparse.Namespace", pattern: bool, baseline: AnswersFile | None) -> dict:
        """Its figures."""
        found: dict = {"file": self.file.name, **self.file.about}
        found["skipped"] = self.file.rows - len(self.file.answers) + self.scored.too_long
        if options.format != "native":
            found["published"] = published_figures(self.scored.counted, self.scored.too_long, pattern)
        found |= {"rm": self.wanted.model, "dimension": self.wanted.dimension, "format": options.format}
        found |= mean_and_error(list(self.scores.values()))
        if self.file.several:
            found["answers"] = len(self.scored.scores)
        if self.baseline is not None:
            found["baseline"] = {"file": baseline.name} | mean_and_error(list(self.baseline.values()))
            found["paired"] = self.paired()
        return found

    def paired(self) -> dict:
        """The comparison with the baseline by prompt, with the difference's 95 % interval and p."""
        found = paired(self.scores, self.baseline)
        common = sorted(self.scores.keys() & self.baseline.keys())
        tested = compare([self.scores[i] for i in common], [self.baseline[i] for i in common])
        return found | {"difference_interval_95": tested.interval, "p": tested.p, "test": tested.test}

    def array(self) -> np.ndarray:
        """Scores by prompt, or by prompt and sample where there are several; NaN where a row was skipped."""
        keys = self.scored.scores
        samples = 1 + max((sample for _, sample in keys), default=0)
        found = np.full((self.file.prompts, samples), np.nan)
        for key, score in keys.items():
            found[key] = score
        return found if self.file.several else found[:, 0]

    def row(self) -> dict:
        """Its row in the table of a sweep."""
        low, high = t_interval(list(self.scores.values())) or (None, None)
        figures = mean_and_error(list(self.scores.values()))
        found = {"file": self.file.name} | self.file.about | {"scorer": self.wanted.label}
        found |= {"n": figures["n"], "mean": figures["mean"], "se": figures["se"]}
        found |= {"low_95": low, "high_95": high}
        empty = dict.fromkeys(
            ("difference", "difference_low_95", "difference_high_95", "p", "won", "tied", "lost", "pairs")
        )
        if self.is_baseline:
            found["preference"] = found["preference"] or "(the baseline)"
        if self.baseline is None:
            return found | empty
        pairs = self.paired()
        low, high = pairs["difference_interval_95"] or (None, None)
        found |= {"difference": pairs["difference"]["mean"], "difference_low_95": low, "difference_high_95": high}
        found |= {"p": pairs["p"], "won": pairs["wins"], "tied": pairs["ties"], "lost": pairs["losses"]}
        return found | {"pairs": pairs["difference"]["n"]}


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean, as the difference's is; None where nothing tells how far values spread."""
    figures = mean_and_error(list(values))
    if not figures["se"]:
        return None
    from scipy.stats import t  # slow to import

    half = float(t.ppf(0.975, figures["n"] - 1)) * figures["se"]
    return figures["mean"] - half, figures["mean"] + half


def shown_table(rows: list[dict], form: str = "simple") -> str:
    """The rows of a sweep as a table for people, without columns that hold nothing."""
    columns: dict[str, Callable[[dict], str]] = {
        "preference": lambda row: _cell(row["preference"]),
        "weight": lambda row: _cell(row["rm_weight"]),
        "name": lambda row: _cell(row["name"]),
        "reward model": lambda row: row["scorer"],
        "prompts": lambda row: str(row["n"]),
        "mean ± standard error": lambda row: _with(row["mean"], row["se"]),
        "difference (95 %)": lambda row: _interval(row),
        "p": lambda row: "" if row["p"] is None else f"{row['p']:.3g}",
        "won / tied / lost": lambda row: "" if row["won"] is None else f"{row['won']} / {row['tied']} / {row['lost']}",
        "file": lambda row: row["file"],
    }
    written = {name: [write(row) for row in rows] for name, write in columns.items()}
    written = {name: cells for name, cells in written.items() if any(cells)}
    written = {name: [visible(" ".join(cell.split())) for cell in cells] for name, cells in written.items()}
    if form == "pipe":
        written = {name: [_without_markup(cell) for cell in cells] for name, cells in written.items()}
    return tabulate(written, headers="keys", tablefmt=form, disable_numparse=True)


def _without_markup(text: str) -> str:
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(sign, written)
    return text


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, int | float) else " ".join(str(value).split())
    return shortened(text, 40)


def shortened(text: str, longest: int) -> str:
    """A text of at most that many characters: the middle is left out, as long names often begin alike."""
    if len(text) <= longest:
        return text
    begin = (longest - 3) // 2
    return f"{text[:begin]}...{text[begin + 3 - longest :]}"


def _with(mean: float | None, error: float | None) -> str:
    return "" if mean is None else f"{mean:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _interval(row: dict) -> str:
    if row["difference"] is None:
        return ""
    low, high = row["difference_low_95"], row["difference_high_95"]
    return f"{row['difference']:+.4f}" + ("" if low is None else f" ({low:+.4f} to {high:+.4f})")


def save(
    options: "argparse.Namespace",
    reports: list[dict],
    measured: list[Measured],
    rows: list[dict],
    say: Callable[[str], None],
) -> None:
    """Write --save, --table (its rows) and --npout (ResultsError: they cannot be written)."""
    content = json.dumps(reports, indent=2) + "\n"
    try:
        if options.save:
            Path(options.save).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(options.save), content)
        if options.table and measured:
            write_atomically(Path(options.table), _table_file(rows, options.table))
        if options.npout and measured:
            _save_arrays(Path(options.npout), measured, say)
    except OSError as error:
        place = saved_elsewhere(Path(options.save or "scores.json"), content, "all of them, with the scores,")
        raise ResultsError(f"the figures cannot be written ({error}); {place}") from None


def _table_file(rows: list[dict], path: str) -> str:
    if path.lower().endswith(".md"):
        return without_surrogates(shown_table(rows, "pipe")) + "\n"
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return without_surrogates(file.getvalue())


def _save_arrays(path: Path, measured: list[Measured], say: Callable[[str], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{one.file.name} by {one.wanted.label}": one.array() for one in measured}
    with open(path, "wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez(file, **{visible(name.lstrip("/")): array for name, array in arrays.items()})
            return
        np.save(file, np.concatenate([array.ravel() for array in arrays.values()]))
    if len(arrays) > 1:
        parts = ", ".join(f"{name}: {array.size}" for name, array in arrays.items())
        say(
            f"{path} holds {len(arrays)} arrays one behind the other ({parts}); a name that ends in .npz keeps them apart"
        )
