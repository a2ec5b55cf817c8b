"""95 % intervals of proportions and of means."""

import math
import statistics

Z_95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
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
