"""Paired comparisons of two systems that answered the same questions, and what several of them together allow to say."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from command.intervals import Z_95

MCNEMAR, PAIRED_T, SIGN = "McNemar's exact test", "paired t test", "exact sign test"
# Differences of floating-point scores that are no differences.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Paired:
    """How much higher the first of two systems scores than the second, question by question.

    `difference` is the mean of the differences over `n` questions, `interval` its 95 % interval (None where nothing tells how far
    differences spread). `wins` and `losses` are questions at which the first scores higher and lower. `p` is the two-sided
    probability of such a difference where there is none, by `test`.
    """

    n: int
    difference: float
    interval: tuple[float, float] | None
    wins: int
    losses: int
    p: float
    test: str


def compare(first: Sequence[float], second: Sequence[float]) -> Paired | None:
    """Compare scores of the same questions in the same order; None for no questions.

    Scores of 0 and 1 are compared by McNemar's exact test, others by a paired t test, and others whose differences are all the
    same, which have no spread for it, by the exact sign test.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if not differences:
        return None
    n, mean = len(differences), math.fsum(differences) / len(differences)
    wins, losses = sum(d > _ROUNDING for d in differences), sum(d < -_ROUNDING for d in differences)
    if {*first, *second} <= {0, 1}:
        return Paired(n, mean, agresti_min_interval(n, wins, losses), wins, losses, sign_test(wins, losses), MCNEMAR)
    if max(differences) - min(differences) <= _ROUNDING:
        return Paired(n, mean, None, wins, losses, sign_test(wins, losses), SIGN)
    return _by_t(differences, mean, wins, losses)


def sign_test(wins: int, losses: int) -> float:
    """The two-sided probability of so uneven a split of wins and losses by chance (McNemar 1947, exact form; the sign test)."""
    if not wins + losses:
        return 1.0
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(wins, wins + losses).pvalue)


def agresti_min_interval(n: int, wins: int, losses: int) -> tuple[float, float]:
    """95 % interval of a difference of two paired proportions (Agresti, Min 2005: half a question added to each outcome)."""
    total, b, c = n + 2, wins + 0.5, losses + 0.5
    centre = (b - c) / total
    half = Z_95 / total * math.sqrt(b + c - (b - c) ** 2 / total)
    return max(-1.0, centre - half), min(1.0, centre + half)


def _by_t(differences: Sequence[float], mean: float, wins: int, losses: int) -> Paired:
    from scipy.stats import t  # slow to import

    n = len(differences)
    error = statistics.stdev(differences) / math.sqrt(n)
    half = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1))
    return Paired(n, mean, (mean - half, mean + half), wins, losses, p, PAIRED_T)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The probabilities of several comparisons, raised so that all of them together may be read at one level (Holm 1979)."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    raised: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        raised[i] = highest
    return raised
