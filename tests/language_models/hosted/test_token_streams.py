"""Streams of tokens from a server: the same tokens as whole completions, early ends, and failures on the way."""

import json
import math
from dataclasses import replace

import pytest
from doubles import ScriptedServer
from misbehaving_server import MisbehavingServer, head, stream_of
from waiting import HANG, wait_until

from baselines import average_ensemble, proxy_tuning
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.resumed_stream import RECOVERED_TOKENS
from language_models.hosted.retries import RetryPolicy
from language_models.hosted.token_texts import TokenReader
from language_models.interface import ContextLengthError, Metered, ModelError, ProbabilityError, SamplingParams
from nudging import NudgingSettings, nudge

END_FORMS = [("--eos_token_text", ""), ("--eos_token_text", "</s>"), ("--omit_eos_token",)]
ASKED = SamplingParams(40, logprobs=1)


def chunk(text: str, *tokens: str, finish: str | None = None, **fields) -> dict:
    logprobs = {"tokens": list(tokens), "token_logprobs": [-0.1] * len(tokens)}
    logprobs["top_logprobs"] = [{token: -0.1} for token in tokens]
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}]} | fields


def events(*chunks: dict | str, done: bool = True) -> bytes:
    texts = [part if isinstance(part, str) else json.dumps(part) for part in chunks]
    return "".join(f"data: {text}\n\n" for text in [*texts, "[DONE]"][: None if done else -1]).encode()


def endpoint(host: str, retries: int = 2, **options) -> OpenAIEndpoint:
    return OpenAIEndpoint("lm", host, retry_policy=RetryPolicy(retries), **options)


def streaming(reply_server, *bodies: bytes):
    """An endpoint whose server answers with these bodies in turn, the last one again and again; and the server."""
    left = list(bodies)

    def reply(path, body):
        content = left.pop(0) if len(left) > 1 else left[0]
        return 200, {"Content-Type": "text/event-stream"}, content

    server = reply_server(reply)
    return endpoint(server.host), server


@pytest.mark.parametrize("form", END_FORMS)
def test_a_stream_has_the_tokens_of_the_completion(form, start_server):
    server = start_server("--seed", "2", *form)
    model = endpoint(server.host)
    model.name = "base-lm"
    for i in range(12):
        prompt = f"Question: what are {i} and {i + 1}?\n"
        whole = model.complete(prompt, ASKED)
        stream = model.stream(prompt, ASKED)
        tokens = []
        assert stream.finish_reason is None
        for token in stream:
            tokens.append(token)
            assert (stream.finish_reason is None) == (len(tokens) < len(whole.tokens))
        assert tuple(tokens) == whole.tokens and stream.finish_reason == whole.finish_reason
        assert stream.usage.requests == 1 and stream.usage.retries == 0


def test_a_closed_stream_costs_what_was_read_of_it(start_server):
    """The answer has 2875 tokens and takes minutes, so that the server cannot be at its end before the stream is closed."""
    server = start_server("--seed", "2", "--latency_ms", "50")
    model = endpoint(server.host)
    model.name = "base-lm"
    stream = Metered(model).stream("Question: what is 35 and 2?\n", replace(ASKED, max_tokens=8000))
    for _ in range(3):
        next(stream)
    stream.close()
    assert stream.usage.completion_tokens == 3
    assert list(stream) == []
    wait_until(lambda: server.stats()["base-lm"]["aborted"], "the server has seen that nobody reads on")
    assert server.stats()["base-lm"]["completion_tokens"] < 2875


def test_without_log_probabilities_there_is_text(reply_server):
    body = events(*({"choices": [{"text": text, "finish_reason": None}]} for text in (" a", "", " b")))
    end = events({"choices": [{"text": "", "finish_reason": "stop"}]}, {"choices": [], "usage": {"prompt_tokens": 7}})
    model, _ = streaming(reply_server, body.removesuffix(events()) + end)
    stream = model.stream("x", SamplingParams(9))
    assert [(token.text, token.top) for token in stream] == [(" a", ()), (" b", ())]
    assert (stream.finish_reason, stream.usage.prompt_tokens) == ("stop", 7)


def test_texts_that_come_later_than_their_tokens(reply_server):
    model, _ = streaming(
        reply_server,
        events(
            chunk("", " late"),
            chunk(" late on", " on"),
            chunk("", "\ufffd"),
            chunk("é", "\ufffd"),
            chunk(" two more", " two", " more", usage={"prompt_tokens": 4, "completion_tokens": 6}),
            chunk("", finish="stop"),
        ),
    )
    stream = model.stream("x", ASKED)
    assert [token.text for token in stream] == [" late", " on", "", "é", " two", " more", ""]
    assert stream.finish_reason == "stop" and stream.usage.prompt_tokens == 4


def test_an_end_by_name_is_a_token_without_text(reply_server):
    model, _ = streaming(reply_server, events(chunk(" a", " a"), chunk("", "</s>", finish="stop")))
    tokens = list(model.stream("x", ASKED))
    assert [token.text for token in tokens] == [" a", ""] and tokens[1].top == (("", -0.1),)


def test_a_broken_stream_goes_on_where_it_broke(reply_server):
    first, rest = events(chunk(" a", " a"), chunk(" b", " b"), done=False), events(chunk(" c", " c", finish="length"))
    model, server = streaming(reply_server, first, rest)
    stream = model.stream("x", SamplingParams(3, logprobs=1))
    assert [token.text for token in stream] == [" a", " b", " c"]
    bodies = [body for _, body in server.requests]
    assert [(body["prompt"], body["max_tokens"]) for body in bodies] == [("x", 3), ("x a b", 1)]
    assert (stream.usage.requests, stream.usage.retries, stream.usage.completion_tokens) == (2, 1, 3)
    assert (model.usage.requests, model.usage.completion_tokens) == (2, 3)


def test_a_stream_that_breaks_after_its_last_token_is_whole(reply_server):
    model, server = streaming(reply_server, events(chunk(" a", " a"), chunk(" b", " b"), done=False))
    stream = model.stream("x", SamplingParams(2, logprobs=1))
    assert [token.text for token in stream] == [" a", " b"] and stream.finish_reason == "length"
    assert len(server.requests) == 1


def test_a_stream_counts_for_its_sample_once_its_last_token_is_read(reply_server):
    model, _ = streaming(reply_server, events(chunk(" a", " a", finish="length")))
    sample = Metered(model)
    stream = sample.stream("x", SamplingParams(1, logprobs=1))
    next(stream)
    assert (sample.usage.requests, sample.usage.completion_tokens) == (1, 1)
    stream.close()
    assert sample.usage.requests == 1


@pytest.mark.parametrize(
    "body",
    [
        events({"error": {"message": "out of memory"}}),
        events("no json"),
        events(chunk("text without end", "other"), chunk("", finish="length")),
        events({"choices": [{"text": "x", "finish_reason": "abort"}]}),
        events(done=False),
        events(),
    ],
)
def test_a_stream_that_never_works_is_a_failure(body, reply_server, monkeypatch):
    monkeypatch.setattr("language_models.hosted.resumed_stream.seconds_to_wait", lambda error, tries: 0.0)
    model, server = streaming(reply_server, body)
    with pytest.raises(ModelError) as failure:
        list(model.stream("x", ASKED))
    assert "lm at http" in str(failure.value)
    assert len(server.requests) == 3


@pytest.mark.parametrize("tail", [b"data: no json\n\n", b"", events({"error": "busy"})], ids=["broken", "cut", "error"])
@pytest.mark.parametrize("tokens", [1, 5, RECOVERED_TOKENS - 1])
def test_a_failure_that_always_comes_back_does_not_pass_with_a_few_tokens(tokens, tail, reply_server, monkeypatch):
    monkeypatch.setattr("language_models.hosted.resumed_stream.seconds_to_wait", lambda error, tries: 0.0)
    body = events(*[chunk(" a", " a")] * tokens, done=False) + tail
    model, server = streaming(reply_server, body)
    with pytest.raises(ModelError, match="lm at http"):
        list(model.stream("x", SamplingParams(500, logprobs=1)))
    assert len(server.requests) == 3


def test_failures_with_a_call_s_tokens_between_them_pass(reply_server, monkeypatch):
    monkeypatch.setattr("language_models.hosted.resumed_stream.seconds_to_wait", lambda error, tries: 0.0)
    model, server = streaming(reply_server, events(*[chunk(" a", " a")] * RECOVERED_TOKENS, done=False))
    tokens = list(model.stream("x", SamplingParams(10 * RECOVERED_TOKENS, logprobs=1)))
    assert len(tokens) == 10 * RECOVERED_TOKENS and len(server.requests) == 10


def test_a_token_without_log_probabilities_ends_a_stream_and_its_connection(reply_server):
    body = events(chunk(" a", " a"), {"choices": [{"text": " b", "finish_reason": None, "logprobs": None}]})
    model, server = streaming(reply_server, body)
    stream = model.stream("x", ASKED)
    assert next(stream).text == " a"
    with pytest.raises(ProbabilityError, match="lm at http.*no log-probability for ' b'.*speculative decoding"):
        next(stream)
    assert len(server.requests) == 1 and stream._stream._response.is_closed


def test_refusals(reply_server):
    too_long = {"error": {"message": "This model's maximum context length is 9 tokens", "code": 400}}
    server = reply_server(lambda path, body: (400, {}, too_long))
    with pytest.raises(ContextLengthError):
        endpoint(server.host).stream("x", ASKED)
    assert len(server.requests) == 1


def test_whole_streams_share_one_connection(start_server):
    server = start_server("--seed", "2")
    model = endpoint(server.host)
    for _ in range(4):
        list(model.stream("a b c", ASKED))
    connections = {id(connection) for connection in model.http._transport._pool.connections}
    assert len(connections) == 1


def held_open(behind_done: bool):
    def spoil(exchange):
        yield head(200, "text/event-stream") + stream_of(exchange.events, done=behind_done)
        yield None

    return spoil


@pytest.mark.parametrize("behind_done", [True, False])
def test_a_finished_stream_that_stays_open_is_not_waited_for(behind_done, server, monkeypatch):
    monkeypatch.setattr("language_models.hosted.streams.LAST_WORDS_SECONDS", 0.2)
    front = MisbehavingServer(server, held_open(behind_done))
    model, straight = endpoint(front.host, request_timeout=HANG), endpoint(server.host)
    model.name = straight.name = "base-lm"
    try:
        for prompt in ("a", "b"):
            assert tuple(model.stream(prompt, ASKED)) == straight.complete(prompt, ASKED).tokens
        assert not model.manners.ends  # the second one was closed at once
    finally:
        front.stop()


def test_a_connection_that_is_over_in_time_is_not_cut(server):
    model = endpoint(server.host)
    list(model.stream("a b c", ASKED))
    assert model.manners.ends


def test_the_key_goes_with_every_request(reply_server):
    seen = []
    server = reply_server(
        lambda path, body: (200, {"Content-Type": "text/event-stream"}, events(chunk(" a", " a", finish="length")))
    )
    model = endpoint(server.host, api_key="sk-secret")
    handler = server.server.RequestHandlerClass
    answer = handler.do_POST

    def watching(self):
        seen.append(self.headers["Authorization"])
        answer(self)

    handler.do_POST = watching
    list(model.stream("x", ASKED))
    assert seen == ["Bearer sk-secret"]


def test_top_probability_of_a_streamed_token():
    (token,) = TokenReader().read(" a", chunk(" a", " a")["choices"][0]["logprobs"], "length")
    assert token.top_prob == pytest.approx(math.exp(-0.1))


@pytest.fixture(scope="module")
def narrow_servers(start_server) -> dict[int, ScriptedServer]:
    """Servers with little room, by their seeds."""
    rooms = {1: 60, 2: 75, 3: 90}
    return {s: start_server("--seed", str(s), "--max_model_len", str(room)) for s, room in rooms.items()}


@pytest.mark.parametrize("loop", ["nudging", "ensemble", "proxy_tuning"])
def test_the_end_of_the_context_window_is_the_same_place(loop, narrow_servers):
    """Streams ask for more tokens than fit long before the published calls do."""
    settings = NudgingSettings(top_prob_thres=0.4, max_token_total=200)
    reasons = set()
    for seed, server in narrow_servers.items():
        answers = []
        for calls in ("published", "streamed"):
            models = [OpenAIEndpoint(name, server.host) for name in ("base-lm", "llama-2-chat", "proxy-lm")]
            prompts = [f"Question: what are {seed} and 4?\n"] * 3
            if loop == "nudging":
                found = nudge(*models[:2], *prompts[:2], settings, request_mode=calls)
            elif loop == "ensemble":
                found = average_ensemble(*models[:2], *prompts[:2], max_token_total=200, request_mode=calls)
            else:
                found = proxy_tuning(*models, *prompts, max_token_total=200, request_mode=calls)
            answers.append((found.text, found.stop_reason))
        assert answers[0] == answers[1]
        reasons.add(answers[0][1])
    assert "context_length" in reasons


def plain_chunk(text: str, count: int | None = None, finish: str | None = None) -> dict:
    usage = {} if count is None else {"usage": {"prompt_tokens": 1, "completion_tokens": count}}
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]} | usage


def test_a_broken_stream_of_several_tokens_per_chunk_goes_on_by_the_server_s_count(reply_server):
    first = events(plain_chunk(" a b c", 3), plain_chunk(" d e", 5), done=False)
    model, server = streaming(reply_server, first, events(plain_chunk(" f", 1, "length")))
    assert "".join(token.text for token in model.stream("x", SamplingParams(6))) == " a b c d e f"
    assert [(body["prompt"], body["max_tokens"]) for _, body in server.requests] == [("x", 6), ("x a b c d e", 1)]


@pytest.mark.parametrize("cut", [" a b c", " a", " a b c d"])
def test_a_broken_stream_that_nobody_counts_begins_anew(cut, reply_server):
    whole = events(plain_chunk(" a b"), plain_chunk(" c d e"), plain_chunk("", None, "length"))
    model, server = streaming(reply_server, events(plain_chunk(cut), done=False), whole)
    assert "".join(token.text for token in model.stream("x", SamplingParams(5))) == " a b c d e"
    assert [(body["prompt"], body["max_tokens"]) for _, body in server.requests] == [("x", 5), ("x", 5)]


def test_a_broken_stream_that_begins_anew_with_another_text_is_a_failure(reply_server):
    other = events(plain_chunk(" z"), plain_chunk("", None, "length"))
    model, _ = streaming(reply_server, events(plain_chunk(" a"), done=False), other)
    with pytest.raises(ModelError, match="has another text"):
        list(model.stream("x", SamplingParams(5)))
