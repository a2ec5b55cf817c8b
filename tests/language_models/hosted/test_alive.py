"""Whether a model answers: one token, in time, from any of its servers."""

import threading
import time

import pytest
from doubles import completion_reply, free_port
from waiting import HANG, wait_until

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, SamplingParams

PATIENT = RetryPolicy(50, 600.0, 600.0)


def replicas(*hosts: str, **options) -> Replicas:
    endpoints = [OpenAIEndpoint("lm", host, retry_policy=PATIENT, **options) for host in hosts]
    return Replicas(endpoints, PATIENT, lambda line: None)


@pytest.fixture
def silent(reply_server):
    """A server that takes requests and never answers."""
    over = threading.Event()
    yield reply_server(lambda path, body: over.wait(HANG) and (200, {}, None))
    over.set()


def test_a_model_that_answers(reply_server):
    server = reply_server(lambda path, body: (200, {}, completion_reply()))
    model = replicas(server.host, api_key="a-key")
    model.check_alive(5.0)
    ((path, body),) = server.requests
    assert path == "/v1/completions" and body["max_tokens"] == 1 and body["model"] == "lm" and "seed" not in body
    assert server.heads[0]["authorization"] == "Bearer a-key" and model.usage.requests == 0


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((503, {"Retry-After": "300"}, {"error": {"message": "loading"}}), "status 503: loading"),
        ((404, {}, {"error": {"message": "no such model"}}), "status 404: no such model"),
        ((401, {}, {"error": {"message": "who are you"}}), "status 401: .*who are you"),
        ((400, {}, {"error": {"message": "broken"}}), "status 400: broken"),
        ((200, {}, {"error": {"message": "engine is dead", "code": 500}}), "engine is dead"),
        ((200, {}, {"choices": []}), "cannot be read"),
        ((200, {}, b"<html>"), "cannot be read"),
        ((200, {}, None), "cannot be reached"),
    ],
)
def test_a_model_that_does_not(reply_server, reply, told):
    """It is asked once."""
    server = reply_server(lambda path, body: reply)
    with pytest.raises(ModelError, match=f"^lm at http://127.*{told}"):
        replicas(server.host).check_alive(5.0)
    assert len(server.requests) == 1


def test_a_server_that_writes_no_less_than_several_tokens(reply_server):
    words = "max_tokens must be at least 16"
    replicas(reply_server(lambda path, body: (400, {}, {"error": {"message": words}})).host).check_alive(5.0)


def test_a_server_that_is_not_there():
    with pytest.raises(ModelError, match="cannot be reached"):
        replicas(f"http://127.0.0.1:{free_port()}/v1").check_alive(1.0)


def test_a_server_that_says_nothing(silent):
    began = time.monotonic()
    with pytest.raises(ModelError, match="no answer in time"):
        replicas(silent.host).check_alive(0.5)
    assert time.monotonic() - began < 30


def test_one_replica_that_answers_is_enough(reply_server, silent):
    """The others are not waited for, and what is found out changes nothing for answers."""
    works = reply_server(lambda path, body: (200, {}, completion_reply()))
    dead = f"http://127.0.0.1:{free_port()}/v1"
    model = replicas(silent.host, dead, works.host)
    began = time.monotonic()
    model.check_alive(60.0)
    assert time.monotonic() - began < 30
    assert [health.failures for health in model._health] == [0, 0, 0]
    with pytest.raises(ModelError, match="no answer in time|cannot be reached"):
        replicas(silent.host, dead).check_alive(0.5)


def test_a_busy_model_is_alive(reply_server):
    """All connections for answers are in use."""
    over, asked = threading.Event(), []

    def reply(path, body):
        if body["max_tokens"] > 1:
            asked.append(path)
            over.wait(HANG)
        return 200, {}, completion_reply()

    model = replicas(reply_server(reply).host, max_connections=1)
    answering = threading.Thread(target=lambda: model.complete([0], "x", SamplingParams(2)))
    answering.start()
    wait_until(lambda: asked, "it is asked")
    model.check_alive(10.0)
    over.set()
    answering.join(60)
    assert model.usage.requests == 1
