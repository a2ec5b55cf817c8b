"""Answers that are cancelled: whatever is waited for ends within a moment, the servers notice, and nothing is left behind."""

import contextlib
import os
import socket
import threading
import time
from dataclasses import replace

import pytest
from doubles import NeverAnswers, free_port
from misbehaving_server import MisbehavingServer, head
from test_nudging import InProcess
from waiting import in_threads, wait_until

from language_models import cancelling
from language_models.cancelling import Cancellation, Cancelled
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import Metered, ModelError, SamplingParams, rides_along
from nudging import NudgingSettings, answer_stream

SOON = 5.0  # seconds, on a machine that is busy; the waits that are cut would take minutes
PROMPT = "Question: what are 3 and 4?\n"
LONG = SamplingParams(8000, logprobs=1)
PATIENT = RetryPolicy(50, 600.0, 600.0)


def endpoint(host: str, name: str = "base-lm", policy: RetryPolicy = PATIENT, **options) -> OpenAIEndpoint:
    return OpenAIEndpoint(name, host, retry_policy=policy, **options)


def read(model, params=LONG):
    for _ in model.stream(PROMPT, params):
        pass


def complete(model, params=LONG):
    model.complete(PROMPT, params)


WAYS = pytest.mark.parametrize("ask", [read, complete])


def cut_short(model, ask, waits=lambda: True, after: float = 0.2) -> float:
    """Ask in a thread, and cancel once it waits; returns how many seconds later it raised Cancelled."""
    cancellation, ended = Cancellation(), []

    def run():
        try:
            ask(cancellation.wrap(model))
        except Cancelled:
            ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(waits, "it waits")
    time.sleep(after)
    assert thread.is_alive() and not ended
    cancelled_at = time.monotonic()
    cancellation.cancel()
    thread.join(60)
    assert ended and cancelling.current() is None and not cancellation._ends
    assert ended[0] - cancelled_at < SOON
    return ended[0] - cancelled_at


@pytest.fixture
def misbehaving(server):
    """Servers that spoil what a scripted one sends, stopped after the test."""
    servers = []

    def start(spoil) -> MisbehavingServer:
        servers.append(MisbehavingServer(server, spoil))
        return servers[-1]

    yield start
    for one in servers:
        one.stop()


@WAYS
@pytest.mark.parametrize("sent", ["nothing", "a head", "a part"])
def test_a_server_that_falls_silent(misbehaving, ask, sent):
    def spoil(exchange):
        if sent != "nothing":
            yield head(kind="text/event-stream" if exchange.is_stream else "application/json")
        if sent == "a part":
            yield exchange.content[:1000]
        yield None

    front = misbehaving(spoil)
    model = endpoint(front.host)
    cut_short(model, ask, lambda: front.requests)
    assert len(front.requests) == 1 and not model.http._transport._pool.connections


@WAYS
def test_the_connection_is_closed(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def accept():
            connections.append(listener.accept()[0])
            connections[0].recv(65536)

        accepting = threading.Thread(target=accept)
        accepting.start()
        cut_short(endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"), ask, lambda: connections)
        accepting.join(60)
        with connections[0] as connection:
            connection.settimeout(SOON)
            while connection.recv(65536):
                pass


def test_the_server_behind_notices(start_server):
    server = start_server("--seed", "2", "--latency_ms", "50")
    cut_short(endpoint(server.host), read, lambda: server.stats().get("base-lm"), 0.5)
    began = time.monotonic()
    wait_until(lambda: server.stats()["base-lm"]["aborted"], "the server has noticed")
    assert time.monotonic() - began < SOON


def test_streams_that_nobody_reads_are_closed_too(start_server):
    server = start_server("--seed", "2", "--latency_ms", "20")
    cancellation = Cancellation()
    model = cancellation.wrap(endpoint(server.host))
    streams = [model.stream(PROMPT + str(n), LONG) for n in range(3)]
    next(streams[0])
    cancellation.cancel()
    wait_until(lambda: server.stats()["base-lm"]["aborted"] == 3, "the server has noticed", limit=60)
    for stream in streams:
        for _ in range(2):
            with pytest.raises(Cancelled):
                next(stream)
        stream.close()


@WAYS
def test_connections_that_are_being_opened(ask):
    """A listener whose queue is full lets connections wait."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            queued = sockets.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        time.sleep(0.2)
        cut_short(endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", request_timeout=2.0), ask)


@WAYS
def test_a_handshake_that_takes_long(ask):
    """A server of https that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cut_short(endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}/v1"), ask)


@WAYS
def test_waiting_for_a_free_connection(misbehaving, ask):
    front = misbehaving(lambda exchange: iter((None,)))
    model = endpoint(front.host, max_connections=1)
    first = Cancellation()

    def hold():
        with pytest.raises(Cancelled):
            complete(first.wrap(model))

    holding = threading.Thread(target=hold)
    holding.start()
    wait_until(lambda: front.requests, "it is sent")
    cut_short(model, ask)
    first.cancel()
    holding.join(60)
    assert len(front.requests) == 1 and not holding.is_alive()


def test_a_connection_that_becomes_free_is_taken(reply_server):
    slow = NeverAnswers(5)
    model = endpoint(reply_server(slow).host, max_connections=1)
    holding = threading.Thread(target=lambda: complete(model, SamplingParams(5)))
    holding.start()
    wait_until(lambda: slow.asked, "it is sent")
    releasing = threading.Timer(0.5, slow.over.set)
    releasing.start()
    assert Cancellation().wrap(model).complete(PROMPT, SamplingParams(2)).text == "hello"
    for thread in (holding, releasing):
        thread.join(60)


@WAYS
@pytest.mark.parametrize("status", [503, 429, None])
def test_waits_between_tries(reply_server, ask, status):
    """Of a busy server, one that limits the rate, and one that is gone."""
    server = reply_server(lambda path, body: (status, {"Retry-After": "300"}, {"error": {"message": "busy"}}))
    host = server.host if status else f"http://127.0.0.1:{free_port()}/v1"
    waits = (lambda: server.requests) if status else (lambda: True)
    cut_short(endpoint(host), ask, waits, 0.6)
    assert len(server.requests) == (1 if status else 0)
    cut_short(Sample(replicas(host)), ask, after=0.6)


def replicas(*hosts: str, said=None) -> Replicas:
    return Replicas([endpoint(host) for host in hosts], PATIENT, (said if said is not None else []).append)


class Sample:
    """Replicas as a model, asked in a fixed order."""

    def __init__(self, replicas: Replicas, *order: int):
        self.replicas, self.order = replicas, list(order) or list(range(len(replicas.endpoints)))
        self.name, self.runs_ahead = replicas.name, True

    def complete(self, prompt, params):
        return self.replicas.complete(self.order, prompt, params)

    def stream(self, prompt, params, draft=""):
        return self.replicas.stream(self.order, prompt, params)


@WAYS
def test_a_cancelled_answer_says_nothing_of_its_replica(misbehaving, server, ask):
    silent = misbehaving(lambda exchange: iter((head(kind="text/event-stream"), exchange.content[:700], None)))
    said: list[str] = []
    both = replicas(silent.host, server.host, said=said)
    for n in range(4):
        cut_short(Sample(both), ask, lambda n=n: len(silent.requests) > n)
    assert [health.failures for health in both._health] == [0, 0] and not said and both._asking == 0
    assert both._health[0].out_until is None and len(silent.requests) == 4


def test_a_cancelled_try_of_a_replica_that_was_left_out(misbehaving, server):
    """It found nothing out: the next request tries the server."""
    silent = misbehaving(lambda exchange: iter((None,)))
    said: list[str] = []
    both = replicas(silent.host, server.host, said=said)
    health = both._health[0]
    health.out_until, health.pause = time.monotonic(), 60.0
    before = health.out_until
    cut_short(Sample(both), complete, lambda: silent.requests)
    assert (health.out_until, health.pause, health.failures) == (before, 60.0, 0) and not said


def test_a_replica_whose_health_is_looked_at(misbehaving, server):
    """Its connection was cut, and whether it is there is being asked when the answer is cancelled."""

    def spoil(exchange):
        if exchange.path.endswith("models"):
            yield None
        yield b""

    silent, said = misbehaving(spoil), []
    both = replicas(silent.host, server.host, said=said)
    cut_short(Sample(both), complete, lambda: any(e.path.endswith("models") for e in silent.requests))
    assert both._health[0].out_until is None and not said


def test_the_same_answers_as_without(server):
    """The loop over wrapped models, of a server and in this process, metered or not."""
    settings = NudgingSettings(0.4, max_token_total=60)
    for make in (lambda name: endpoint(server.host, name), lambda name: InProcess(name, 2)):
        for mode in ("published", "streamed"):
            answers = []
            for wrap in (lambda model: model, Cancellation().wrap, lambda model: Metered(Cancellation().wrap(model))):
                models = wrap(make("base-lm")), wrap(make("lm-chat"))
                answers.append([p.text for p in answer_stream(*models, PROMPT, PROMPT, settings, request_mode=mode)])
            assert answers[0] == answers[1] == answers[2] and len(answers[0]) > 3


def test_what_a_model_is_stays_known(server):
    model = endpoint(server.host)
    wrapped = Cancellation().wrap(model)
    assert (wrapped.name, wrapped.runs_ahead) == ("base-lm", True) and not rides_along(wrapped, SamplingParams(3))
    whole, stream = (
        model.complete(PROMPT, replace(LONG, max_tokens=9)),
        wrapped.stream(PROMPT, SamplingParams(9, logprobs=1)),
    )
    assert tuple(stream) == whole.tokens and stream.finish_reason == whole.finish_reason
    assert stream.usage == replace(whole.usage, prompt_tokens=stream.usage.prompt_tokens)


def test_cancelling_at_any_time_and_again():
    cancellation = Cancellation()
    cancellation.cancel()
    in_threads([cancellation.cancel] * 4)
    assert cancellation.cancelled
    model = cancellation.wrap(InProcess("base-lm", 2))
    for ask in (read, complete):
        with pytest.raises(Cancelled):
            ask(model)
    with pytest.raises(Cancelled):
        cancellation.when_cancelled(lambda: None)


def test_failures_stay_failures(reply_server):
    server = reply_server(lambda path, body: (400, {}, {"error": {"message": "no"}}))
    with pytest.raises(ModelError, match="status 400: no"):
        complete(Cancellation().wrap(endpoint(server.host)), SamplingParams(2))
    assert cancelling.current() is None


def test_others_on_the_same_connections_are_left_alone(server):
    """A connection goes from one answer to the next; cancelling the first afterwards cuts nothing."""
    model = endpoint(server.host, policy=RetryPolicy(0), max_connections=1)
    for _ in range(20):
        first = Cancellation()
        first.wrap(model).complete(PROMPT, SamplingParams(2))
        stream = Cancellation().wrap(model).stream(PROMPT, SamplingParams(8, logprobs=1))
        next(stream)
        first.cancel()
        assert len(list(stream)) == 7
    (connection,) = model.http._transport._pool.connections
    assert "Request Count: 40" in repr(connection)


def open_sockets() -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(link.startswith("socket:") for link in links)


def test_nothing_is_left_of_two_hundred_cancelled_answers(start_server):
    server = start_server("--seed", "2", "--latency_ms", "5")
    base, nudging = endpoint(server.host), endpoint(server.host, "lm-chat")
    settings = NudgingSettings(0.4, max_token_total=500)
    before, cancelled = (threading.active_count(), open_sockets()), []

    def answers(numbers):
        for n in numbers:
            cancellation = Cancellation()
            timer = threading.Timer(0.02 + 0.001 * (n % 60), cancellation.cancel)
            timer.start()
            models, mode = (cancellation.wrap(base), cancellation.wrap(nudging)), ("published", "streamed")[n % 2]
            prompt = f"{PROMPT}{n}"
            try:
                for _ in answer_stream(*models, prompt, prompt, settings, request_mode=mode):
                    pass
            except Cancelled:
                cancelled.append(n)
            timer.join()

    in_threads([lambda k=k: answers(range(k, 200, 8)) for k in range(8)])
    assert len(cancelled) > 150  # the others are short
    pools = [model.http._transport._pool for model in (base, nudging)]
    assert not any(connection.is_closed() for pool in pools for connection in pool.connections)
    assert not any(pool._requests for pool in pools)
    for model in (base, nudging):
        model.http.close()
    wait_until(
        lambda: (threading.active_count(), open_sockets()) <= before, "threads and sockets are as before", limit=60
    )


def test_waiting_costs_next_to_nothing():
    """Per token, of which the client of a server takes a hundred microseconds."""

    class Endless(InProcess):
        finish_reason = None

        def stream(self, prompt, params, draft=""):
            return self

        def __next__(self):
            return 1

    stream, took = Cancellation().wrap(Endless("base-lm", 2)).stream(PROMPT, LONG), []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(2000):
            next(stream)
        took.append((time.perf_counter() - began) / 2000)
    assert min(took) < 1e-5
