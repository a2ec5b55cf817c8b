"""Paired comparisons of two systems that answered the same questions, and what several of them together allow to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from command.intervals import mean_interval


@dataclass(frozen=True)
class Paired:
    """How much higher the first of two systems scores than the second, question by question.

    `difference` is the mean of the differences over `n` questions, `interval` its 95 % interval by the normal approximation.
    `p` is that of no difference at all: McNemar's exact test where every score is 0 or 1, else a paired t test; None where it
    cannot be taken. `wins` and `losses` are questions at which the first scores higher and lower.
    """

    n: int
    difference: float
    interval: tuple[float, float]
    p: float | None
    wins: int
    losses: int


def compare(first: Sequence[float], second: Sequence[float]) -> Paired | None:
    """Compare scores of the same questions in the same order; None for no questions."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if not differences:
        return None
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    binary = {*first, *second} <= {0, 1}
    p = mcnemar(wins, losses) if binary else _paired_t(differences)
    return Paired(
        len(differences), math.fsum(differences) / len(differences), mean_interval(differences), p, wins, losses
    )


def mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact two-sided test: the probability of so uneven a split of the questions at which two systems differ."""
    if not wins + losses:
        return 1.0
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(wins, wins + losses).pvalue)


def _paired_t(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    if len(set(differences)) == 1:  # no spread to compare with
        return 1.0 if differences[0] == 0 else None
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The probabilities of several comparisons, raised so that all of them together may be read at one level (Holm 1979)."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    raised: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        raised[i] = highest
    return raised
