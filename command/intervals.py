"""95 % intervals of proportions and of means, also of what comes in groups, such as several answers to one question."""

import math
import statistics
from collections.abc import Sequence

Z_95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927), as two shares from 0 to 1."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the bounds are exact; rounding would leave 1e-17 beside them.
    return (centre - half if successes else 0.0), (centre + half if successes < n else 1.0)


def mean_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of a mean, by the normal approximation; from -inf to inf for fewer than two values."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = Z_95 * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def grouped_wilson_interval(groups: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % interval of the share of ones among values that are alike within a group.

    It is Wilson's for as many independent values as these amount to: their number over the design effect, the variance of the share
    over what it would be of independent values (Kish, "Survey Sampling", 1965; Dean, Pagano, Journal of Survey Statistics and
    Methodology 2015). These are no more than there are values, and no fewer than groups; as many as groups where nothing varies.

    Args:
        groups: zeros and ones; none of them empty.
    """
    ones, n = sum(map(sum, groups)), sum(map(len, groups))
    if not 0 < ones < n or len(groups) < 2:
        return wilson_interval(ones / max(n, 1) * len(groups), len(groups))
    share = ones / n
    design_effect = _squared_error(groups) / (share * (1 - share) / n)
    effective = min(n, max(len(groups), n / design_effect if design_effect else n))
    return wilson_interval(share * effective, effective)


def grouped_mean_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the mean of all values, which are alike within a group, by the normal approximation over the groups.

    With groups of one size it is that of the groups' means; from -inf to inf for fewer than two groups.
    """
    if len(groups) < 2:
        return -math.inf, math.inf
    mean = sum(map(sum, groups)) / sum(map(len, groups))
    half = Z_95 * math.sqrt(_squared_error(groups))
    return mean - half, mean + half


def _squared_error(groups: Sequence[Sequence[float]]) -> float:
    """The variance of the mean of all values, a ratio of two sums over the groups."""
    n, g = sum(map(len, groups)), len(groups)
    mean = sum(map(sum, groups)) / n
    return g / (g - 1) * sum((sum(group) - len(group) * mean) ** 2 for group in groups) / n**2
