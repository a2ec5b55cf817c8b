import json
import re
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment.judgements import judge_prompt, just_eval_instructions, published_count, read_judgement
from experiment.rules import is_scored
from language_models.json_replies import UnreadableObject

FIVE_ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement")


def ratings(**scores: object) -> str:
    return json.dumps({aspect: {"reason": f"on {aspect}", "score": score} for aspect, score in scores.items()})


@pytest.mark.parametrize(
    "value, correct",
    [("1", 1), ("0", 0), ("true", 1), ("false", 0), ("1.0", 1), ('" 1 "', 1), ('"0"', 0), ('"True"', 1)],
)
def test_right_or_wrong(value, correct):
    scores = read_judgement(f'{{"reason": "so", "correct": {value}}}', "judge")
    assert scores == {"correct": correct, "reason": "so"} and type(scores["correct"]) is int


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is right.",
        "[1]",
        "null",
        "{}",
        '{"correct": 2}',
        '{"correct": "yes"}',
        '{"correct": null}',
        '{"correct": [1]}',
    ],
)
def test_no_verdict(text):
    with pytest.raises(UnreadableObject, match=re.escape(repr(text)) if text else "an empty reply"):
        read_judgement(text, "judge")


def test_aspects_and_their_mean():
    scores = read_judgement(ratings(helpfulness=5, clarity="4", factuality=" 3 ", depth=2, engagement=2), FIVE_ASPECTS)
    assert [scores[aspect]["score"] for aspect in FIVE_ASPECTS] == [5, 4, 3, 2, 2]
    assert scores["depth"]["reason"] == "on depth" and scores["mean"] == 3.2 and "unreadable_aspects" not in scores


ODD = st.sampled_from(["N/A", "4/5", 4.5, None, True, "", "high", -1, [], {}, 1e999, "five", "4.0"])
marks = st.one_of(st.integers(0, 12), st.integers(0, 12).map(str), ODD)


@given(st.dictionaries(st.sampled_from(FIVE_ASPECTS), marks), st.booleans())
def test_each_aspect_counts_as_in_the_published_program(given_marks, nested):
    """Whole numbers as they are, everything else 1; the published program asks re.match(r"^\\d+$")."""
    text = ratings(**given_marks) if nested else json.dumps(given_marks)
    count = {
        a: int(m) if isinstance(m, int | str) and re.fullmatch(r"\d+", str(m)) else 1 for a, m in given_marks.items()
    }
    odd = [a for a in FIVE_ASPECTS if str(given_marks.get(a)) not in ("1", "2", "3", "4", "5")]
    if len(odd) == len(FIVE_ASPECTS):
        with pytest.raises(UnreadableObject):
            read_judgement(text, FIVE_ASPECTS)
        return
    scores = read_judgement(text, FIVE_ASPECTS)
    assert {a: scores[a]["score"] for a in FIVE_ASPECTS} == dict.fromkeys(FIVE_ASPECTS, 1) | count
    assert scores["mean"] == statistics.mean(scores[a]["score"] for a in FIVE_ASPECTS)
    assert scores.get("unreadable_aspects", []) == odd
    assert is_scored({"scores": scores}, FIVE_ASPECTS)


def test_a_reply_that_was_cut_off_is_read_where_it_makes_no_difference():
    one, other = '{"correct": 1}', '{"correct": 0}'
    assert read_judgement(f"{one} Question:", "judge", cut_off=True)["correct"] == 1
    assert read_judgement(f"{one} no, {other}", "judge")["correct"] == 0
    with pytest.raises(UnreadableObject, match="cut off at its token limit"):
        read_judgement(f"{one} no, {other}", "judge", cut_off=True)


def test_aspects_in_objects_of_their_own():
    each = [ratings(**{aspect: score}) for score, aspect in enumerate(FIVE_ASPECTS, 1)]
    for text in ("\n".join(each), f"[{', '.join(each)}]"):
        scores = read_judgement(text, FIVE_ASPECTS)
        assert [scores[a]["score"] for a in FIVE_ASPECTS] == [1, 2, 3, 4, 5] and scores["mean"] == 3
    with pytest.raises(UnreadableObject, match="no depth and no engagement"):
        read_judgement("\n".join(each[:3]), FIVE_ASPECTS)
    again = ratings(**dict.fromkeys(FIVE_ASPECTS, 5))
    assert read_judgement(each[0] + again, FIVE_ASPECTS)["mean"] == 5


def test_the_form_that_the_judge_is_told_is_no_judgement():
    for scoring in ("judge", FIVE_ASPECTS):
        instructions, _ = judge_prompt({"question": "q", "raw_answer": "a", "gold_answer": "g"}, scoring)
        with pytest.raises(UnreadableObject):
            read_judgement(instructions, scoring)


@pytest.mark.parametrize("aspects", [FIVE_ASPECTS, ("safety",)])
def test_instructions_name_the_aspects_asked_for_alone(aspects):
    text = just_eval_instructions(aspects)
    for aspect in (*FIVE_ASPECTS, "safety"):
        assert (f"- {aspect}: " in text) == (f'"{aspect}": {{"reason"' in text) == (aspect in aspects)
    assert ("1 (highly unsafe) to 5 (completely safe)" in text) == ("safety" in aspects)


@pytest.mark.parametrize("scoring", ["judge", ("safety",), FIVE_ASPECTS])
def test_the_gold_answer_is_told_where_it_counts(scoring):
    record = {"question": "the question", "raw_answer": "the answer", "gold_answer": "the gold"}
    instructions, question = judge_prompt(record, scoring)
    assert "JSON" in instructions  # OpenAI's JSON mode wants the word
    assert ("the gold" in question) == (scoring == "judge") and "the question" in question and "the answer" in question
    assert is_scored({"scores": published_count(scoring)}, scoring)
