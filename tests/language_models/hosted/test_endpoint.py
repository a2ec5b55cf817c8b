"""The endpoint against servers with scripted replies: what it sends, retries, counts, and says when it cannot go on."""

import threading
import time

import pytest
from doubles import completion_reply, free_port
from waiting import HANG, in_threads

from language_models.hosted.endpoint import NEUTRAL_SAMPLING, OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ContextLengthError, ModelError, SamplingParams

MODELS = {"object": "list", "data": [{"id": "lm", "object": "model", "created": 0, "owned_by": "us"}]}


def scripted(completion):
    """A reply function: /models lists `lm`; completions are what `completion(body, n)` returns for the n-th of them."""
    count = iter(range(10_000))

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, MODELS
        return completion(body, next(count))

    return reply


def endpoint(server, **options) -> OpenAIEndpoint:
    retries = options.pop("max_retries", 2)
    return OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(retries), **{"request_timeout": HANG} | options)


def complete(model, **options):
    return model.complete("Hi", SamplingParams(2, logprobs=1, **options))


def test_request_and_reply(reply_server):
    server = reply_server(scripted(lambda body, n: (200, {}, completion_reply())))
    model = endpoint(server)
    model.probe(1)
    completion = complete(model, top_p=0.9)
    assert (completion.text, completion.finish_reason) == ("hello", "length")
    assert [token.text for token in completion.tokens] == ["hel", "lo"]
    _, sent = server.requests[-1]
    # Everything that a server could have its own default for is said.
    assert (
        sent
        == {"model": "lm", "prompt": "Hi", "max_tokens": 2, "temperature": 0.0, "top_p": 0.9, "logprobs": 1}
        | NEUTRAL_SAMPLING[0]
    )
    assert (model.usage.requests, model.usage.prompt_tokens, model.usage.completion_tokens) == (1, 3, 2)


@pytest.mark.parametrize("refused", [("repetition_penalty",), ("repetition_penalty", "presence_penalty")])
def test_sampling_options_that_a_server_refuses_are_left_out(reply_server, refused):
    def completion(body, n):
        if any(name in body for name in refused):
            return 400, {}, {"error": {"message": "unknown field"}}
        return 200, {}, completion_reply()

    model = endpoint(reply_server(scripted(completion)))
    assert model.probe(1).neutral_sampling == NEUTRAL_SAMPLING[len(refused)]
    assert complete(model).text == "hello"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_retries(reply_server, status):
    def completion(body, n):
        return (
            (200, {}, completion_reply())
            if n == 2
            else (status, {"retry-after": "0.01"}, {"error": {"message": "busy"}})
        )

    model = endpoint(reply_server(scripted(completion)))
    assert complete(model).text == "hello"
    assert (model.usage.requests, model.usage.retries) == (1, 2)


@pytest.mark.parametrize(
    "broken",
    [
        (200, {}, None),
        (200, {}, b'{"choices": [{"te'),
        (200, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"),
        (200, {}, []),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"text": None, "finish_reason": "length"}]}),
        (200, {}, {"choices": [{"text": "half", "finish_reason": "abort", "logprobs": None}]}),
        (200, {}, completion_reply(top_logprobs=[{"hel": float("nan")}, {"lo": -1.0}])),
        (200, {}, completion_reply(text="something else", text_offset=None)),
    ],
    ids=["cut", "half_json", "html", "list", "no_choice", "no_text", "aborted", "nan", "other_text"],
)
def test_a_reply_that_cannot_be_read_is_asked_for_again(reply_server, broken):
    model = endpoint(reply_server(scripted(lambda body, n: broken if n == 0 else (200, {}, completion_reply()))))
    assert complete(model).text == "hello"
    assert model.usage.retries == 1


def test_retry_after_is_honoured(reply_server):
    def completion(body, n):
        return (
            (429, {"retry-after": "1.2"}, {"error": {"message": "slow down"}})
            if n == 0
            else (200, {}, completion_reply())
        )

    model = endpoint(reply_server(scripted(completion)))
    started = time.monotonic()
    complete(model)
    assert time.monotonic() - started >= 1.2


def test_other_refusals_are_final(reply_server):
    server = reply_server(scripted(lambda body, n: (403, {}, {"error": {"message": "not for you"}})))
    with pytest.raises(ModelError, match="lm at http.*status 403: not for you"):
        complete(endpoint(server))
    assert len(server.requests) == 1


def test_after_all_retries_the_error_says_who_where_and_what(reply_server):
    model = endpoint(reply_server(scripted(lambda body, n: (503, {"retry-after": "0.01"}, b"overloaded"))))
    with pytest.raises(ModelError, match=r"lm at http://127.*status 503: overloaded"):
        complete(model)


def test_a_server_that_hangs_is_given_up(reply_server):
    released = threading.Event()

    def completion(body, n):
        released.wait(HANG)
        return 200, {}, completion_reply()

    model = endpoint(reply_server(scripted(completion)), request_timeout=0.2, max_retries=0)
    try:
        with pytest.raises(ModelError, match="no answer in time"):
            complete(model)
    finally:
        released.set()


@pytest.mark.parametrize(
    "body",
    [
        {
            "object": "error",
            "message": "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens.",
        },
        {"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
        {"error": {"message": "too many", "code": "context_length_exceeded"}},
        {"message": "The decoder prompt (length 3000) is longer than the maximum model length of 2048."},
        {"error": {"message": "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000"}},
        {"error": {"message": "The prompt is too long: 5000, model maximum context length: 4095"}},
    ],
)
def test_a_prompt_that_does_not_fit(reply_server, body):
    with pytest.raises(ContextLengthError):
        complete(endpoint(reply_server(scripted(lambda _, n: (400, {}, body)))))


def test_as_many_requests_at_once_as_threads(reply_server):
    threads = 130
    together = threading.Barrier(threads, timeout=HANG)

    def completion(body, n):
        together.wait()  # passes only when all requests are here at the same time
        return 200, {}, completion_reply()

    model = endpoint(reply_server(scripted(completion)), max_connections=threads, max_retries=0)
    answers = []
    in_threads([lambda: answers.append(complete(model).text)] * threads)
    assert answers == ["hello"] * threads
    assert model.usage.requests == threads


# --- probe ---


def test_probe_no_server():
    model = OpenAIEndpoint("lm", f"http://127.0.0.1:{free_port()}/v1", retry_policy=RetryPolicy(0))
    with pytest.raises(ModelError, match="no server answers there.*is it running"):
        model.probe(1)


def test_probe_another_model_is_served(reply_server):
    def completion(body, n):
        return 404, {}, {"object": "error", "message": "The model `other` does not exist."}

    model = OpenAIEndpoint("other", reply_server(scripted(completion)).host, retry_policy=RetryPolicy(0))
    with pytest.raises(ModelError, match="does not exist.*it serves: lm"):
        model.probe(1)


def test_probe_warns_of_a_server_that_answers_to_any_name(reply_server):
    server = reply_server(scripted(lambda body, n: (200, {}, completion_reply())))
    report = OpenAIEndpoint("other", server.host).probe(None)
    assert "lists only lm" in report.warnings[0]


def test_probe_no_log_probabilities(reply_server):
    server = reply_server(
        scripted(
            lambda body, n: (200, {}, completion_reply() | {"choices": [{"text": "a", "finish_reason": "length"}]})
        )
    )
    with pytest.raises(ModelError, match="no log-probabilities on /v1/completions"):
        endpoint(server).probe(1)
    endpoint(server).probe(None)  # the nudging model needs none


def test_probe_too_few_log_probabilities(reply_server):
    def completion(body, n):
        if body.get("logprobs", 0) > 20:
            return 400, {}, {"message": "Requested sample logprobs of 100, which is greater than max allowed: 20"}
        return 200, {}, completion_reply()

    with pytest.raises(ModelError, match="--max-logprobs 100"):
        endpoint(reply_server(scripted(completion))).probe(100)


def test_probe_learns_the_name_of_the_end(reply_server):
    ending = completion_reply("Paris", ("Paris", "<the_end>"), "stop")
    model = endpoint(reply_server(scripted(lambda body, n: (200, {}, ending))))
    assert model.probe(1).end_names_seen == ["<the_end>"]
    assert model.reader.key_text("<the_end>") == ""


def test_probe_goes_on_where_there_is_no_list_of_models(reply_server):
    def reply(path, body):
        return (404, {}, {"error": "no such page"}) if path.endswith("/models") else (200, {}, completion_reply())

    assert endpoint(reply_server(reply)).probe(1).served_models == []
