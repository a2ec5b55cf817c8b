"""Servers whose replies look right and are not: no other answer than the model's, and no traceback."""

import gzip
import json
import re
import zlib

import pytest
from doubles import ReplyServer

from language_models.hosted import bounds
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ContextLengthError, ModelError, SamplingParams, TransientError

SAYS = {"Content-Type": "text/event-stream"}


def choice(text: object = None, reason: str | None = None, usage: object = None, **fields: object) -> dict:
    body = {"choices": [{"index": 0, "text": text, "finish_reason": reason} | fields]}
    return body if usage is None else body | {"usage": {"prompt_tokens": 1, "completion_tokens": usage}}


def streamed(*chunks: dict, done: bool = True) -> tuple[int, dict, bytes]:
    lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return 200, SAYS, b"".join(lines) + b"data: [DONE]\n\n" * done


@pytest.fixture
def serve():
    servers = []

    def start(reply) -> tuple[OpenAIEndpoint, ReplyServer]:
        server = ReplyServer(reply)
        servers.append(server)
        return OpenAIEndpoint("lm", server.host, request_timeout=5.0, retry_policy=RetryPolicy(1)), server

    yield start
    for server in servers:
        server.stop()


def read(endpoint: OpenAIEndpoint, max_tokens: int) -> tuple[str, str]:
    stream = endpoint.stream("p", SamplingParams(max_tokens))
    return "".join(token.text for token in stream), stream.finish_reason


def in_turn(*replies):
    left = list(replies)
    return lambda path, body: left.pop(0)


def test_a_second_stream_that_ends_within_what_was_read_is_no_end_of_the_answer(serve):
    cut = streamed(choice(" a"), choice(" b"), choice(" c"), done=False)
    endpoint, _ = serve(in_turn(cut, streamed(choice(" a"), choice("", "stop"))))
    with pytest.raises(ModelError, match="another text"):
        read(endpoint, 9)


@pytest.mark.parametrize("usage", [0, 1, -1], ids=["always 0", "of each chunk alone", "below 0"])
def test_a_count_that_cannot_be_right_is_not_gone_on_from(serve, usage):
    chunks = [choice(" a b c", usage=usage), choice(" d e f", usage=usage)]
    whole = streamed(*chunks, choice(" g", "length"))
    endpoint, server = serve(in_turn(streamed(*chunks, done=False), whole))
    assert read(endpoint, 7) == (" a b c d e f g", "length")
    assert [body["max_tokens"] for _, body in server.requests] == [7, 7]


@pytest.mark.parametrize("usage", [0, 1])
def test_a_count_that_cannot_be_right_says_nothing_of_the_end(serve, usage):
    chunks = [choice(" a b c", usage=usage), choice(" d e f", usage=usage)]
    endpoint, _ = serve(lambda path, body: streamed(*chunks))
    with pytest.raises(ModelError, match="does not say why it ended"):
        read(endpoint, 6)
    endpoint, _ = serve(lambda path, body: (200, {}, choice(" a b c", usage=0)))
    with pytest.raises(ModelError, match="does not say why it ended"):
        endpoint.complete("p", SamplingParams(3))


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_end_of_sequence_as_the_last_token_is_no_token_limit(serve, logprobs, done):
    def shown(text: str, count: int, reason: str | None = None) -> dict:
        name = text or "</s>"
        listed = {"tokens": [name], "token_logprobs": [-0.1], "top_logprobs": [{name: -0.1}]}
        return choice(text, reason, usage=count, logprobs=listed if logprobs else None)

    first = streamed(shown(" a", 1), shown("", 2), done=done)
    endpoint, server = serve(in_turn(first, streamed(shown("", 1, "stop"))))
    stream = endpoint.stream("p", SamplingParams(2, logprobs=logprobs))
    assert "".join(token.text for token in stream) == " a" and stream.finish_reason == "stop"
    assert [(body["prompt"], body["max_tokens"]) for _, body in server.requests] == [("p", 2), ("p a", 1)]


@pytest.mark.parametrize("name", ["delta", "message"])
def test_chunks_of_a_chat_are_no_empty_answer(serve, name):
    said = {"index": 0, "finish_reason": None, name: {"content": " Paris"}}
    endpoint, _ = serve(lambda path, body: streamed({"choices": [said]}, choice("", "stop")))
    with pytest.raises(ModelError, match="is of a chat"):
        read(endpoint, 9)


def test_a_reply_much_longer_than_asked_for_is_refused_without_any_count(serve):
    endpoint, _ = serve(lambda path, body: (200, {}, choice(" one two three" * 9, "stop")))
    with pytest.raises(ModelError, match="more than the 1 tokens"):
        endpoint.complete("p", SamplingParams(1))


def model(write, chunks=None):
    """A server of a model that writes a text after each prompt, and streams what `chunks` makes of its words."""

    def reply(path, body):
        if not path.endswith("/completions"):
            return 404, {}, {}
        words = write(body["prompt"])[: body["max_tokens"]]
        if body.get("stream"):
            return streamed(*map(choice, chunks(words)), choice("", "length"))
        return 200, {}, choice("".join(words), "length")

    return reply


def words_after(prompt: str) -> list[str]:
    return [f" {prompt[:2]}{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        (lambda words: ["".join(words[: n + 1]) for n in range(len(words))], "another text"),
        (lambda words: [word.strip() for word in words], "another text"),
        (lambda words: [""] * len(words), "no text"),
    ],
    ids=["from the beginning each time", "without blanks", "empty"],
)
def test_streams_of_another_text_than_whole_replies_are_not_used(serve, chunks, says):
    endpoint, _ = serve(model(words_after, chunks))
    report = endpoint.probe(None)
    assert report.streams is False and says in report.why_not_streamed


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_streams_of_the_same_text_are_used(serve, temperature):
    endpoint, _ = serve(model(words_after, lambda words: words))
    assert endpoint.probe(None, temperature=temperature).streams is True


def test_a_server_that_repeats_the_prompt_is_refused(serve):
    endpoint, _ = serve(model(lambda prompt: [prompt + " Paris"], lambda words: words))
    with pytest.raises(ModelError, match="more than the 1 tokens"):
        endpoint.probe(None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("named", "content"), [("gzip", b"no gzip"), ("deflate", b"x"), ("gzip", gzip.compress(b"x", mtime=0)[:9])]
)
def test_a_reply_that_is_not_compressed_as_it_says_is_an_error(serve, named, content, stream):
    endpoint, _ = serve(lambda path, body: (200, {"Content-Encoding": named} | (SAYS if stream else {}), content))
    with pytest.raises(ModelError, match="cannot be read|cut before its end"):
        read(endpoint, 3) if stream else endpoint.complete("p", SamplingParams(3))


@pytest.mark.parametrize("named", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("stream", [False, True])
def test_compressed_replies_are_read_and_none_is_endless(serve, named, stream, monkeypatch):
    monkeypatch.setattr(bounds, "LONGEST_BODY", 2**21)

    def packed(content: bytes) -> bytes:
        packing = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw deflate": -15}[named])
        return packing.compress(content) + packing.flush()

    long = choice(" a b", "length", of_no_use="x" * 1_500_000)
    contents = [streamed(long)[2] if stream else json.dumps(long).encode(), b"[" + b" " * 2**21]
    headers = {"Content-Encoding": named.split()[-1]} | (SAYS if stream else {})
    endpoint, _ = serve(in_turn(*((200, headers, packed(content)) for content in contents)))

    def ask() -> str:
        return read(endpoint, 2)[0] if stream else endpoint.complete("p", SamplingParams(2)).text

    assert ask() == " a b"
    with pytest.raises(ModelError, match="2 MiB"):
        ask()


DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("headers", "content", "says"),
    [
        ({}, DEEP, r"\[\["),
        ({"Content-Type": "text/plain; charset=rot13"}, b"the boiler", "the boiler"),
        ({"Content-Type": "text/plain; charset=hex"}, b"the boiler", "the boiler"),
    ],
    ids=["nested without end", "charset of no text", "charset of bytes"],
)
def test_an_error_of_any_form_is_told(serve, headers, content, says):
    endpoint, _ = serve(lambda path, body: (418, headers, content))
    with pytest.raises(ModelError, match=says):
        endpoint.complete("p", SamplingParams(3))


@pytest.mark.parametrize("names", [[None], [5], [{}], "x", None])
def test_odd_lists_of_models_and_facts_end_no_probe(serve, names):
    writes = model(words_after, lambda words: words)

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, {"data": [{"id": name} for name in names] if isinstance(names, list) else names}
        return writes(path, body) if body else (200, {}, DEEP)

    endpoint, _ = serve(reply)
    report = endpoint.probe(None)
    assert report.streams and report.served_models == [] and report.version is None


@pytest.mark.parametrize("status", [200, 408, 500, 503])
@pytest.mark.parametrize(
    "words",
    [
        "the model is loading (context size 4096), try again later",
        "CUDA out of memory: tried to allocate a cache for a context length of 131072",
        "the maximum context length cannot be served for now, the server is overloaded",
        "worker crashed (context window 4096)",
    ],
)
def test_a_failure_that_names_the_context_window_ends_no_answer(serve, status, words):
    endpoint, server = serve(lambda path, body: (status, {}, {"error": {"message": words}}))
    with pytest.raises(TransientError, match=re.escape(words[:30])):
        endpoint.complete("p", SamplingParams(3))
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_prompt_that_is_too_long_is_so_beside_any_status(serve, status):
    words = "This model's maximum context length is 9 tokens"
    endpoint, server = serve(lambda path, body: (status, {}, {"error": {"message": words}}))
    with pytest.raises(ContextLengthError):
        endpoint.complete("p", SamplingParams(3))
    assert len(server.requests) == 1
