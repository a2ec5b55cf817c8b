"""command/intervals.py: intervals of what comes in groups, against the plain ones and against what they promise."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.intervals import grouped_mean_interval, grouped_wilson_interval, mean_interval, wilson_interval

BITS = st.integers(0, 1)
GROUPS = st.lists(st.lists(BITS, min_size=1, max_size=5), min_size=1, max_size=12)


@given(st.lists(BITS, min_size=1, max_size=30))
def test_groups_of_one_have_the_plain_interval(values):
    assert grouped_wilson_interval([[v] for v in values]) == pytest.approx(wilson_interval(sum(values), len(values)))


@given(st.lists(BITS, min_size=1, max_size=20), st.integers(2, 6))
def test_groups_that_are_each_of_one_kind_count_once(values, times):
    found = grouped_wilson_interval([[v] * times for v in values])
    assert found == pytest.approx(wilson_interval(sum(values), len(values)))


@given(GROUPS)
def test_it_lies_between_that_of_the_groups_and_that_of_the_values(groups):
    ones, n = sum(map(sum, groups)), sum(map(len, groups))
    low, high = grouped_wilson_interval(groups)
    assert 0 <= low <= ones / n <= high <= 1
    widths = [b - a for a, b in (wilson_interval(ones / n * m, m) for m in (n, len(groups)))]
    assert widths[0] - 1e-12 <= high - low <= widths[1] + 1e-12


def test_no_groups():
    assert grouped_wilson_interval([]) == (0.0, 1.0)


@given(st.lists(st.lists(st.floats(0, 5), min_size=3, max_size=3), min_size=2, max_size=12))
def test_the_mean_of_groups_of_one_size_is_that_of_their_means(groups):
    expected = mean_interval([statistics.fmean(group) for group in groups])
    assert grouped_mean_interval(groups) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.lists(st.floats(0, 5), min_size=1, max_size=4), min_size=2, max_size=8))
def test_the_mean_of_groups_of_any_size(groups):
    """The variance of a ratio, written out."""
    values = [value for group in groups for value in group]
    mean, g, n = statistics.fmean(values), len(groups), len(values)
    squares = 0.0
    for group in groups:
        squares += sum(value - mean for value in group) ** 2
    low, high = grouped_mean_interval(groups)
    assert (low + high) / 2 == pytest.approx(mean, abs=1e-9)
    assert (high - low) / 2 == pytest.approx(1.959963985 * math.sqrt(g / (g - 1) * squares) / n, abs=1e-8)


def test_one_group_has_no_spread_to_tell_by():
    assert grouped_mean_interval([[1.0, 2.0]]) == (-math.inf, math.inf)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_it_covers_the_true_share(alike):
    """Of 20 questions with 10 answers each, alike to a degree; the plain interval covers it in a third of the cases at 1."""
    chance, hits, tries = random.Random(5), 0, 400
    for _ in range(tries):
        groups = []
        for _ in range(20):
            first = chance.random() < 0.3
            groups.append([int(first if chance.random() < alike else chance.random() < 0.3) for _ in range(10)])
        low, high = grouped_wilson_interval(groups)
        hits += low <= 0.3 <= high
    assert 0.9 <= hits / tries <= 0.99
