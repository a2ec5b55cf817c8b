import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from language_models.json_replies import UnreadableObject, quoted, reply_objects

KEYS = ("correct",)
# \\b and \\f are read as the beginnings of LaTeX's \\beta and \\frac.
words = st.text(st.characters(exclude_characters="{}\\\b\f", exclude_categories=("Cs",)), max_size=40)
thoughts = st.sampled_from(
    [
        ("<think>", "</think>"),
        ("<Thinking>", "</Thinking>"),
        ("[THINK]", "[/THINK]"),
        ("", "</think>"),
        ("<think effort='low'>", "</think>"),
        ("<seed:think>", "</seed:think>"),
        ("<analysis>", "</analysis>"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ]
)
objects = st.fixed_dictionaries({"reason": words, "correct": st.integers(0, 1)})
prose = st.text(st.sampled_from("abc \n.,:$()[]'\"`*"), max_size=40)
latex = st.sampled_from(
    [r"\( x \)", r"\frac{1}{2}", r"\boxed{4}", r"\alpha \beta", r"C:\Users", r"\$5", r"\\(", "\n", "\r\n\t"]
)


def last(text: str, keys=KEYS) -> dict:
    return reply_objects(text, keys)[-1]


@given(objects, prose, prose, st.sampled_from(["{}", "```json\n{}\n```", "```\n{}```", "**{}**", "{}{}"]))
def test_an_object_between_other_words(found, before, behind, frame):
    text = json.dumps(found)
    assert last(before + frame.replace("{}", text) + behind) == found


@given(objects, objects, thoughts, prose)
def test_what_was_only_thought_is_no_reply(thought, found, marks, between):
    begin, end = marks
    assert last(f"{begin}{between}{json.dumps(thought)}{end}{between}{json.dumps(found)}") == found
    if begin:
        with pytest.raises(UnreadableObject):
            reply_objects(f"{begin}{json.dumps(thought)}{between}", KEYS)


@given(st.lists(st.one_of(latex, st.sampled_from(["so ", "x = 1, ", "it's "])), max_size=6), st.integers(0, 1))
def test_backslashes_and_newlines_as_they_are(parts, correct):
    assert last(f'{{"reason": "{"".join(parts)}", "correct": {correct}}}')["correct"] == correct


@given(st.fixed_dictionaries({"reason": words, "correct": st.integers(0, 1)}), st.data())
def test_what_breaks_off_is_no_object(found, data):
    text = json.dumps(found)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(UnreadableObject):
        reply_objects(cut, KEYS)


@given(st.data())
def test_aspects_that_break_off_are_no_object(data):
    aspects = {a: {"reason": data.draw(words), "score": data.draw(st.integers(1, 5))} for a in ("clarity", "depth")}
    text = json.dumps(aspects)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(UnreadableObject):
        reply_objects(cut, tuple(aspects))


@pytest.mark.parametrize(
    "text, correct",
    [
        ("{'reason': 'x', 'correct': 1}", 1),
        ('{"reason": "said "5" is", "correct": 1}', 1),
        ('{"reason": "x", "correct": 0,}', 0),
        ('{reason: "x", correct: 0}', 0),
        ('{"result": {"Correct ": 1}}', 1),
        ('[{"correct": 1}]', 1),
        ('{"reason": "it ends with </think> and <think>", "correct": 1}', 1),
        ('The set {1, 2}, so {"reason": "ok", "correct": 1}', 1),
        ('{"correct": 0} - no, I was wrong: {"correct": 1}', 1),
    ],
)
def test_almost_json(text, correct):
    assert last(text)["correct"] == correct


@given(objects, st.sampled_from(["<think>", "</think>", "[/THINK]", "<reason>"]), prose)
def test_marks_that_a_judge_only_mentions_are_no_thoughts(found, mark, before):
    found |= {"reason": f"it has {mark} in it"}
    assert last(f"{before}```json\n{json.dumps(found)}\n```") == found


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "<one sentence>", "correct": <1 or 0>}',
        '{"reason": "...", "correct": 1 or 0}',
        '{"correct": 1|0}',
        '{"correct": 1 0}',
        '{"correct": 0 (or 1?)}',
        "{'correct': 1, 'correct': 0}",
        '{"reason": "he gave {"correct": 0} as it", "correct": 1}',
        '{"reason": "the question was {"correct": 0} and',
        '{"correct": 1, "reason": "it is "0", so "correct": 0 would be wrong"}',
    ],
)
def test_the_form_of_a_reply_and_what_it_quotes_are_no_verdicts(text):
    with pytest.raises(UnreadableObject):
        reply_objects(text, KEYS)


@pytest.mark.parametrize(
    "text",
    ["word " * 40_000, "{" * 20_000, "{" * 5_000 + "}" * 5_000, "<think>" * 5_000, '{"a": "' * 5_000, "\\" * 50_000],
)
def test_a_long_reply_is_read_at_once(text):
    started = time.monotonic()
    with pytest.raises(UnreadableObject):
        reply_objects(text, KEYS)
    assert time.monotonic() - started < 10  # where each place was tried against the whole text, it were minutes


@pytest.mark.parametrize(
    "text", ["", " ", "1", "[1]", "null", "{}", "It is {maybe} 1", '{"reason": "no verdict"}', "{" * 5000]
)
def test_no_object(text):
    with pytest.raises(UnreadableObject):
        reply_objects(text, KEYS)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        assert all("correct" in one for one in reply_objects(text, KEYS))
    except UnreadableObject:
        pass
    assert "\n" not in quoted(text)
