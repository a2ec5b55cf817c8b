"""How far ahead it pays to look."""

import pytest

from language_models.local.drafts import TRY_EVERY, DraftRate, look_up


def flat(tokens: float) -> float:
    """A graphics card: a pass costs the same for one token and for many."""
    return 1.0


def steep(tokens: float) -> float:
    """A pass costs as much as its tokens."""
    return tokens


def rate(used: int, offered: int) -> DraftRate:
    return DraftRate(float(used), float(offered))


@pytest.mark.parametrize(
    "found, cost, seconds_each, expected",
    [
        (rate(8, 10), flat, 0.0, 16),
        (rate(8, 10), steep, 0.0, 0),
        (rate(8, 10), flat, 5.0, 0),
        (rate(1, 100), flat, 0.1, 0),
        (rate(9, 10), flat, 0.1, 10),
    ],
)
def test_the_length_with_the_most_tokens_per_second(found, cost, seconds_each, expected):
    length = found.length(16, cost, 1.0, seconds_each)
    assert length == expected

    def speed(n: int) -> float:
        return sum(found.rate**k for k in range(n + 1)) / (cost(1.0 + n) + n * seconds_each)

    assert all(speed(length) >= speed(n) - 1e-12 for n in range(17))


def test_what_does_not_pay_is_tried_now_and_then():
    found = rate(1, 100)
    lengths = [found.length(4, steep, 1.0) for _ in range(3 * TRY_EVERY)]
    assert sum(lengths) == 3 and max(lengths) == 1
    assert found.length(0, flat, 1.0) == 0


def test_a_rate_follows_what_was_of_use():
    found = DraftRate()
    for _ in range(60):
        found.record(4, 0)
    assert found.rate < 0.05
    for _ in range(60):
        found.record(4, 4)
    assert found.rate > 0.95
    for _ in range(200):
        found.record(4, 2)  # two are right, the third is not, the fourth was never asked for
    assert found.rate == pytest.approx(2 / 3, abs=0.05)


def test_many_samples_share_the_cost():
    def cost(tokens: float) -> float:
        return 1 + 0.05 * tokens

    alone, together = (rate(6, 10).length(16, cost, rows) for rows in (1.0, 16.0))
    assert alone > together


@pytest.mark.parametrize(
    "ids, elsewhere, expected",
    [
        ([1, 2, 3, 4, 1, 2, 3], [], [4, 1, 2, 3]),
        ([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], [], [8, 1, 2, 3]),  # the last time
        ([7, 2, 3, 4, 1, 2, 3], [], [4, 1, 2, 3]),  # two tokens
        ([5, 1, 2], [1, 2, 6, 7], [6, 7]),  # what was cut off
        ([1, 2], [], []),
        ([1, 2, 3], [2, 3], []),
        ([], [], []),
    ],
)
def test_look_up(ids, elsewhere, expected):
    assert look_up(ids, elsewhere) == expected
