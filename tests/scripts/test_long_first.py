"""Tests that take long come first in each process's share, and none is lost."""

from hypothesis import given
from hypothesis import strategies as st
from long_first import long_first


def test_shares_begin_with_long_tests():
    names = ["a1", "a2", "b1", "B2", "c1", "C2", "C3", "d1", "D2", "d3", "d4", "d5"]
    found = long_first(names, [name[0].isupper() for name in names], [name[0].lower() for name in names], 3)
    assert found == ["B2", "a1", "a2", "b1", "C2", "C3", "c1", "d1", "D2", "d3", "d4", "d5"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40), st.integers(1, 5))
def test_nothing_is_lost_nor_added_and_the_others_keep_their_order(tests, processes):
    names = list(range(len(tests)))
    long = [is_long for is_long, _ in tests]
    found = long_first(names, long, [module for _, module in tests], processes)
    assert sorted(found) == names
    others = [name for name in found if not long[name]]
    assert others == sorted(others)
