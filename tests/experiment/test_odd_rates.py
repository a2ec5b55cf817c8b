"""What is said of intervention rates that cannot be the models'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment.odd_rates import FEWEST_OF_THE_SAME, odd_rates
from experiment.summary import summarise


def record(*pieces: tuple[str, str], stop_reason: str = "length") -> dict:
    """A nudging answer: (the nudging model's words, the base model's)."""
    return {
        "raw_answer": "".join(words + rest for words, rest in pieces),
        "all_nudging_words": [words for words, _ in pieces],
        "all_completions": [words + rest for words, rest in pieces],
        "stop_reason": stop_reason,
        "scores": {"correct": 1},
    }


OPENED = record((" The", " answer is 5 and so on"))
ENDED = record((" The", " answer is 5"), (" Done.", ""), stop_reason="nudging_model_stop")
WHOLE = record((" All of it.", ""), stop_reason="nudging_model_stop")
EMPTY = record(("", ""))
NUDGED = record((" The", " answer"), (" is", " 5"), (" or", " 6"))
LONGER = record((" The", " answer which we seek"), (" is", " 5"))


@pytest.mark.parametrize("records", [[OPENED], [ENDED], [OPENED, ENDED, OPENED], [EMPTY], [OPENED, EMPTY]])
def test_nothing_nudged(records):
    assert "0 % nudged" in odd_rates(records)


@pytest.mark.parametrize(
    "records", [[], [WHOLE], [WHOLE, OPENED], [NUDGED], [NUDGED] * (FEWEST_OF_THE_SAME - 1), [NUDGED, NUDGED, LONGER]]
)
def test_nothing_odd(records):
    assert odd_rates(records) is None


@given(st.lists(st.sampled_from([OPENED, ENDED, EMPTY]), max_size=5))
def test_one_nudged_answer_is_enough(unnudged):
    assert "0 %" not in (odd_rates([*unnudged, NUDGED]) or "")


def test_the_same_rate():
    assert "all 3 answers have the same intervention rate (50.0 %)" in odd_rates([NUDGED] * 3)


def test_everything_nudged_is_the_same_rate():
    """The words of a base model that is certain of nothing are all the nudging model's, of answers of any length."""
    answers = [record(*[(f" word{i}", "")] * (i + 2)) for i in range(4)]
    assert "same intervention rate (100.0 %)" in odd_rates(answers)


def test_the_summary_says_it():
    shown = str(summarise([OPENED, OPENED], "rule"))
    assert shown.count("0 % nudged") == 1
    assert "0 %)" not in str(summarise([NUDGED, LONGER], "rule"))
    assert "0 %)" not in str(summarise([{"raw_answer": "5", "scores": {"correct": 1}}], "rule"))
