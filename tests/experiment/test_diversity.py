"""experiment/diversity.py: against sacrebleu's own sentence BLEU, a count by hand, and what answers without words come to."""

import math
import statistics

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from command.intervals import mean_interval
from experiment.diversity import MEASURES, distinct, diversity, self_bleu

TEXTS = st.text(st.sampled_from("ab, .\n"), max_size=24)
ANSWERS = st.lists(TEXTS, min_size=2, max_size=5)


def words_of(text: str) -> list[str]:
    return sacrebleu.BLEU(tokenize="13a").tokenizer(text).split()


def slow_self_bleu(texts: list[str]) -> float:
    """Sentence BLEU of each answer, the others as its references."""
    found = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        if text.split():
            found.append(sacrebleu.sentence_bleu(text, others).score)
        else:
            found.append(100.0 if any(not other.split() for other in others) else 0.0)
    return sum(found) / len(found)


def slow_distinct(texts: list[str], n: int) -> float | None:
    grams = []
    for text in texts:
        words = words_of(text)
        for i in range(len(words)):
            if len(words[i : i + n]) == n:
                grams.append(" ".join(words[i : i + n]))
    different = [gram for i, gram in enumerate(grams) if gram not in grams[:i]]
    return len(different) / len(grams) if grams else None


@settings(max_examples=300)
@given(ANSWERS)
def test_self_bleu_is_the_mean_of_the_librarys_sentence_bleu(texts):
    assert self_bleu([words_of(text) for text in texts]) == pytest.approx(slow_self_bleu(texts), abs=1e-9)


@given(ANSWERS, st.integers(1, 3))
def test_distinct_n(texts, n):
    assert distinct([words_of(text) for text in texts], n) == slow_distinct(texts, n)


@given(st.lists(ANSWERS, min_size=1, max_size=4))
def test_the_figures_are_means_over_the_questions_that_have_them(questions):
    found = diversity(questions)
    slow = {
        "distinct_1": [slow_distinct(texts, 1) for texts in questions],
        "distinct_2": [slow_distinct(texts, 2) for texts in questions],
        "self_bleu": [slow_self_bleu(texts) for texts in questions],
    }
    assert set(slow) == set(MEASURES)
    for name, values in slow.items():
        known = [value for value in values if value is not None]
        if not known:
            assert name not in found
            continue
        figure = found[name]
        assert figure["questions"] == len(known) and figure["mean"] == pytest.approx(statistics.fmean(known))
        if len(known) == 1:
            assert figure["interval_95"] is None
        else:
            assert figure["interval_95"] == pytest.approx(mean_interval(known))


def test_by_hand():
    """The cat sat down / The cat sat up: three of four words, two of three pairs, one of two triples in common, no four.

    The fourth order has no match, and counts half of one in one (exponential smoothing): 3/4 * 2/3 * 1/2 * 1/2 = 1/8.
    """
    texts = ["The cat sat down", "The cat sat up"]
    found = diversity([texts])
    assert found["self_bleu"]["mean"] == pytest.approx(100 * math.pow(1 / 8, 1 / 4))
    assert found["distinct_1"]["mean"] == 5 / 8 and found["distinct_2"]["mean"] == 4 / 6


def test_a_short_answer_pays_for_its_brevity():
    """All of "a b" is in "a b c d", which is twice as long: exp(1 - 4/2). Of the latter 2/4, 1/3, half of 1/2, a quarter of 1/1."""
    short, long = math.exp(-1), math.pow(2 / 4 * 1 / 3 * 1 / 4 * 1 / 4, 1 / 4)
    assert diversity([["a b", "a b c d"]])["self_bleu"]["mean"] == pytest.approx(100 * (short + long) / 2)


@pytest.mark.parametrize(
    "texts, self_bleu_is, distinct_1, distinct_2",
    [
        (["", " \n"], 100, None, None),  # alike, though there is not a word
        (["", "yes"], 0, 1, None),
        (["", "", "yes"], 200 / 3, 1, None),
        (["yes", "yes"], 100, 1 / 2, None),
        (["yes", "no"], 0, 1, None),
        (["Yes.", "Yes."], 100, 2 / 4, 1 / 2),  # marks are words
        (["Yes", "yes"], 0, 1, None),
        (["a b c d e", "a b c d e"], 100, 5 / 10, 4 / 8),
        (["a b c d e", "v w x y z"], 0, 1, 1),
        (["a b", "c"], 0, 1, 1),  # pairs do not reach from one answer into the next
    ],
)
def test_answers_without_words_and_of_one(texts, self_bleu_is, distinct_1, distinct_2):
    found = {name: figure["mean"] for name, figure in diversity([texts]).items()}
    expected = {"distinct_1": distinct_1, "distinct_2": distinct_2, "self_bleu": self_bleu_is}
    assert found == pytest.approx({name: value for name, value in expected.items() if value is not None})


def test_no_questions_have_no_figures():
    assert diversity([]) == {}
