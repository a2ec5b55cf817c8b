"""What a server refuses is left out of requests, step by step, and only where that changes no answer."""

import pytest
from doubles import completion_reply
from hypothesis import given
from hypothesis import strategies as st
from waiting import HANG

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.refused_fields import NEUTRAL_FIELDS, NEUTRAL_SAMPLING, Refused
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, SamplingParams

MODELS = {"object": "list", "data": []}
FIELDS = sorted({*NEUTRAL_FIELDS, "top_p", "temperature"})
NAMES_IT = "{}: extra inputs are not permitted"


def settled(refuses: set[str], message: str) -> tuple[frozenset[str] | None, int]:
    """What is left out in the end where a server refuses some fields (None: it takes nothing), and after how many requests."""
    refused, requests = Refused("lm at here"), 0
    for left_out in refused:
        requests += 1
        found = sorted(refuses - left_out)
        if not found:
            return left_out, requests
        refused.add(left_out, ModelError("lm at here: " + message.format(found[0]), 400))
    return None, requests


@given(st.sets(st.sampled_from(FIELDS)))
def test_what_is_named_is_left_out_alone(refuses):
    left_out, requests = settled(refuses, NAMES_IT)
    assert left_out == refuses and requests <= len(refuses) + 1


@given(st.sets(st.sampled_from(FIELDS)), st.sampled_from(["no", " ".join(FIELDS)]))
def test_what_is_not_named_is_found(refuses, message):
    left_out, requests = settled(refuses, message)
    assert left_out >= refuses and requests <= 9
    # The run's own sampling goes last.
    assert {"top_p", "temperature"} & left_out <= (
        {"top_p"} if "temperature" not in refuses else {"top_p", "temperature"}
    )
    assert refuses & {"top_p", "temperature"} or not left_out & {"top_p", "temperature"}


def endpoint(reply_server, refuses, message="no") -> OpenAIEndpoint:
    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, MODELS
        if refuses(body):
            return 400, {}, {"error": {"message": message}}
        return 200, {}, completion_reply()

    return OpenAIEndpoint("lm", reply_server(reply).host, retry_policy=RetryPolicy(1), request_timeout=HANG)


@pytest.mark.parametrize("message", ["no", "`top_p` must be > 0.0 and < 1.0"])
def test_a_server_that_refuses_top_p_1(reply_server, message):
    """TGI does."""
    model = endpoint(reply_server, lambda body: body.get("top_p") == 1, message)
    report = model.probe(None)
    assert report.left_out == ["top_p"] and report.neutral_sampling == NEUTRAL_SAMPLING[0] and report.warnings == []
    assert model.complete("Hi", SamplingParams(2)).text == "hello"


@pytest.mark.parametrize("message", ["no", "top_p must be 1 when using greedy sampling."])
def test_a_server_that_refuses_another_top_p_at_temperature_0(reply_server, message):
    """Mistral's does."""
    model = endpoint(reply_server, lambda body: body["temperature"] == 0 and body.get("top_p", 1) != 1, message)
    report = model.probe(None, top_p=0.9)
    assert report.left_out == ["top_p"]
    (line,) = report.warnings
    assert "without top_p 0.9" in line and "changes nothing at temperature 0" in line and message in line
    assert model.complete("Hi", SamplingParams(2, top_p=0.9)).text == "hello"
    assert endpoint(reply_server, lambda body: body.get("top_p", 1) != 1).probe(None).left_out == []


@pytest.mark.parametrize("message", ["no", "{} is not supported"])
@pytest.mark.parametrize(
    ("field", "sampling"),
    [("top_p", {"temperature": 0.7, "top_p": 0.9}), ("temperature", {}), ("temperature", {"temperature": 0.7})],
)
def test_what_changes_answers_is_an_error_in_the_server_s_words(reply_server, field, sampling, message):
    message = message.format(field)
    model = endpoint(reply_server, lambda body: field in body, message)
    value = sampling.get(field, 0)
    with pytest.raises(ModelError, match=rf"status 400: {message}; the run asks for {field} {value}, without which"):
        model.probe(None, **sampling)


def test_temperature_1_is_every_server_s_own(reply_server):
    model = endpoint(reply_server, lambda body: "temperature" in body)
    report = model.probe(None, temperature=1.0)
    assert report.left_out == ["temperature"] and report.warnings == []
    assert model.complete("Hi", SamplingParams(2, temperature=1.0)).text == "hello"


def test_a_server_that_gives_no_single_token(reply_server):
    model = endpoint(reply_server, lambda body: body["max_tokens"] < 2, "max_tokens must be at least 2")
    report = model.probe(1)
    assert report.streams is False and report.max_logprobs and report.left_out == []


def test_a_refusal_of_everything_is_told_as_the_plain_request_was_refused(reply_server):
    def refuses(body):
        return True

    with pytest.raises(ModelError, match="status 400: no such tenant"):
        endpoint(reply_server, refuses, "no such tenant").probe(None)


def test_the_check_s_own_temperature_1_may_be_refused(reply_server):
    """It is no value of the run's."""
    model = endpoint(reply_server, lambda body: body["temperature"] == 1)
    assert model.probe(1).warnings == []
