"""Paired comparisons against direct computation."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.paired import MCNEMAR, PAIRED_T, SIGN, compare, holm, sign_test


def enumerated(wins: int, losses: int) -> float:
    """The share of all ways in which as many questions could have gone either way that are at least as uneven."""
    n = wins + losses
    ways = [sum(way) for way in product((0, 1), repeat=n)]
    likely = math.comb(n, wins)
    return sum(math.comb(n, k) <= likely for k in ways) / len(ways)


@given(st.integers(0, 7), st.integers(0, 7))
def test_the_sign_test_is_the_enumeration(wins, losses):
    assert sign_test(wins, losses) == pytest.approx(enumerated(wins, losses))
    assert sign_test(wins, losses) == pytest.approx(sign_test(losses, wins))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=12))
def test_right_and_wrong(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = compare(first, second)
    if not pairs:
        assert found is None
        return
    assert (found.wins, found.losses) == (pairs.count((1, 0)), pairs.count((0, 1)))
    assert found.difference == pytest.approx((sum(first) - sum(second)) / len(pairs))
    assert found.p == pytest.approx(enumerated(found.wins, found.losses)) and found.test == MCNEMAR
    low, high = found.interval
    assert -1 <= low < found.difference + 1e-12 and found.difference - 1e-12 < high <= 1 and low < high
    back = compare(second, first)
    assert back.interval == pytest.approx((-high, -low)) and back.p == pytest.approx(found.p)


def test_the_interval_of_a_difference_of_paired_shares():
    # By hand: 12 and 4 of 50 differ; (12.5 - 4.5) / 52 +- 1.96 sqrt(17 - 64 / 52) / 52.
    found = compare([1] * 12 + [0] * 4 + [1] * 34, [0] * 12 + [1] * 4 + [1] * 34)
    half = 1.959964 * math.sqrt(17 - 64 / 52) / 52
    assert found.interval == pytest.approx((8 / 52 - half, 8 / 52 + half), abs=1e-6)


def test_marks_are_compared_by_a_paired_t_test():
    found = compare([3.2, 4.0, 2.5, 5.0], [3.0, 3.5, 2.5, 4.0])
    mean, spread = 1.7 / 4, math.sqrt(sum((d - 1.7 / 4) ** 2 for d in (0.2, 0.5, 0.0, 1.0)) / 3)
    t = mean / (spread / 2)
    # Student's distribution with 3 degrees of freedom in closed form; 3.182446 is its 97.5 % quantile.
    angle = math.atan(t / math.sqrt(3))
    p = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert found.p == pytest.approx(p) and found.difference == pytest.approx(mean) and found.test == PAIRED_T
    assert found.interval == pytest.approx((mean - 3.182446 * spread / 2, mean + 3.182446 * spread / 2), rel=1e-5)


@pytest.mark.parametrize(("n", "step", "p"), [(1, 1.0, 1.0), (2, 0.1, 0.5), (6, 0.1, 2 / 64), (3, 0.0, 1.0)])
def test_differences_without_spread_have_only_signs(n, step, p):
    first = [2.1 + i / 3 for i in range(n)]
    found = compare([x + step for x in first], first)
    assert (found.test, found.interval) == (SIGN, None) and found.p == pytest.approx(p)


@given(st.lists(st.floats(0, 1) | st.none(), max_size=6))
def test_holm(ps):
    raised = holm(ps)
    known = [(p, q) for p, q in zip(ps, raised, strict=True) if p is not None]
    assert [q is None for q in raised] == [p is None for p in ps]
    every = sorted(p for p, _ in known)
    for p, q in known:
        # The largest of those up to it, each times how many are not smaller than it.
        assert q == pytest.approx(max(min(1, x * (len(every) - i)) for i, x in enumerate(every) if x <= p))
        assert p <= q <= 1
