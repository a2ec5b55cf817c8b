"""Where the nudging model's words stand in answers of nudging runs: from the records alone, without any model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.answers import Answer
from analysis.kinds import kind_of, units_of


@dataclass(frozen=True)
class Unit:
    """A word, number, sign or newline of an answer, its kind, and whether the nudging model wrote it (its beginning)."""

    answer: int
    start: int
    relative: float
    kind: str
    nudged: bool


def nudged_spans(answer: Answer) -> list[tuple[int, int]] | None:
    """The nudging model's parts of an answer as (start, end); None where the record's parts are not its text."""
    spans, at = [], 0
    parts = list(itertools.zip_longest(answer.nudging_words or (), answer.pieces, fillvalue=""))
    for words, piece in parts:
        whole = piece if piece.startswith(words) else words + piece
        if not answer.text.startswith(whole, at):
            return None
        spans.append((at, at + len(words)))
        at += len(whole)
    return spans if at == len(answer.text) else None


def units(answers: Sequence[Answer]) -> tuple[list[Unit], list[str]]:
    """The units of all answers that say who wrote what, and the names of those whose parts are not their text."""
    found, odd = [], []
    for number, answer in enumerate(answers):
        if answer.nudging_words is None:
            continue
        spans = nudged_spans(answer)
        if spans is None:
            odd.append(answer.name)
            continue
        for start, end in units_of(answer.text):
            nudged = any(a <= start < b for a, b in spans)
            kind = kind_of(answer.text, start, end)
            found.append(Unit(number, start, start / len(answer.text), kind, nudged))
    return found, odd
