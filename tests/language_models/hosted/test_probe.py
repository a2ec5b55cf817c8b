"""What the probe finds out about servers of different kinds."""

import json

import pytest
from doubles import completion_reply
from waiting import HANG

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.http import RetryPolicy
from language_models.interface import ModelError

MODELS = {"object": "list", "data": []}
ABILITIES = ("streams_logprobs", "max_logprobs")


def top(n: int) -> list[dict]:
    return [{"lo" if i == 0 else f"word{i}": -0.1 - i for i in range(n)}]


def able_server(body: dict, most: int = 100):
    """A server that can do everything, as vLLM does it."""
    asked = body.get("logprobs")
    if asked and asked > most:
        return 400, {}, {"error": {"message": f"logprobs: max allowed is {most}"}}
    reply = completion_reply("lo", ("lo",), top_logprobs=top(asked or 1))
    if body.get("stream"):
        return 200, {"Content-Type": "text/event-stream"}, f"data: {json.dumps(reply)}\n\ndata: [DONE]\n\n".encode()
    return 200, {}, reply


def plain_server(body: dict):
    """A server that ignores every field that it does not know, gives no list and no log-probabilities."""
    choice = {"index": 0, "text": "lo", "finish_reason": "length", "logprobs": None}
    return 200, {}, {"choices": [choice]}


def strict_server(body: dict):
    """A server that refuses what it does not know, and lists."""
    known = {"model", "prompt", "max_tokens", "temperature", "top_p", "logprobs"}
    if set(body) - known or isinstance(body["prompt"], list):
        return 422, {}, {"detail": "extra fields not permitted"}
    return 200, {}, completion_reply("lo", ("lo",), top_logprobs=top(min(5, body.get("logprobs") or 1)))


def probed(reply_server, completion, logprobs=1, name="lm"):
    server = reply_server(lambda path, body: (200, {}, MODELS) if path.endswith("/models") else completion(body))
    return server, OpenAIEndpoint(name, server.host, retry_policy=RetryPolicy(1), request_timeout=HANG).probe(logprobs)


@pytest.mark.parametrize(
    ("completion", "found", "requests"),
    [
        (able_server, (True, 100), 11),
        (lambda body: able_server(body, 20), (True, 20), 12),
        (lambda body: able_server(body, 5), (True, 5), 13),
        (strict_server, (False, 5), 11),
    ],
    ids=["all", "vllm_default", "openai", "strict"],
)
def test_abilities(completion, found, requests, reply_server):
    server, report = probed(reply_server, completion)
    assert tuple(getattr(report, name) for name in ABILITIES) == found
    posts = [body for path, body in server.requests if body]
    assert len(posts) == requests and all(body["max_tokens"] <= 16 for body in posts)
    assert not report.warnings


def test_a_server_without_log_probabilities(reply_server):
    _, report = probed(reply_server, plain_server, logprobs=None)
    assert tuple(getattr(report, name) for name in ABILITIES) == (False, 0)
    with pytest.raises(ModelError, match="returns no log-probabilities"):
        probed(reply_server, plain_server)


@pytest.mark.parametrize(
    "odd",
    [b"", b"<html>", b"[]", b'{"choices": 5}', b'{"choices": [7]}', b'{"choices": [{"logprobs": 3}]}'],
    ids=["empty", "html", "list", "number", "choice", "logprobs"],
)
def test_odd_replies_mean_no(odd, reply_server):
    def completion(body):
        if "stream" in body or body.get("logprobs") in (100, 20, 5):
            return 200, {}, odd
        return able_server(body)

    _, report = probed(reply_server, completion)
    assert not any(getattr(report, name) for name in ABILITIES)


def test_fewer_log_probabilities_than_asked_for_without_a_word(reply_server):
    _, report = probed(
        reply_server, lambda body: able_server(body | {"logprobs": min(5, body.get("logprobs") or 1)}), 100
    )
    assert report.max_logprobs == 5 and "gives 5 log-probabilities per token where 100" in report.warnings[0]


def gemma(adds_bos: bool, counts: bool):
    """Gemma: "Paris" only after a BOS, which the server adds, or does not."""

    def completion(body):
        prompt = body["prompt"] if isinstance(body["prompt"], str) else body["prompt"][0]
        knows = adds_bos or prompt.startswith("<bos>")
        text = " Paris" if knows else "<<<<"
        reply = completion_reply(text, (text,))
        reply["usage"] = {"prompt_tokens": len(prompt.removeprefix("<bos>").split()) + knows} if counts else None
        return 200, {}, reply

    return completion


@pytest.mark.parametrize("counts", [True, False], ids=["usage", "no_usage"])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", ["google/gemma-2-27b", "gemma3:1b"])
def test_a_missing_bos_is_noticed(name, adds_bos, counts, reply_server):
    _, report = probed(reply_server, gemma(adds_bos, counts), name=name)
    assert report.adds_bos == adds_bos
    assert [("puts no <bos> in front" in warning) for warning in report.warnings] == [True] * (not adds_bos)


def test_where_it_cannot_be_known_nothing_is_said(reply_server):
    def never(body):
        return 200, {}, completion_reply() | {"usage": None}

    _, report = probed(reply_server, never, name="gemma-2-9b")
    assert report.adds_bos is None and not report.warnings


def test_other_families_are_not_asked(reply_server):
    _, report = probed(reply_server, gemma(False, True), name="Llama-2-70b-hf")
    assert report.adds_bos is None and not report.warnings


@pytest.mark.parametrize(
    ("path", "told", "found"),
    [
        ("/version", {"version": "0.32.0"}, "0.32.0"),
        ("/props", {"build_info": "b1234-abc"}, "b1234-abc"),
        ("/version", {"version": 5}, None),
        ("/version", [], None),
        ("/version", "0.1", None),
        ("/nowhere", {}, None),
    ],
)
def test_the_version_that_a_server_tells(path, told, found, reply_server):
    assert report_of(path, told, reply_server).version == found


@pytest.mark.parametrize(
    ("path", "told", "found"),
    [
        ("/version", {"version": "0.32.0"}, ("0.32.0", None, None, None)),
        (
            "/props",
            {
                "build_info": "b1-a",
                "model_ftype": "Q4_K - Medium",
                "default_generation_settings": {"params": {"speculative.types": "draft-simple"}},
            },
            ("b1-a", "Q4_K - Medium", None, "draft-simple"),
        ),
        ("/props", {"build_info": "b1-a", "default_generation_settings": {"params": 5}}, ("b1-a", None, None, None)),
        (
            "/get_server_info",
            {"version": "0.5", "dtype": "bfloat16", "device": "cuda", "speculative_algorithm": None},
            ("0.5", "bfloat16", "cuda", "none"),
        ),
        ("/get_server_info", {"version": "0.5", "speculative_algorithm": "EAGLE"}, ("0.5", None, None, "EAGLE")),
        (
            "/info",
            {"version": "3.0", "model_dtype": "float16", "model_device_type": "cuda"},
            ("3.0", "float16", "cuda", None),
        ),
        ("/info", {"model_dtype": "float16"}, (None, None, None, None)),
    ],
)
def test_what_else_a_server_tells(path, told, found, reply_server):
    report = report_of(path, told, reply_server)
    assert (report.version, report.number_format, report.device, report.speculation) == found
    assert report.engine == "vllm"


def report_of(path, told, reply_server):
    def reply(asked, body):
        if asked == path:
            return 200, {}, told
        if body is None:
            listed = {"object": "list", "data": [{"id": "lm", "object": "model", "created": 1, "owned_by": "vllm"}]}
            return (200, {}, listed) if asked == "/v1/models" else (404, {}, {})
        return able_server(body)

    endpoint = OpenAIEndpoint("lm", reply_server(reply).host, retry_policy=RetryPolicy(1), request_timeout=HANG)
    return endpoint.probe(1)
