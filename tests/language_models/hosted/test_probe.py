"""What the probe finds out about servers of different kinds."""

import json
import threading

import pytest
from doubles import completion_reply
from waiting import HANG

from language_models.hosted import probe, server_facts
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
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


# --- streams are asked for and read as the run does it ---


def event_stream(*events: bytes) -> tuple:
    return 200, {"Content-Type": "text/event-stream"}, b"".join(b"data: " + event + b"\n\n" for event in events)


BROKEN_STREAMS = {
    "half_json": (b'{"choices": [{"te',),
    "error": (b'{"error": {"message": "overloaded"}}',),
    "no_choices": (b'{"choices": [7]}',),
    "number": (b"7",),
    "no_text": (b'{"choices": [{"text": 5, "finish_reason": null}]}',),
}


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("broken", BROKEN_STREAMS)
def test_streams_that_the_run_could_not_read_are_not_used(broken, logprobs, reply_server):
    def completion(body):
        return event_stream(*BROKEN_STREAMS[broken]) if body.get("stream") else able_server(body)

    server, report = probed(reply_server, completion, logprobs=logprobs)
    assert report.streams is False and not report.streams_logprobs and report.stream_options == {}
    (line,) = report.warnings
    assert line == f"the streams of {server.host} are not used: {report.why_not_streamed}"
    assert f"lm at {server.host}: " in line and "\n" not in line
    assert sum(bool(body and body.get("stream")) for _, body in server.requests) <= 4


def test_streams_without_log_probabilities_are_streams_all_the_same(reply_server):
    def completion(body):
        reply = completion_reply("lo", ("lo",))
        reply["choices"][0]["logprobs"] = None
        return event_stream(json.dumps(reply).encode(), b"[DONE]") if body.get("stream") else able_server(body)

    _, report = probed(reply_server, completion)
    assert (report.streams, report.streams_logprobs) == (True, False)
    assert "gives no log-probability for 'lo'" in report.why_not_streamed and len(report.warnings) == 1


def test_a_refusal_of_streams_is_no_warning_and_kept(reply_server):
    def completion(body):
        return (400, {}, {"error": {"message": "no streams here"}}) if body.get("stream") else able_server(body)

    _, report = probed(reply_server, completion)
    assert report.warnings == [] and "status 400: no streams here" in report.why_not_streamed


def test_stream_options_that_are_refused_are_left_out(reply_server):
    def completion(body):
        return (400, {}, {"detail": "stream_options"}) if "stream_options" in body else able_server(body)

    _, report = probed(reply_server, completion)
    assert report.streams and report.streams_logprobs and report.stream_options == {} and report.warnings == []


def test_every_request_is_of_the_run_s_own_values(reply_server):
    server = reply_server(lambda path, body: (200, {}, MODELS) if path.endswith("/models") else able_server(body))
    model = OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(1), request_timeout=HANG)
    model.probe(None, temperature=0.7, top_p=0.8)
    sent = [body for _, body in server.requests if body]
    assert sent and all(body.items() >= {"temperature": 0.7, "top_p": 0.8, "top_k": -1}.items() for body in sent)


# --- a server that is busy, slow or silent ---


def test_a_rate_limit_in_the_middle_of_the_probe_changes_nothing_of_what_is_found(reply_server):
    """Each request is answered at its second try only."""
    refused: set[str] = set()

    def completion(body):
        if (asked := json.dumps(body)) not in refused:
            refused.add(asked)
            return 429, {"retry-after-ms": "1"}, {"error": {"message": "slow down"}}
        return able_server(body)

    server = reply_server(lambda path, body: (200, {}, MODELS) if path.endswith("/models") else completion(body))
    policy = RetryPolicy(1, 60.0, 60.0)
    report = OpenAIEndpoint("lm", server.host, retry_policy=policy, request_timeout=HANG).probe(1)
    assert (report.streams, report.streams_logprobs, report.max_logprobs) == (True, True, 100) and not report.warnings


def test_the_list_of_models_is_asked_for_again_where_the_server_was_busy(reply_server):
    busy = iter([True])
    listed = {"object": "list", "data": [{"id": "lm", "object": "model", "created": 1, "owned_by": "vllm"}]}

    def reply(path, body):
        if path.endswith("/models"):
            return (429, {}, {}) if next(busy, False) else (200, {}, listed)
        return able_server(body) if body else (404, {}, {})

    model = OpenAIEndpoint("lm", reply_server(reply).host, retry_policy=RetryPolicy(1), request_timeout=HANG)
    assert model.probe(None).served_models == ["lm"]


@pytest.mark.parametrize("status", [429, 503])
def test_without_patience_a_busy_server_ends_it_at_once(status, reply_server):
    server = reply_server(lambda path, body: (status, {}, {"error": {"message": "slow down"}}))
    model = OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(8, 0.0, 0.0))
    with pytest.raises(ModelError, match=rf"status {status}: slow down; --max_outage 0 \(seconds\) is over"):
        model.probe(None)
    assert sum(path.endswith("/completions") for path, _ in server.requests) == 1


def test_paths_that_are_never_answered_hold_no_run(reply_server, monkeypatch):
    monkeypatch.setattr(server_facts, "FACT_SECONDS", 0.2)
    over = threading.Event()

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, MODELS
        if body:
            return able_server(body)
        if path == "/info":
            return 200, {}, {"version": "3.0"}
        over.wait(HANG)
        return 404, {}, {}

    model = OpenAIEndpoint("lm", reply_server(reply).host, retry_policy=RetryPolicy(1), request_timeout=HANG)
    report = model.probe(None)
    over.set()
    assert report.version == "3.0" and report.streams


def test_a_list_of_models_that_never_comes_is_none(reply_server, monkeypatch):
    monkeypatch.setattr(probe, "ABILITY_SECONDS", 0.2)
    over = threading.Event()

    def reply(path, body):
        if path.endswith("/models"):
            over.wait(HANG)
        return able_server(body) if body else (404, {}, {})

    model = OpenAIEndpoint("lm", reply_server(reply).host, retry_policy=RetryPolicy(1), request_timeout=HANG)
    report = model.probe(None)
    over.set()
    assert report.served_models == [] and report.streams


def test_a_probe_that_is_given_up_changes_nothing(reply_server):
    server = reply_server(
        lambda path, body: (500, {}, {}) if body and body.get("logprobs") else (200, {}, MODELS | completion_reply())
    )
    model = OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(0), request_timeout=HANG)
    before = (model.neutral_sampling, model.left_out, model.reader, model.stream_options)
    with pytest.raises(ModelError):
        model.probe(1)
    assert before == (model.neutral_sampling, model.left_out, model.reader, model.stream_options)
