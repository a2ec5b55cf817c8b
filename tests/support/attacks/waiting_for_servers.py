"""Attacks by servers that are slow, say nothing, limit the rate of requests, or refuse fields of them."""

import contextlib
import json
import threading
import time
from email.utils import formatdate
from itertools import count
from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ReplyServer, completion_reply, free_port
from runs import gsm8k_rows, write_rows

MODELS = {"object": "list", "data": [{"id": "lm", "object": "model", "created": 0, "owned_by": "us"}]}
SILENT = 90.0  # seconds
PROBED = 20  # more tokens than a probe asks for
BUSY = {"error": {"message": "slow down"}}


def answer(body: dict):
    """A model's reply: whole, or as a stream."""
    logprobs = body.get("logprobs")
    reply = completion_reply("hello", ("hel", "lo"), "stop", top_logprobs=[{"hel": -0.1}, {"lo": -0.3}])
    if not logprobs:
        reply["choices"][0]["logprobs"] = None
    if not body.get("stream"):
        return 200, {}, reply
    return 200, {"Content-Type": "text/event-stream"}, f"data: {json.dumps(reply)}\n\ndata: [DONE]\n\n".encode()


def against(completion, *options: object, models=lambda: (200, {}, MODELS), exp: str = "nudging_only", hosts: int = 1):
    """One question asked of servers with this way to answer requests for completions."""

    def run(folder: Path) -> Outcome:
        with contextlib.ExitStack() as stack:
            requests = count()

            def reply(path: str, body: dict | None):
                if path.endswith("/models"):
                    return models()
                return (404, {}, {}) if body is None else completion(body, next(requests))

            servers = [ReplyServer(reply) for _ in range(hosts)]
            for server in servers:
                stack.callback(server.stop)
            host = ",".join(server.host for server in servers)
            data = write_rows(folder / "data", "gsm8k", gsm8k_rows(1))
            asked = ["--dataset_name", "gsm8k", "--data_dir", data, "--output_dir", folder / "out", "--exp", exp]
            for role in ("base", "nudging") if exp == "nudging" else (exp.removesuffix("_only"),):
                asked += [f"--{role}_model", "lm", f"--{role}_host", host]
            asked += ["--nudging_template", "chatml"] if exp != "base_only" else []
            return run_command("run_api.py", *asked, *options)

    return run


def silent(*_):
    time.sleep(SILENT)
    return 200, {}, None


def limited(times: int, headers=lambda: {}, since: int = 0):
    """A server that limits the rate, for the first requests for so many tokens."""
    left = [times]

    def completion(body, n):
        if left[0] and body["max_tokens"] >= since:
            left[0] -= 1
            return 429, headers(), BUSY
        return answer(body)

    return completion


def refusing(refuses, message: str = "invalid request"):
    """A server that refuses some requests."""
    return lambda body, n: (400, {}, {"error": {"message": message}}) if refuses(body) else answer(body)


def slow_start(seconds: float):
    began = threading.Event()

    def completion(body, n):
        if not began.is_set():
            time.sleep(seconds)
            began.set()
        return answer(body)

    return completion


def nobody(folder: Path) -> Outcome:
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(1))
    host = f"http://127.0.0.1:{free_port()}/v1"
    options = ["--exp", "base_only", "--base_model", "lm", "--base_host", host, "--data_dir", data]
    return run_command("run_api.py", "--dataset_name", "gsm8k", *options, "--output_dir", folder / "out")


def attack(name: str, run, exit_code: int = 0, says: str | None = None, seconds: float = 60.0) -> Attack:
    return Attack("waiting", name, run, exit_code, says, seconds)


IN_TIME = r"waiting for lm at \S+ to answer .*--max_outage.*--request_timeout.*--max_retries"
BOTH = ("--nudging_top_p", 0.9, "--nudging_temperature", 0)

ATTACKS = [
    attack("no server at the start", nobody, 2, "no server answers there", 20),
    attack("429 from the first request, --max_outage 12", against(limited(10**6), "--max_outage", 12), 2, IN_TIME, 40),
    attack("429 from the first request, --max_outage 0", against(limited(10**6), "--max_outage", 0), 2, "429", 15),
    attack(
        "503 from the first request, --max_outage 12",
        against(lambda *_: (503, {}, BUSY), "--max_outage", 12),
        2,
        IN_TIME,
        40,
    ),
    attack(
        "the list of models never comes",
        against(lambda body, n: answer(body), "--request_timeout", 12, models=silent),
        0,
        IN_TIME,
    ),
    attack(
        "nothing is ever answered, --max_outage 12", against(silent, "--max_outage", 12, models=silent), 2, IN_TIME, 40
    ),
    attack("completions are never answered, --max_outage 5", against(silent, "--max_outage", 5), 2, "no answer", 40),
    attack(
        "one of two servers is silent",
        against(lambda body, n: answer(body) if n else silent(), "--max_outage", 5, hosts=2),
    ),
    attack("the first answer takes 14 s", against(slow_start(14)), 0, IN_TIME),
    attack(
        "429 without Retry-After, in the run",
        against(limited(3, since=PROBED)),
        says="asking again for a while, for up to 300 s",
    ),
    attack("Retry-After: 2, in the run", against(limited(2, lambda: {"Retry-After": 2}, PROBED))),
    attack(
        "Retry-After as a date, in the run",
        against(limited(1, lambda: {"Retry-After": formatdate(time.time() + 12, usegmt=True)}, PROBED)),
        says=r"slow down; asking again in 1\d s, for up to 300 s \(--max_outage\)(?s:.*)answers again",
    ),
    attack("retry-after-ms: 300", against(limited(3, lambda: {"retry-after-ms": 300, "Retry-After": 3600}))),
    attack(
        "Retry-After beyond the patience",
        against(limited(9, lambda: {"Retry-After": 4000})),
        2,
        "asks to wait for 4000 s",
    ),
    *(
        attack(f"Retry-After: {odd}", against(limited(2, lambda odd=odd: {"Retry-After": odd})))
        for odd in ("-5", "nan", "soon", "1e999", "Mon, 99 Foo 20", "0")
    ),
    attack("top_p 1 is refused", against(refusing(lambda body: body.get("top_p") == 1), *BOTH[2:], exp="nudging")),
    attack(
        "top_p other than 1 is refused",
        against(refusing(lambda body: body.get("top_p", 1) != 1), *BOTH),
        0,
        "asked without top_p 0.9",
    ),
    attack(
        "top_p other than 1 is refused, and changes answers",
        against(refusing(lambda body: body.get("top_p", 1) != 1), "--nudging_temperature", 0.7),
        2,
        "choose another --",
    ),
    attack(
        "temperature 0 is refused", against(refusing(lambda body: body.get("temperature") == 0)), 2, "temperature 0"
    ),
    attack(
        "one token is too few", against(refusing(lambda body: body["max_tokens"] < 4, "max_tokens must be at least 4"))
    ),
    attack(
        "streams that cannot be read",
        against(
            lambda body, n: (
                answer(body)
                if not body.get("stream")
                else (200, {"Content-Type": "text/event-stream"}, b"data: {]\n\n")
            )
        ),
        0,
        "streams of .* are not used",
    ),
    attack(
        "streams that cannot be read, --calls streamed",
        against(refusing(lambda body: body.get("stream"), "no streams here"), "--calls", "streamed"),
        2,
        "no streams here.*use --calls auto",
    ),
    attack(
        "a gateway that cuts unstreamed answers",
        against(
            lambda body, n: (
                (504, {}, b"gateway timeout") if body["max_tokens"] > 20 and not body.get("stream") else answer(body)
            ),
            "--max_retries",
            1,
        ),
        1,
        "--calls streamed",
    ),
    attack(
        "the same with --calls streamed",
        against(
            lambda body, n: (
                (504, {}, b"gateway timeout") if body["max_tokens"] > 20 and not body.get("stream") else answer(body)
            ),
            "--calls",
            "streamed",
        ),
    ),
]
