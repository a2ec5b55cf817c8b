"""What passes cost, by how many new tokens go in."""

import pytest

from language_models.local.costs import KEPT, PassCosts


def test_slow_passes_now_and_then_change_nothing():
    costs = PassCosts((1, 8, 32))
    for seconds in (0.6, 0.006, 0.006, 0.5, 0.006, 0.006):
        costs.record(3, seconds)
    assert costs.of(8) == 0.006
    for _ in range(KEPT):
        costs.record(8, 0.009)
    assert costs.of(8) == 0.009  # what was long ago counts no longer


def test_more_tokens_never_cost_less():
    costs = PassCosts((1, 8, 32))
    for tokens, seconds in ((1, 0.007), (8, 0.006), (30, 0.008)):
        costs.record(tokens, seconds)
    assert costs.table == [(1, 0.006), (8, 0.006), (32, 0.008)]
    assert costs.of(1) == costs.of(0.3) == costs.of(8) == 0.006
    assert costs.of(20) == pytest.approx(0.007) and costs.of(64) == pytest.approx(0.016)


def test_sizes_that_are_none_and_nothing_measured():
    costs = PassCosts((1, 8))
    costs.record(9, 5.0)
    with pytest.raises(IndexError):
        costs.of(1)
    costs.record(5, 0.1)
    assert costs.table == [(8, 0.1)] and costs.of(1) == 0.1
    costs.forget()
    with pytest.raises(IndexError):
        costs.of(8)
