"""Paired comparisons against direct computation."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.paired import compare, holm, mcnemar


def enumerated(wins: int, losses: int) -> float:
    """The share of all ways in which as many questions could have gone either way that are at least as uneven."""
    n = wins + losses
    if n == 0:
        return 1.0
    ways = [sum(way) for way in product((0, 1), repeat=n)]
    likely = math.comb(n, wins)
    return sum(math.comb(n, k) <= likely for k in ways) / len(ways)


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_is_the_enumeration(wins, losses):
    assert mcnemar(wins, losses) == pytest.approx(enumerated(wins, losses))
    assert mcnemar(wins, losses) == pytest.approx(mcnemar(losses, wins))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=12))
def test_right_and_wrong(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = compare(first, second)
    if not pairs:
        assert found is None
        return
    assert (found.wins, found.losses) == (pairs.count((1, 0)), pairs.count((0, 1)))
    assert found.difference == pytest.approx((sum(first) - sum(second)) / len(pairs))
    assert found.p == pytest.approx(enumerated(found.wins, found.losses))
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_marks_are_compared_by_a_paired_t_test():
    found = compare([3.2, 4.0, 2.5, 5.0], [3.0, 3.5, 2.5, 4.0])
    mean, spread = 1.7 / 4, math.sqrt(sum((d - 1.7 / 4) ** 2 for d in (0.2, 0.5, 0.0, 1.0)) / 3)
    t = mean / (spread / 2)
    # Student's distribution with 3 degrees of freedom in closed form.
    angle = math.atan(t / math.sqrt(3))
    p = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert found.p == pytest.approx(p) and found.difference == pytest.approx(mean)
    assert compare([3.0], [2.0]).p is None and compare([3.5, 2.5], [3.5, 2.5]).p == 1
    assert compare([3.5, 2.5], [3.0, 2.0]).p is None  # no spread


@given(st.lists(st.floats(0, 1) | st.none(), max_size=6))
def test_holm(ps):
    raised = holm(ps)
    known = [(p, q) for p, q in zip(ps, raised, strict=True) if p is not None]
    assert [q is None for q in raised] == [p is None for p in ps]
    for p, q in known:
        # The largest of the smaller ones, each times how many are not smaller than it.
        smaller = sorted(other for other, _ in known if other <= p)
        every = sorted(other for other, _ in known)
        assert q == pytest.approx(max(min(1, x * (len(every) - i)) for i, x in enumerate(every[: len(smaller)])))
        assert p <= q <= 1
