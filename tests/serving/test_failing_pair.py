"""A pair that fails: the model's words reach the client, with a status before the first word, as an event after it; no key does."""

import json
import threading
from contextlib import contextmanager

import pytest
from doubles import Gate
from malformed import chat, check_error
from misbehaving_server import MisbehavingServer, as_it_is, head
from served_pair import in_this_process, settings_over
from waiting import in_threads, wait_until

from serving import health, streaming

SILENCE = 2.0  # seconds that the server behind may be silent; each test of it takes as long
WORDS = "the weights of this model are on fire"
KEYS = {"KEY_OF_BASE": "sk-base-0123456789abcdef", "KEY_OF_CLIENTS": "sk-clients-fedcba9876543210"}
SECRETS = tuple(KEYS.values())
AUTHORIZED = {"Authorization": f"Bearer {KEYS['KEY_OF_CLIENTS']}"}


def status(code: int, message: str = WORDS):
    """A fault: an error with a status."""

    def spoil(exchange):
        yield head(code) + json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()

    return spoil


def page(exchange):
    yield head(502, "text/html") + f"<html><body><h1>{WORDS}</h1></body></html>".encode()


def cut(exchange):
    yield b""


def silent(exchange):
    yield None


def half_a_chunk(exchange):
    yield head(200, "text/event-stream") + b'data: {"id": "cmpl", "choi'


def error_event(exchange):
    yield head(200, "text/event-stream") + b"data: %s\n\n" % json.dumps({"error": {"message": WORDS}}).encode()


def no_stream(exchange):
    yield head(200, "text/event-stream") + b"hello\n\n"


# Each with what of the server's words the client must read.
FAULTS = {
    "500": (status(500), WORDS),
    "503": (status(503), WORDS),
    "401 that shows the key": (status(401, f"Incorrect API key provided: {SECRETS[0]}. {WORDS}"), WORDS),
    "404": (status(404, f"The model does not exist; {WORDS}"), WORDS),
    "a page": (page, WORDS),
    "a line that is cut": (cut, "base-lm"),
    "half a chunk": (half_a_chunk, "base-lm"),
    "an error as an event": (error_event, WORDS),
    "no stream": (no_stream, ""),
}


class Faulty:
    """A served pair whose upstream server is right until `spoiling`."""

    def __init__(self, served, upstream, switch: dict):
        self.served, self.upstream, self._switch = served, upstream, switch

    @contextmanager
    def spoiling(self, fault, model: str = "", after: int = 0):
        """Have requests for a model spoilt, but for the first few of them."""
        left = [after]

        def spoil(exchange):
            if not exchange.path.endswith("completions") or model not in exchange.asked.get("model", ""):
                return as_it_is(exchange)
            left[0] -= 1
            return as_it_is(exchange) if left[0] >= 0 else fault(exchange)

        self._switch["spoil"] = spoil
        try:
            yield
        finally:
            self._switch["spoil"] = as_it_is

    def ask(self, **fields):
        return self.served.post(
            "/v1/chat/completions", chat(**{"max_tokens": 40, "top_prob_thres": 0.6} | fields), headers=AUTHORIZED
        )

    def answer(self) -> dict:
        reply = self.ask()
        assert reply.status_code == 200, reply.text
        return reply.json()


@pytest.fixture(scope="module")
def faulty(server):
    switch = {"spoil": as_it_is}
    upstream = MisbehavingServer(server, lambda exchange: switch["spoil"](exchange))
    with pytest.MonkeyPatch.context() as patch:
        for name, key in KEYS.items():
            patch.setenv(name, key)
        keys = {"base_api_key_env": "KEY_OF_BASE", "api_key_env": "KEY_OF_CLIENTS"}
        with in_this_process(settings_over(upstream.host, request_timeout=SILENCE, **keys)) as served:
            one = Faulty(served, upstream, switch)
            one.right = one.answer()
            yield one
            # How many requests it takes depends on which model is the quicker one.
            assert one.answer()["choices"][0]["message"] == one.right["choices"][0]["message"]
            assert served.app.state.slots.answers == 0
    upstream.stop()


@pytest.mark.parametrize("model", ["base-lm", "llama-2-chat"])
@pytest.mark.parametrize("name", FAULTS)
def test_before_the_first_word(faulty, name, model, capfd):
    fault, words = FAULTS[name]
    with faulty.spoiling(fault, model):
        replies = [faulty.ask(stream=stream, n=n) for stream in (False, True) for n in (1, 2)]
    for reply in replies:
        error = check_error(reply.status_code, reply.headers, reply.content, SECRETS)
        assert (reply.status_code, error["code"], error["param"]) == (502, "upstream_error", None)
        assert words.replace("base-lm", model) in error["message"], error
    said = capfd.readouterr()
    assert not any(secret in said.out + said.err for secret in SECRETS) and "Traceback" not in said.err


@pytest.mark.parametrize("name", FAULTS)
def test_in_mid_stream(faulty, name):
    right = faulty.right
    whole, after = right["choices"][0]["message"]["content"], right["nudging"]["requests"]["base"] // 2
    assert after >= 2
    with faulty.spoiling(FAULTS[name][0], "base-lm", after):
        streamed = faulty.ask(stream=True, stream_options={"include_usage": True})
    with faulty.spoiling(FAULTS[name][0], "base-lm", after):
        reply = faulty.ask()
    assert streamed.status_code == 200 and "[DONE]" not in streamed.text
    *chunks, last = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: ")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text and whole.startswith(text) and text != whole
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    error = check_error(reply.status_code, reply.headers, reply.content, SECRETS)
    assert reply.status_code == 502 and last["error"]["code"] == error["code"] == "upstream_error"
    assert FAULTS[name][1] in last["error"]["message"] and not any(secret in streamed.text for secret in SECRETS)


def test_a_silent_model(faulty):
    with faulty.spoiling(silent, "base-lm"):
        reply = faulty.ask(stream=True)
    error = check_error(reply.status_code, reply.headers, reply.content, SECRETS)
    assert (reply.status_code, error["code"]) == (502, "upstream_error") and "base-lm" in error["message"]


def test_a_fault_that_comes_late_is_an_event(faulty, monkeypatch):
    monkeypatch.setattr(streaming, "FIRST_EVENT_SECONDS", 0.05)
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    with faulty.spoiling(silent):
        reply = faulty.ask(stream=True)
    assert reply.status_code == 200 and ": keep-alive\n\n" in reply.text and "[DONE]" not in reply.text
    assert json.loads(reply.text.split("data: ")[-1])["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(faulty, stream):
    reply = faulty.ask(messages=[{"role": "user", "content": "many words " * 10_000}], stream=stream)
    error = check_error(reply.status_code, reply.headers, reply.content, SECRETS)
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "8192" in error["message"]
    reply = faulty.served.post(
        "/v1/completions", {"model": "pair", "prompt": "many words " * 10_000, "stream": stream}, headers=AUTHORIZED
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")


def test_health_is_whether_both_models_answer(faulty, monkeypatch):
    monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(health, "BUSY_SECONDS", -1.0)  # other tests had answers written just before
    monkeypatch.setattr(health, "SECONDS", 0.3)
    assert faulty.served.http.get("/health").status_code == 200
    for model in ("base-lm", "llama-2-chat"):
        for fault in (status(500), cut, silent):
            with faulty.spoiling(fault, model):
                reply = faulty.served.http.get("/health")
            error = check_error(reply.status_code, reply.headers, reply.content, SECRETS)
            assert reply.status_code == 503 and error["code"] == "unhealthy"
            assert error["message"].startswith("the " + ("base" if model == "base-lm" else "nudging"))
    assert faulty.served.http.get("/health").status_code == 200


def test_what_fails_is_counted(faulty):
    def failures() -> float:
        text = faulty.served.http.get("/metrics").text
        return next(
            float(line.split()[1]) for line in text.splitlines() if line.startswith("nudged_upstream_failures_")
        )

    before = failures()
    with faulty.spoiling(status(500)):
        faulty.ask(n=2)
    assert failures() > before
    assert not any(secret in faulty.served.http.get("/metrics").text for secret in SECRETS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_server_refuses_more_and_takes_them_once_there_is_room(server, stream):
    closing = threading.Event()
    gate = Gate(server, lambda body: closing.is_set())
    try:
        with in_this_process(settings_over(gate.host, max_concurrent=2)) as served:
            closing.set()
            replies = []

            def ask():
                replies.append(served.post("/v1/chat/completions", chat(stream=stream)))

            def ask_more_than_there_is_room_for():
                wait_until(lambda: served.app.state.slots.answers == 2)
                refused = [served.post("/v1/chat/completions", chat(stream=one)) for one in (False, True)]
                gate.open()
                for reply in refused:
                    error = check_error(reply.status_code, reply.headers, reply.content)
                    assert (reply.status_code, error["code"]) == (429, "rate_limit_exceeded")
                    assert int(reply.headers["retry-after"]) >= 1

            in_threads([ask, ask, ask_more_than_there_is_room_for])
            assert [reply.status_code for reply in replies] == [200, 200]
            wait_until(lambda: served.app.state.slots.answers == 0)
            assert all(served.post("/v1/chat/completions", chat(stream=one)).is_success for one in (False, True))
    finally:
        gate.stop()
