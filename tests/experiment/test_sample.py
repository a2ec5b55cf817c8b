"""One model's answer, by one request or streamed: the same text, the same end."""

import json

import pytest
from doubles import completion_reply, free_port
from waiting import HANG

from experiment.sample import decode, used_request_mode
from experiment.settings import RunSettings
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import Metered, ModelError

MODELS = {"object": "list", "data": []}
WORDS = (" Each", " piece", " is", " 5", " m", "\u00e9", "tres", ".", "\n")


def settings(exp: str, calls: str = "auto", **options) -> RunSettings:
    role = exp.removesuffix("_only")
    host = {f"{role}_model": "lm", f"{role}_host": f"http://127.0.0.1:{free_port()}/v1"}
    return RunSettings(exp=exp, calls=calls, nudging_template="chatml", judge="none", **host, **options)


def writes(words, *, cut_after=None, streams=True):
    """A model that writes these words and ends; its first stream for the whole is cut after some of them."""
    whole, cuts = "".join(words), [cut_after]

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, MODELS
        if body is None:
            return 404, {}, {}
        if body.get("stream") and not streams:
            return 400, {}, {"error": {"message": "no streams here"}}
        written = body["prompt"].partition("PROMPT")[2]
        left = [word for i, word in enumerate(words) if len("".join(words[:i])) >= len(written)]
        finish = "stop" if len(left) < body["max_tokens"] else "length"
        left = left[: body["max_tokens"]]
        if not body.get("stream"):
            plain = completion_reply("".join(left), left, finish)
            plain["choices"][0]["logprobs"] = None
            return 200, {}, plain
        chunks = [{"choices": [{"text": word, "finish_reason": None}]} for word in left]
        chunks.append({"choices": [{"text": "", "finish_reason": finish}]})
        if body["max_tokens"] > 20 and cuts[0] is not None:
            chunks, cuts[0] = chunks[: cuts[0]], None
            return 200, {"Content-Type": "text/event-stream"}, b"".join(map(event, chunks))
        return 200, {"Content-Type": "text/event-stream"}, b"".join(map(event, chunks)) + b"data: [DONE]\n\n"

    assert whole
    return reply


def event(chunk: dict) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def answered(reply_server, exp, reply, mode, **options) -> tuple[dict, list[dict]]:
    """What decoding brings, and the requests that it sent."""
    server = reply_server(reply)
    policy = RetryPolicy(1)
    model = Replicas([OpenAIEndpoint("lm", server.host, request_timeout=HANG, retry_policy=policy)], policy, print)
    role = exp.removesuffix("_only")
    metered = {role: Metered(model.for_sample(0))}
    record = decode(settings(exp, **options), {role: "PROMPT"}, metered, 0, mode)
    return record, [body for _, body in server.requests if body]


@pytest.mark.parametrize("exp", ["base_only", "nudging_only"])
@pytest.mark.parametrize("tokens", [4, 512])
@pytest.mark.parametrize("cut_after", [None, 0, 3, len(WORDS)])
def test_the_same_answer_both_ways(exp, tokens, cut_after, reply_server):
    """Also where the stream breaks off: the rest is asked for."""
    whole, asked = answered(reply_server, exp, writes(WORDS), "published", max_token_total=tokens)
    assert [body.get("stream") for body in asked] == [None]
    reply = writes(WORDS, cut_after=cut_after)
    streamed, asked_streamed = answered(reply_server, exp, reply, "streamed", max_token_total=tokens)
    assert streamed == whole and all(body["stream"] for body in asked_streamed)
    assert whole["stop_reason"] == ("length" if tokens == 4 else "stop") and whole["raw_answer"].startswith(
        " Each piece"
    )
    own = {name: value for name, value in asked[0].items() if name not in ("stream", "stream_options")}
    assert asked_streamed[0] == own | {"stream": True}


@pytest.mark.parametrize("mode", ["published", "streamed"])
def test_a_prompt_that_does_not_fit(mode, reply_server):
    full = {"error": {"message": "This model's maximum context length is 40 tokens"}}
    record, _ = answered(reply_server, "base_only", lambda path, body: (400, {}, full), mode)
    assert record == {"raw_answer": "", "stop_reason": "context_length"}


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_that_cuts_long_answers_brings_the_advice_to_stream(status, reply_server):
    with pytest.raises(ModelError, match=rf"status {status}: late; a gateway .* --calls streamed") as raised:
        answered(reply_server, "base_only", lambda path, body: (status, {"retry-after": "0.01"}, b"late"), "published")
    assert raised.value.status == status


def probed(reply_server, **options) -> Replicas:
    policy = RetryPolicy(1)
    server = reply_server(writes(WORDS, **options))
    model = Replicas([OpenAIEndpoint("lm", server.host, request_timeout=HANG, retry_policy=policy)], policy, print)
    model.probe(None)
    return model


@pytest.mark.parametrize("exp", ["base_only", "nudging_only"])
def test_which_way_a_model_by_itself_is_asked(exp, reply_server):
    models = {exp.removesuffix("_only"): probed(reply_server)}
    modes = {calls: used_request_mode(settings(exp, calls), models) for calls in ("auto", "published", "streamed")}
    assert modes == {"auto": "published", "published": "published", "streamed": "streamed"}


def test_streams_that_are_wanted_and_refused_are_an_error_in_the_server_s_words(reply_server):
    models = {"base": probed(reply_server, streams=False)}
    with pytest.raises(
        ModelError, match=r"--calls streamed: --base_model: lm at .*status 400: no streams here; use --calls auto"
    ):
        used_request_mode(settings("base_only", "streamed"), models)
    assert used_request_mode(settings("base_only"), models) == "published"
