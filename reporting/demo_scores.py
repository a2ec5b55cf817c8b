"""The demo's runs, and what can be said of their answers by rule: they end by themselves, repeat themselves, name the right answer.

The rules read what the models wrote, before any clean-up, so that a loop is not tidied away before it is counted.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from command.files import ResultsError
from command.intervals import wilson_interval
from reporting.html_report import pieces_by_turns
from reporting.run_table import Run, find_runs

COLUMNS = {"base_only": "base alone", "nudging_only": "nudging model alone", "nudging": "nudged"}
MORE = "scripts/demo.sh makes it, and goes on where it was stopped"
ENDED = ("stop", "nudging_model_stop")
REPEATED_WORDS = 6
ALTERNATIVES = " or "
_WORD = re.compile(r"\w+")
_ROLE = re.compile(
    r"^\W*(?:instruction|question|input|user|human|you are a helpful assistant|q)\b\s*[:.\n]", re.I | re.M
)
_QUESTION = re.compile(r"[^.!?\n]*\?")


def written(record: dict) -> str:
    """An answer as the models wrote it; the record of a nudged one has its clean text besides."""
    return "".join(record["all_completions"]) if "all_completions" in record else record["raw_answer"]


def ended(record: dict) -> bool:
    """Whether a model ended the answer; otherwise its length, or a loop that was noticed, ended it."""
    return record.get("stop_reason") in ENDED


def repeats(text: str) -> bool:
    """Whether the same six words stand in a row twice, whatever their case and the signs between them."""
    words = _WORD.findall(text.lower())
    runs = [tuple(words[i : i + REPEATED_WORDS]) for i in range(len(words) - REPEATED_WORDS + 1)]
    return len(set(runs)) < len(runs)


def before_invented_question(text: str, question: str) -> str:
    """The answer up to where a new task begins: a line with a role's name, or a question other than the one that was asked."""
    role = _ROLE.search(text)
    text = text[: role.start()] if role else text
    asked = _WORD.findall(question.lower())
    invented = (found for found in _QUESTION.finditer(text) if _WORD.findall(found[0].lower()) != asked)
    first = next(invented, None)
    return text[: first.start()] if first else text


def names_expected(text: str, question: str, expected: str) -> bool:
    """Whether one of the expected words (`expected`: "seven or 7") stands in the answer, whole, before any invented question."""
    answer = before_invented_question(text, question)
    return any(
        re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", answer, re.I)
        for word in expected.split(ALTERNATIVES)
        if word.strip()
    )


def is_good(record: dict) -> bool:
    """Whether an answer ends by itself, does not repeat itself, and names the expected answer."""
    return ended(record) and not repeats(written(record)) and _names(record)


def _names(record: dict) -> bool:
    return names_expected(written(record), record["question"], record["gold_answer"])


def nudging_share(record: dict) -> float:
    """The nudging model's share of a nudged answer's letters and signs; unlike in the intervention rate, the ending counts."""
    lengths = [sum(not letter.isspace() for letter in piece) for piece in pieces_by_turns(record)]
    return sum(lengths[::2]) / (sum(lengths) or 1)


MEASURES: dict[str, Callable[[dict], bool]] = {
    "end by themselves": ended,
    "repeat themselves": lambda record: repeats(written(record)),
    "name the right answer": _names,
    "good in all three": is_good,
}


@dataclass(frozen=True)
class Share:
    """How many answers, of how many."""

    count: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval."""
        return wilson_interval(self.count, self.n)


def share(records: Iterable[dict], measure: Callable[[dict], bool]) -> Share:
    """How many of the records a measure holds for."""
    held = [measure(record) for record in records]
    return Share(sum(held), len(held))


def paired_difference(one: list[bool], other: list[bool]) -> tuple[float, float, float]:
    """The difference of two shares over the same questions (`one` minus `other`) with its 95 % interval.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10: Wilson intervals of both shares, joined by their correlation. Unlike the normal approximation it has a width
    where all questions agree.
    """
    n = len(one)
    both = sum(x and y for x, y in zip(one, other, strict=True))
    first, second = sum(one), sum(other)
    p, q = first / n, second / n
    (p_low, p_high), (q_low, q_high) = wilson_interval(first, n), wilson_interval(second, n)
    neither = n - first - second + both
    spread = math.sqrt(first * (n - first) * second * (n - second))
    product = both * neither - (first - both) * (second - both)
    product = max(product - n / 2, 0) if product > 0 else product
    phi = product / spread if spread else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0))

    return p - q, p - q - half(p - p_low, q_high - q), p - q + half(p_high - p, q - q_low)


@dataclass(frozen=True)
class Demo:
    """The three runs of the demo, and their records of the questions that all three have answered, in order."""

    runs: dict[str, Run]
    records: dict[str, list[dict]]
    left_out: int

    @property
    def questions(self) -> int:
        """How many questions all three runs have answered."""
        return len(self.records["nudging"])

    def holds(self, kind: str, measure: Callable[[dict], bool]) -> list[bool]:
        """For each question, whether a measure holds for the run's answer."""
        return [measure(record) for record in self.records[kind]]


def read_demo(folder: Path, warn: Callable[[str], None]) -> Demo:
    """The runs of a demo.

    Raises:
        ResultsError: one of them is missing or unfinished, or they have no question in common.
    """
    problems: list[str] = []
    found, runs = find_runs([folder], problems.append), {}
    for kind, name in COLUMNS.items():
        of_kind = [run for run in found if run.kind == kind]
        if not of_kind:
            raise ResultsError(problems[0] if problems else f"{folder} has no run of {name}; {MORE}")
        runs[kind] = max(of_kind, key=lambda run: run.path.stat().st_mtime)
        if not runs[kind].finished:
            raise ResultsError(f"{runs[kind].path} is unfinished; {MORE}")
        if any(not _is_demo_record(record, kind) for record in runs[kind].records):
            raise ResultsError(
                f"{runs[kind].path} is no run of the demo: an answer in it lacks what the table is made of"
            )
        if len(of_kind) > 1:
            problems.append(f"there are {len(of_kind)} runs of {name}; this is the newest")
    answers = {
        kind: {record["question"]: record for record in run.records if "error" not in record}
        for kind, run in runs.items()
    }
    asked = dict.fromkeys(record["question"] for run in runs.values() for record in run.records)
    common = [question for question in asked if all(question in of_run for of_run in answers.values())]
    if not common:
        raise ResultsError(f"the runs in {folder} have answered no question in common; {MORE}")
    for problem in problems:
        warn(problem)
    records = {kind: [of_run[question] for question in common] for kind, of_run in answers.items()}
    return Demo(runs, records, len(asked) - len(common))


def _is_demo_record(record: dict, kind: str) -> bool:
    lists = ("all_completions", "all_nudging_words") if kind == "nudging" else ()
    return "error" in record or (
        isinstance(record.get("gold_answer"), str)
        and all(isinstance(record.get(name), list) and all(isinstance(x, str) for x in record[name]) for name in lists)
    )
