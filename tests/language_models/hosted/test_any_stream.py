"""Streams of any shape: the right tokens, or an error in the server's words; never other tokens."""

import json
import time
from dataclasses import dataclass

import httpx2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from language_models.hosted.events import SilentServer, events
from language_models.hosted.http import make_client, make_http
from language_models.hosted.logprobs import FaultyReply
from language_models.hosted.streams import EventStream, Manners
from language_models.hosted.token_texts import TokenReader
from language_models.interface import ContextLengthError, ModelError, TransientError

TEXTS = (" a", " bé", "\n", " 🙂", "data: ", ":", " {x}", " [DONE]", "\u2028", '"', " two words")
CLIENT = make_client("http://127.0.0.1:9/v1", "EMPTY", make_http("http://127.0.0.1:9/v1", 1, 5.0))
WORDS = "the words of the server"
ERRORS = (
    {"error": {"message": WORDS, "type": "server_error", "code": 500}},
    {"error": WORDS},
    {"error": [{"message": WORDS}]},
    {"object": "error", "message": WORDS, "type": "InternalServerError", "code": 500},
    {"error": {"message": WORDS}, "choices": [{"index": 0, "text": "", "finish_reason": "error"}]},
    {"choices": [{"index": 0, "text": "", "finish_reason": None, "error": {"message": WORDS}}]},
    {"error": WORDS, "error_type": "generation"},
    {"detail": WORDS},
    {"detail": [{"loc": ["body", "prompt"], "msg": WORDS}]},
    {"message": WORDS, "type": "error"},
    {"success": False, "errors": [{"code": 7000, "message": WORDS}]},
    {"code": 500, "msg": WORDS},
    {"status": "error", "message": WORDS},
)


@dataclass(frozen=True)
class Answer:
    """What a model writes, and how much it was asked for."""

    texts: tuple[str, ...]
    ended: bool
    max_tokens: int

    @property
    def finish_reason(self) -> str:
        return "stop" if self.ended else "length"


@st.composite
def answers(draw) -> Answer:
    texts = tuple(draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8)))
    ended = draw(st.booleans())
    return Answer(texts, ended, len(texts) + (draw(st.integers(1, 9)) if ended else 0))


def logprobs_of(texts: list[str]) -> dict:
    tops = [{text: -0.25, "other": -2.0} for text in texts]
    return {"tokens": list(texts), "token_logprobs": [-0.25] * len(texts), "top_logprobs": tops}


@dataclass
class Written:
    """A stream as it was written: its body, whether it says why it ends, and whether anything tells how many tokens it has."""

    body: bytes
    says_why: bool
    counted: bool


@st.composite
def written(draw, answer: Answer, with_logprobs: bool, fault: bytes | None = None) -> Written:
    """One of the ways in which servers write a stream; a fault stands somewhere before its end."""
    unfinished = draw(st.sampled_from(({"finish_reason": None}, {"finish_reason": ""}, {})))
    chunks: list[dict] = []
    left = list(answer.texts)
    while left:
        group = [left.pop(0) for _ in range(min(len(left), draw(st.integers(1, 3))))]
        late = (
            with_logprobs and not chunks and len(left) > 0 and draw(st.booleans())
        )  # the text comes with the next chunk
        choice = {"index": 0, "text": "" if late else "".join(group)} | unfinished
        if with_logprobs:
            choice["logprobs"] = logprobs_of(group)
        chunks.append({"choices": [choice]})
        if late:
            more = [left.pop(0)]
            choice = {"index": 0, "text": "".join(group + more), "logprobs": logprobs_of(more)} | unfinished
            chunks.append({"choices": [choice]})
    says_why = draw(st.booleans())
    if says_why and draw(st.booleans()) and not answer.ended:
        chunks[-1]["choices"][0]["finish_reason"] = "length"
    elif says_why:
        text = draw(st.sampled_from(({"text": ""}, {"text": None}, {})))
        choice = {"index": 0, "finish_reason": answer.finish_reason, "logprobs": None} | text
        chunks.append({"choices": [choice]})
    counted = draw(st.booleans())
    if counted:
        for place in draw(st.sampled_from((range(len(chunks)), [len(chunks) - 1]))):
            told = len(answer.texts) + answer.ended if place == len(chunks) - 1 else 1
            chunks[place]["usage"] = {"prompt_tokens": 5, "completion_tokens": told}
    lines = [json.dumps(chunk, ensure_ascii=draw(st.booleans())).encode() for chunk in chunks]
    if fault is not None:
        lines.insert(draw(st.integers(0, len(lines) - 1)), fault)
    ending = draw(st.sampled_from((b"\n", b"\r\n", b"\r")))
    blank = ending * draw(st.integers(1, 2))
    space = draw(st.sampled_from((b"", b" ")))
    noise = st.sampled_from(
        (b"", b": keep-alive" + ending * 2, b"data:" + ending * 2, b"event: message" + ending, b"id: 1" + ending)
    )
    body = b"".join(draw(noise) + b"data:" + space + line + ending + (blank[len(ending) :] or b"") for line in lines)
    if not says_why or draw(st.booleans()):
        body += b"data:" + space + b"[DONE]" + ending * 2
    return Written(body, says_why, counted)


def parts(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(body) + 1) for cut in cuts})
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def read(content, answer: Answer, with_logprobs: bool, content_type: str = "text/event-stream", **options):
    """The texts that were read, the finish reason, and the error where there was one."""
    response = httpx2.Response(200, headers={"content-type": content_type}, content=content)
    reader = TokenReader() if with_logprobs else None
    how = {"silence": 60.0, "manners": Manners(), "where": "lm at host", "client": CLIENT} | options
    stream = EventStream(lambda: response, reader, answer.max_tokens, count=lambda usage: None, **how)
    texts: list[str] = []
    try:
        for token in stream:
            texts.append(token.text)
    except ModelError as error:
        return texts, None, error
    return texts, stream.finish_reason, None


def is_right(texts: list[str], reason: str | None, answer: Answer, with_logprobs: bool) -> bool:
    whole = list(answer.texts) + [""] * (answer.ended and with_logprobs)
    return reason == answer.finish_reason and (texts == whole if with_logprobs else "".join(texts) == "".join(whole))


@settings(max_examples=200)
@given(st.data(), answers(), st.booleans(), st.lists(st.integers(0, 10_000), max_size=6))
def test_every_way_of_writing_a_stream_has_the_same_tokens(data, answer, with_logprobs, cuts):
    stream = data.draw(written(answer, with_logprobs))
    texts, reason, error = read(iter(parts(stream.body, cuts)), answer, with_logprobs)
    if error is not None:  # nobody could know whether the answer is over
        assert not stream.says_why and not with_logprobs
        assert not stream.counted or len(answer.texts) + answer.ended == answer.max_tokens
        assert "does not say why it ended" in str(error)
    else:
        assert is_right(texts, reason, answer, with_logprobs)


@settings(max_examples=100)
@given(st.data(), answers(), st.booleans(), st.sampled_from(ERRORS))
def test_an_error_in_a_stream_is_told_in_its_own_words(data, answer, with_logprobs, told):
    stream = data.draw(written(answer, with_logprobs, fault=json.dumps(told).encode()))
    texts, _, error = read(iter([stream.body]), answer, with_logprobs)
    assert isinstance(error, TransientError) and WORDS in str(error)
    assert "".join(answer.texts).startswith("".join(texts))


@settings(max_examples=200)
@given(
    st.data(),
    answers(),
    st.booleans(),
    st.integers(0, 10_000),
    st.sampled_from((httpx2.ReadError, httpx2.ReadTimeout, None)),
)
def test_a_stream_that_is_cut_anywhere_has_the_right_tokens_or_an_error(data, answer, with_logprobs, at, how):
    body = data.draw(written(answer, with_logprobs)).body
    at %= len(body) + 1

    def content():
        yield body[:at]
        if how:
            raise how("cut")

    texts, reason, error = read(content(), answer, with_logprobs)
    if error is None:
        assert is_right(texts, reason, answer, with_logprobs)
    else:
        assert "".join(answer.texts).startswith("".join(texts))


TAILS = {
    "an error": [b'data: {"error": "too late"}\n\n'],
    "no json": [b"data: oops\n\n"],
    "html": [b"<html>"],
    "usage of odd types": [b'data: {"choices": [], "usage": {"prompt_tokens": null, "completion_tokens": "9"}}\n\n'],
    "done twice": [b"data: [DONE]\n\n", b"data: [DONE]\n\n"],
    "a cut": [httpx2.ReadError("cut")],
    "a timeout": [httpx2.ReadTimeout("late")],
    "a cut after done": [b"data: [DONE]\n\n", httpx2.ReadError("cut")],
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("with_logprobs", [True, False])
def test_what_comes_behind_the_finish_reason_fails_nothing(tail, with_logprobs):
    answer = Answer((" a", " b"), False, 2)
    choice = {"index": 0, "text": " a b", "finish_reason": "length", "logprobs": logprobs_of([" a", " b"])}

    def content():
        yield b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        for part in TAILS[tail]:
            if isinstance(part, Exception):
                raise part
            yield part

    texts, reason, error = read(content(), answer, with_logprobs)
    assert error is None and is_right(texts, reason, answer, with_logprobs)


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([({"text": " a b"}, [" a"])], "do not fit its text"),
        ([({"text": " a"}, [" a"]), ({"text": " b", "finish_reason": "content_filter"}, [" b"])], "content_filter"),
        ([({"text": " a", "finish_reason": "length"}, [" a"]), ({"text": " b"}, [" b"])], "behind its finish reason"),
        ([({"text": " a"}, [" a"]), ({"text": " b", "index": 1}, [" b"])], "several choices"),
        ([({"text": 3}, [" a"])], "no string"),
        ([({"text": " a"}, [" a"])] * 3, "more than the 2 tokens"),
        ([({"text": " a"}, [" a"]), ({"text": " b", "finish_reason": {}}, [" b"])], "finish_reason {}"),
    ],
)
def test_what_cannot_be_the_answer_is_an_error(chunks, says):
    events = [
        {"choices": [{"index": 0, "finish_reason": None} | choice | {"logprobs": logprobs_of(texts)}]}
        for choice, texts in chunks
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    texts, _, error = read(iter([body]), Answer((" a", " b"), False, 2), True)
    assert says in str(error) and texts in ([], [" a"], [" a", " b"], [" a", " a"])


def test_a_text_longer_than_its_tokens_can_be_is_too_much():
    def content():
        while True:
            yield b'data: {"choices": [{"index": 0, "text": "%s", "finish_reason": null}]}\n\n' % (b"x" * 500)

    texts, _, error = read(content(), Answer((), False, 4), False)
    assert "more than the 4 tokens" in str(error) and len(texts) < 10


def test_texts_that_never_fit_are_not_gathered_for_ever():
    def content():
        for _ in range(10_000):
            yield (
                b"data: "
                + json.dumps({"choices": [{"index": 0, "text": "y", "logprobs": logprobs_of(["x"])}]}).encode()
                + b"\n\n"
            )

    _, _, error = read(content(), Answer((), False, 10_000), True)
    assert "do not fit its text" in str(error)


@pytest.mark.parametrize(
    "part", [b"x" * 2**20, b"data: " + b"x" * 2**20, b": " + b"x" * 2**20 + b"\n"], ids=["body", "line", "comments"]
)
def test_a_body_without_end_ends(part, monkeypatch):
    monkeypatch.setattr("language_models.hosted.bounds.LONGEST_BODY", 4 * 2**20)
    sent = 0

    def content():
        nonlocal sent
        while True:
            sent += 1
            yield part

    with pytest.raises(FaultyReply, match="more than 4 MiB"):
        list(events(content(), 60.0))
    assert sent <= 5


def test_a_line_in_many_parts_takes_time_in_proportion():
    """200,000 parts of one line: joined anew for each, they would take minutes."""
    line = b"data: " + json.dumps({"x": "y" * 200_000}).encode()
    assert list(events((line[i : i + 1] for i in range(len(line))), 60.0)) == [line[6:]]


def test_comments_are_no_sign_of_life_for_ever():
    now = time.monotonic()

    def content():
        while time.monotonic() < now + 30:
            yield b": keep-alive\n\n"

    with pytest.raises(SilentServer):
        list(events(content(), 0.05))
    _, _, error = read(content(), Answer((" a",), False, 1), True, silence=0.05)
    assert isinstance(error, TransientError) and "no token in 0.05 s" in str(error)


def test_empty_events_are_no_sign_of_life_for_ever():
    def content():
        while True:
            yield b'data: {"choices": [{"index": 0, "text": ""}]}\n\n'

    _, _, error = read(content(), Answer((" a",), False, 1), False, silence=0.05)
    assert "no token in 0.05 s" in str(error)


def test_whoever_does_not_read_for_a_while_waits_for_no_server():
    chunks = [b'data: {"choices": [{"index": 0, "text": " a"}]}\n\n'] * 3 + [b"data: [DONE]\n\n"]
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=iter(chunks))
    how = {"silence": 0.05, "manners": Manners(), "where": "lm at host", "client": CLIENT, "count": lambda usage: None}
    stream = EventStream(lambda: response, None, 3, **how)
    texts = []
    for token in stream:
        texts.append(token.text)
        time.sleep(0.06)
    assert texts == [" a"] * 3 and stream.finish_reason == "length"


@pytest.mark.parametrize("indent", [None, 1])
def test_a_whole_reply_in_place_of_a_stream_is_read(indent):
    answer = Answer((" a", " b"), False, 2)
    choice = {"index": 0, "text": " a b", "finish_reason": "length", "logprobs": logprobs_of([" a", " b"])}
    body = json.dumps({"object": "text_completion", "choices": [choice]}, indent=indent).encode()
    texts, reason, error = read(iter([body]), answer, True, "application/json")
    assert error is None and is_right(texts, reason, answer, True)


def test_an_error_in_place_of_a_stream_is_told():
    body = json.dumps({"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}}).encode()
    _, _, error = read(iter([body]), Answer((), False, 1), True, "application/json")
    assert isinstance(error, ContextLengthError)


def test_events_in_several_lines_of_data():
    assert list(events([b'data: {"a":\ndata: 1}\n\ndata: x\ndata: y\n\n'], 60)) == [b'{"a":\n 1}', b"x\n y"]


def test_events_of_parts():
    body = b": a comment\ndata: 1\n\ndata:2\n\nevent: x\ndata: 3"
    assert list(events([body[:9], body[9:12], body[12:]], 60)) == [b"1", b"2", b"3"]
