"""Tests of reporting/demo_scores.py: each rule by which the demo's answers are counted, and the statistics over them."""

import itertools
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import nudged_pieces, record
from runs import REPOSITORY

from command.intervals import wilson_interval
from reporting.demo_scores import (
    ALTERNATIVES,
    MEASURES,
    before_invented_question,
    ended,
    is_good,
    names_expected,
    nudging_share,
    paired_difference,
    repeats,
    share,
    written,
)

DATA = REPOSITORY / "scripts" / "demo_data" / "justeval"


@pytest.mark.parametrize(
    ("reason", "by_itself"),
    [
        ("stop", True),
        ("nudging_model_stop", True),
        ("length", False),
        ("round", False),
        ("repeated_nudging_words", False),
        ("context_length", False),
        (None, False),
    ],
)
def test_an_answer_ends_by_itself_when_a_model_ended_it(reason, by_itself):
    assert ended({"stop_reason": reason}) == by_itself
    assert not ended({})


@pytest.mark.parametrize(
    ("text", "repeating"),
    [
        ("", False),
        ("The capital of France is Paris.", False),
        ("A spider has eight legs. An insect has six legs.", False),
        ("The capital of France is Paris. The capital of France is Rome.", False),  # five words in a row
        ("The capital of France is Paris. The capital of France is Paris.", True),
        ("the largest ocean is the Pacific\nTHE LARGEST, OCEAN: is the (Pacific)", True),
        ("A.\n" * 7, True),
        ("no " * 6, False),
        ("no " * 7, True),
    ],
)
def test_an_answer_repeats_itself_with_six_words_in_a_row(text, repeating):
    assert repeats(text) == repeating


@given(st.lists(st.integers(), unique=True, max_size=40))
def test_different_words_are_no_repetition(numbers):
    assert not repeats(" ".join(f"w{number % 10**9}x{i}" for i, number in enumerate(numbers)))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=6, max_size=9), st.text(" .\n", max_size=4))
def test_a_text_twice_is_a_repetition(words, between):
    text = " ".join(words)
    assert repeats(f"{text}\n{between}{text}")


QUESTION = "What is the capital of France?"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Paris.", "Paris."),
        ("", ""),
        ("What is the capital of Spain? Madrid. Paris.", ""),
        ("What is the capital of France? Paris. What else?", "What is the capital of France? Paris."),
        ("what is the capital of france?\nParis", "what is the capital of france?\nParis"),
        ("It is big.\nInstruction: Name Paris", "It is big.\n"),
        ("It is big.\nYou are a helpful assistant.\nParis", "It is big.\n"),
        ("Big\n  Q: Paris", "Big\n"),
        ("A question of taste: Paris", "A question of taste: Paris"),
        ("Question: Paris", ""),
    ],
)
def test_an_answer_counts_up_to_an_invented_question(text, kept):
    assert before_invented_question(text, QUESTION).rstrip(" ") == kept


@given(st.text())
def test_what_counts_is_a_beginning_of_the_answer(text):
    assert text.startswith(before_invented_question(text, QUESTION))


@pytest.mark.parametrize(
    ("text", "expected", "named"),
    [
        ("It is PARIS.", "Paris", True),
        ("Parisian", "Paris", False),
        ("comparis", "Paris", False),
        ("", "Paris", False),
        ("It has 7 of them", "seven or 7", True),
        ("It has 70", "seven or 7", False),
        ("Seven!", "seven or 7", True),
        ("takes in carbon dioxide", "carbon dioxide or CO2", True),
        ("takes in carbon", "carbon dioxide or CO2", False),
        ("What is Paris like? Paris", "Paris", False),
        ("anything", "", False),
        ("a.c", "a+c or (", False),
        ('Say "buenos días".', "buenos días or buenos dias", True),
    ],
)
def test_the_right_answer_is_named_by_a_whole_word(text, expected, named):
    assert names_expected(text, QUESTION, expected) == named


@given(st.text(), st.text(), st.text())
def test_any_text_can_be_looked_at(text, question, expected):
    assert names_expected(text, question, expected) in (True, False)


def test_what_the_models_wrote_is_counted_before_clean_up():
    row = record(0, QUESTION, "Paris", nudged_pieces(1, 2), None) | {"raw_answer": "cut"}
    assert written(row) == "".join(row["all_completions"])
    assert written(record(0, QUESTION, "Paris", "as it is", None)) == "as it is"


@pytest.mark.parametrize(
    ("text", "reason", "good"),
    [
        ("It is Paris.", "stop", True),
        ("It is Paris.", "length", False),
        ("It is Rome.", "stop", False),
        ("Paris is it. " * 5, "stop", False),
    ],
)
def test_a_good_answer_is_good_in_all_three(text, reason, good):
    row = record(0, QUESTION, "Paris", text, None) | {"stop_reason": reason}
    assert is_good(row) == good
    held = {name: measure(row) for name, measure in MEASURES.items()}
    assert held["good in all three"] == (
        held["end by themselves"] and not held["repeat themselves"] and held["name the right answer"]
    )


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([("ab", " cd")], 0.5),
        ([("ab ", ""), (" cd", "")], 1.0),
        ([("", "abcd")], 0.0),
        ([("a", " bc"), (" d", "")], 0.5),
        ([("", "")], 0.0),
        ([], 0.0),
    ],
)
def test_the_nudging_models_share_of_a_text(pieces, expected):
    assert nudging_share(record(0, QUESTION, "", pieces, None)) == expected


def test_shares_have_wilson_intervals():
    found = share([{"stop_reason": "stop"}, {"stop_reason": "length"}], ended)
    assert (found.count, found.n, found.interval) == (1, 2, wilson_interval(1, 2))


def pairs(both, only_one, only_other, neither):
    rows = (
        [(True, True)] * both + [(True, False)] * only_one + [(False, True)] * only_other + [(False, False)] * neither
    )
    return [one for one, _ in rows], [other for _, other in rows]


def test_the_paired_difference_is_the_published_one():
    # Altman, Machin, Bryant, Gardner, "Statistics with confidence" (2000), table 6.2, by the same method.
    difference, low, high = paired_difference(*pairs(14, 5, 0, 22))
    assert (round(difference, 3), round(low, 3), round(high, 3)) == (0.122, 0.011, 0.226)


@given(*[st.integers(0, 30)] * 4)
def test_paired_differences_of_all_shapes(both, only_one, only_other, neither):
    if not both + only_one + only_other + neither:
        return
    one, other = pairs(both, only_one, only_other, neither)
    difference, low, high = paired_difference(one, other)
    assert -1 - 1e-9 <= low <= difference <= high <= 1 + 1e-9 and low < high
    turned = paired_difference(other, one)
    assert turned == pytest.approx((-difference, -high, -low))


@pytest.mark.parametrize("truth", [(0.4, 0.2, 0.1, 0.3), (0.05, 0.6, 0.05, 0.3), (0.1, 0.8, 0.0, 0.1)])
def test_the_interval_covers_the_truth(truth):
    n, covered = 20, 0.0
    for cells in itertools.product(range(n + 1), repeat=3):
        if (rest := n - sum(cells)) < 0:
            continue
        a, b, c, d = (*cells, rest)
        _, low, high = paired_difference(*pairs(a, b, c, d))
        if low <= truth[1] - truth[2] <= high:
            ways = math.factorial(n) // math.prod(map(math.factorial, (a, b, c, d)))
            covered += ways * math.prod(p**k for p, k in zip(truth, (a, b, c, d), strict=True))
    assert 0.92 < covered <= 1.0


def test_the_demo_asks_nothing_that_tells_its_answer():
    asked = set()
    for name, count in (("gpt_3.5_turbo_0301", 48), ("dev", 24)):
        rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(rows) == count
        for row in rows:
            for word in row["output_cand"].split(ALTERNATIVES):
                assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", row["input"], re.I), row
            assert names_expected(row["output_cand"], row["input"], row["output_cand"])
            asked.add(row["input"])
    assert len(asked) == 72
