"""Clients that leave, and the server that is told to: what is behind ends at once, nothing stays, what is begun is finished."""

import contextlib
import json
import os
import signal
import socket
import threading
import time

import httpx2
import pytest
from malformed import chat
from misbehaving_server import MisbehavingServer, as_it_is
from served_pair import BASE, NUDGING, as_a_command, in_this_process, settings_over
from waiting import finish, in_threads, wait_until

SOON = 5.0  # seconds, on a machine that is busy; a second is what it must be on another, and the answers take more than a minute
LONG = {"messages": [{"role": "user", "content": "Tell me a long story."}], "max_tokens": None, "max_token_total": 3000}
KEYS = {"KEY_OF_BASE": "sk-base-0123456789abcdef", "KEY_OF_CLIENTS": "sk-clients-fedcba9876543210"}


@pytest.fixture(scope="module")
def slow(start_server):
    """A scripted server that takes its time for each token."""
    return start_server("--seed", "2", "--latency_ms", "30")


@pytest.fixture(scope="module")
def served_slowly(slow):
    with in_this_process(settings_over(slow.host, top_prob_thres=0.6, max_concurrent=64)) as served:
        yield served


def open_streams(server) -> int:
    return sum(row["open"] for row in server.stats().values())


def requests_of(server) -> int:
    return sum(row["requests"] for row in server.stats().values())


def asking(served, **fields) -> socket.socket:
    """A connection that has asked for an answer."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps(chat(**LONG | fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    line = socket.create_connection((host, int(port)), timeout=20)
    line.sendall(head.encode() + body)
    return line


def read_until(line: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        try:
            more = line.recv(65536)
        except TimeoutError:
            more = b""
        assert more, received
        received += more
    return received


def reset(line: socket.socket) -> None:
    """Leave without a farewell."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.close()


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("fields", [{"stream": True}, {}, {"stream": True, "n": 3}], ids=["stream", "whole", "several"])
def test_who_leaves_in_mid_answer_ends_it(served_slowly, slow, fields, leave):
    line = asking(served_slowly, **fields)
    if "stream" in fields:
        read_until(line, b'"content":" ')
    else:
        wait_until(lambda: requests_of(slow) and open_streams(slow))
    assert open_streams(slow) and served_slowly.app.state.slots.answers == fields.get("n", 1)
    left_at = time.monotonic()
    leave(line)
    wait_until(lambda: not open_streams(slow) and not served_slowly.app.state.slots.answers, "all is over", limit=SOON)
    assert time.monotonic() - left_at < SOON
    before = requests_of(slow)
    time.sleep(0.1)
    assert requests_of(slow) == before


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_before_the_first_word_ends_it(server, stream):
    switch = {"spoil": as_it_is}
    upstream = MisbehavingServer(server, lambda exchange: switch["spoil"](exchange))
    with in_this_process(settings_over(upstream.host)) as served:
        switch["spoil"] = lambda exchange: iter([None])
        with asking(served, stream=stream):
            asked = len(upstream.requests)
            wait_until(lambda: len(upstream.requests) > asked or served.app.state.slots.answers)
            time.sleep(0.2)
            assert served.app.state.slots.answers == 1 and not upstream.gone
        wait_until(lambda: upstream.gone and not served.app.state.slots.answers, "all is over", limit=SOON)
    upstream.stop()


def test_two_hundred_that_leave_stay_nowhere(served_slowly, slow):
    def leave_often(times: int):
        for number in range(times):
            wait_until(lambda: served_slowly.app.state.slots.answers < 6, "there is room")
            line = asking(served_slowly, stream=number % 4 > 0)
            if number % 4 > 1:
                read_until(line, b'"content":" ')
            (reset if number % 2 else socket.socket.close)(line)

    def at_rest() -> bool:
        return not open_streams(slow) and not served_slowly.app.state.slots.answers

    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    for times in (1, 20):  # threads and connections are made once
        in_threads([lambda times=times: leave_often(times)] * 10)
        wait_until(at_rest, "all is over", limit=SOON)
        if times == 1:
            before = held()
    wait_until(lambda: held()[1] <= before[1] + 10, "sockets are closed", limit=SOON)
    # At most a thread for each of the answers that can be written at a time, and what Starlette keeps for templates.
    assert held()[0] <= before[0] + 64
    assert served_slowly.chat("Hi", max_tokens=2).status_code == 200
    metrics = served_slowly.http.get("/metrics").text
    left = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("nudged_left_total"))
    assert left > 100  # those that were written already when their client left are others


@pytest.fixture
def command(slow, monkeypatch):
    """serve_nudged.py over the slow server, with keys, and a stream of it that has begun."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    options = ["--base_model", BASE, "--nudging_model", NUDGING, "--base_host", slow.host, "--nudging_host", slow.host]
    options += ["--base_api_key_env", "KEY_OF_BASE", "--api_key_env", "KEY_OF_CLIENTS", "--top_prob_thres", "0.6"]
    with as_a_command(*options) as (served, process):
        yield served, process


@contextlib.contextmanager
def begun(served, tokens: int):
    """A stream of the command of which something has been read."""
    body = chat(**LONG | {"stream": True, "max_tokens": tokens})
    headers = {"Authorization": f"Bearer {KEYS['KEY_OF_CLIENTS']}"}
    with served.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status_code == 200
        chunks = reply.iter_text()
        yield next(chunks), chunks


def check_lines(served, process) -> str:
    said = "".join(served.said) + finish(process)[1]
    assert not any(key in said for key in KEYS.values()) and "Traceback" not in said, said
    return said


def test_a_signal_lets_it_finish_what_it_writes(command):
    served, process = command
    with begun(served, 40) as (first, chunks):
        process.send_signal(signal.SIGTERM)
        text = first + "".join(chunks)
    assert text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in text or '"finish_reason":"stop"' in text
    assert process.wait(60) == 0
    said = check_lines(served, process)
    assert "told to stop" in said and said.rstrip().endswith("stopped")
    with pytest.raises(httpx2.ConnectError):
        served.http.get("/health")


def test_a_second_signal_has_it_leave_at_once(command, slow):
    served, process = command
    with begun(served, 4000) as (_, chunks):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "told to stop" in "".join(served.said) or served.said.append(process.stderr.readline()))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        text = "".join(chunks)
    assert "[DONE]" not in text and json.loads(text.split("data: ")[-1])["error"]["code"] == "stopped"
    process.wait(SOON)
    assert time.monotonic() - began < SOON
    wait_until(lambda: not open_streams(slow), "what is behind has ended", limit=SOON)
    check_lines(served, process)
