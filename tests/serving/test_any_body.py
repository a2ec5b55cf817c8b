"""Bodies of any values in the known fields: an error where one of them cannot be, else an answer that has regard to all of them."""

import json

import hypothesis.strategies as st
from hypothesis import given, settings
from malformed import BOUNDS, QUESTION, TYPES, UNDEFINED, check_error
from served_pair import read_events

# What a field can be, beside what it must not be (see malformed); null is as if it were not there.
GOOD = {
    "n": (1, 2, None),
    "max_tokens": (1, 3, 1000, None),
    "max_token_total": (4, 9, None),
    "stop": ("e", ["e", "nowhere"], [], None),
    "seed": (0, -5, 2**63 - 1, None),
    "temperature": (0, 0.7, 2, None),
    "top_p": (1, 0.5, None),
    "top_prob_thres": (0, 0.3, 1, None),
    "criterion": ("top_prob", None),
    "stream": (True, False, None),
    "user": ("me", "\ud83d", None),
    "logprobs": (False, None),
    "tools": ([], None),
    "response_format": ({"type": "text"}, None),
    "unknown": (1, "x", [[]], {"a": None}),
}
BAD = {name: (*TYPES.get(name, ()), *BOUNDS.get(name, ()), *UNDEFINED.get(name, ())) for name in GOOD}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bodies(draw) -> tuple[dict, set[str]]:
    """A body, and which of its fields cannot be."""
    body, wrong = {"model": "pair", "messages": QUESTION, "max_token_total": 9}, set()
    for name in draw(st.sets(st.sampled_from(sorted(GOOD)), max_size=6)):
        if BAD[name] and draw(st.integers(0, 4)) == 0:
            body[name] = draw(st.sampled_from(BAD[name]))
            wrong.add(name)
        else:
            body[name] = draw(st.sampled_from(GOOD[name]))
    return body, wrong


@given(bodies())
@settings(max_examples=40)
def test_a_body_is_refused_for_what_cannot_be_and_else_answered(served, drawn):
    body, wrong = drawn
    if body.get("max_token_total") is None:
        body["max_token_total"] = 9
    reply = served.http.post("/v1/chat/completions", content=json.dumps(body))
    if wrong:
        assert check_error(reply.status_code, reply.headers, reply.content)["param"].split("[")[0] in wrong
        assert reply.status_code == 400
        return
    assert reply.status_code == 200, reply.text
    if body.get("stream"):
        texts: dict[int, str] = {}
        for chunk in read_events(reply.text):
            choice = chunk["choices"][0]
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
    else:
        texts = {choice["index"]: choice["message"]["content"] for choice in reply.json()["choices"]}
    assert sorted(texts) == list(range(body.get("n") or 1))
    if body.get("stop"):
        assert not any("e" in text for text in texts.values())
    if not body.get("temperature"):
        assert len(set(texts.values())) == 1


@given(st.sampled_from([*GOOD, "model", "messages", "stream_options", "tool_choice", "echo"]), JSON)
@settings(max_examples=60)
def test_no_value_is_an_error_of_ours(served, name, value):
    body = {"model": "pair", "messages": QUESTION, "max_token_total": 4} | {name: value}
    if name == "n" and isinstance(value, int) and value > 3:
        return
    reply = served.http.post("/v1/chat/completions", content=json.dumps(body))
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        check_error(reply.status_code, reply.headers, reply.content)
