"""Attacks by servers: odd, broken, endless and lying replies. The answers are a well-behaved server's, or an error says why."""

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ScriptedServer
from misbehaving_server import Exchange, MisbehavingServer, Parts, Spoil, as_it_is, head, stream_of
from runs import final_records, gsm8k_rows, nudging_options, write_rows

SAMPLES = 2
OPTIONS = ("--request_timeout", 4, "--max_retries", 1, "--max_outage", 4, "--num_threads", 2, "--judge", "none")


def answers_of(folder: Path) -> list[str]:
    return [record.get("raw_answer", "") for record in final_records(folder)]


def asked_through(folder: Path, host: str, *options: object) -> Outcome:
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(SAMPLES))
    return run_command("run_api.py", *nudging_options(host, data, folder / "out"), *OPTIONS, *options, seconds=90)


@functools.cache
def right_answers() -> list[str]:
    """The answers of a server that behaves."""
    import tempfile

    server = ScriptedServer("--seed", "2").start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            assert asked_through(Path(folder), server.host).exit_code == 0
            return answers_of(Path(folder) / "out")
    finally:
        server.stop()


def under(spoil: Spoil, *options: object, answers: bool = True) -> Callable[[Path], Outcome]:
    """Nudging with both models behind a misbehaving server; `answers`: it must have the right ones."""

    def run(folder: Path) -> Outcome:
        expected = right_answers()
        server = ScriptedServer("--seed", "2").start()
        front = MisbehavingServer(server, spoil)
        try:
            outcome = asked_through(folder, front.host, *options)
        finally:
            front.stop()
            server.stop()
        if outcome.exit_code is not None and list(folder.rglob("*_samples.json")):
            found = answers_of(folder / "out")
            assert all(not text or text == right for text, right in zip(found, expected, strict=True)), "another answer"
            assert not answers or found == expected, "answers are missing"
        return outcome

    return run


def in_the_run(exchange: Exchange) -> bool:
    """Whether a request is one of the run's, not the probe's."""
    return "Tom has" in exchange.asked.get("prompt", "")


def streams(mangle: Callable[[list[dict]], bytes | Parts], later: bool = False) -> Spoil:
    """Spoil streams alone; `later`: not those of the probe."""

    def spoil(exchange: Exchange) -> Parts:
        if not exchange.is_stream or (later and not in_the_run(exchange)):
            yield from as_it_is(exchange)
            return
        yield head(200, "text/event-stream")
        mangled = mangle(exchange.events)
        yield from [mangled] if isinstance(mangled, bytes) else mangled

    return spoil


def completions(reply: Callable[[Exchange], Parts], later: bool = False) -> Spoil:
    """Spoil all completions; `later`: not those of the probe."""

    def spoil(exchange: Exchange) -> Parts:
        spoilt = exchange.path.endswith("/completions") and (in_the_run(exchange) or not later)
        yield from reply(exchange) if spoilt else as_it_is(exchange)

    return spoil


def each_choice(change: Callable[[dict, bool], dict]) -> Callable[[list[dict]], bytes]:
    """Change the choice of each chunk; the second argument says whether it is the last."""

    def mangle(events: list[dict]) -> bytes:
        last = len(events) - 1
        return stream_of([e | {"choices": [change(e["choices"][0], i == last)]} for i, e in enumerate(events)])

    return mangle


def without_reason(choice: dict, last: bool) -> dict:
    return choice if last else {name: value for name, value in choice.items() if name != "finish_reason"}


def joined(chunks: list[dict], missing: int = 0) -> dict:
    """Several chunks as one; the log-probabilities of the last `missing` tokens are left out."""
    choices = [chunk["choices"][0] for chunk in chunks]
    fields = {
        name: [v for c in choices for v in (c["logprobs"] or {}).get(name, [])] for name in choices[0]["logprobs"] or {}
    }
    fields = {name: values[: len(values) - missing] for name, values in fields.items()}
    choice = choices[-1] | {"text": "".join(c["text"] for c in choices)} | ({"logprobs": fields} if fields else {})
    return chunks[-1] | {"choices": [choice]}


def three_at_a_time(missing: int) -> Callable[[list[dict]], bytes]:
    def mangle(events: list[dict]) -> bytes:
        groups = [events[i : i + 3] for i in range(0, len(events), 3)]
        return stream_of([joined(group, missing if len(group) > 1 else 0) for group in groups])

    return mangle


def held_open(events: list[dict]) -> Parts:
    yield stream_of(events)
    yield None


def held_open_behind_the_reason(events: list[dict]) -> Parts:
    yield stream_of(events, done=False)
    yield None


def endless_comments(events: list[dict]) -> Parts:
    yield stream_of(events, done=False)
    yield from itertools.repeat(b": still here\n\n")


def endless_line(events: list[dict]) -> Parts:
    yield b"data: "
    yield from itertools.repeat(b"x" * 65536)


def stutter(events: list[dict]) -> Parts:
    for byte in stream_of(events):
        yield bytes([byte])


def told(error: dict | bytes, place: int = 2) -> Callable[[list[dict]], bytes]:
    return lambda events: stream_of([*events[:place], error, *events[place:]])


def more_than_asked_for(exchange: Exchange) -> Parts:
    body = exchange.body
    choice = body["choices"][0]
    if choice.get("logprobs"):
        choice["logprobs"] = {name: values * 3 for name, values in choice["logprobs"].items()}
        choice["text"] *= 3
    body["usage"] = {"completion_tokens": 100}
    yield head() + json.dumps(body).encode()


def says(status: int, body: dict | bytes, **fields: object) -> Callable[[Exchange], Parts]:
    def reply(exchange: Exchange) -> Parts:
        yield head(status, **fields) + (body if isinstance(body, bytes) else json.dumps(body).encode())

    return reply


def endless_body(exchange: Exchange) -> Parts:
    yield head()
    yield from itertools.repeat(b" " * 65536)


WORDS = "the boiler is out of water"
PUBLISHED = ("--calls", "published")
RIGHT = {
    'finish_reason "" until the end': each_choice(lambda c, last: c if last else c | {"finish_reason": ""}),
    "no finish_reason until the end": each_choice(without_reason),
    "finish_reason null to the end": each_choice(lambda c, last: c | {"finish_reason": None}),
    "text null in the last chunk": lambda events: stream_of(
        [e | {"choices": [e["choices"][0] | {"finish_reason": None}]} for e in events]
        + [
            {
                "choices": [
                    {
                        "index": 0,
                        "text": None,
                        "logprobs": None,
                        "finish_reason": events[-1]["choices"][0]["finish_reason"],
                    }
                ]
            }
        ]
    ),
    "empty data lines": lambda events: stream_of([part for event in events for part in (b"data:", event)]),
    "comments between events": lambda events: stream_of([part for event in events for part in (b": hello", event)]),
    "events parted by CR": lambda events: stream_of(events, b"\r"),
    "events parted by CRLF": lambda events: stream_of(events, b"\r\n"),
    "no blank lines": lambda events: stream_of(events).replace(b"\n\n", b"\n"),
    "three tokens per chunk": three_at_a_time(0),
    "usage of odd types": lambda events: stream_of(
        [e | {"usage": {"prompt_tokens": "many", "completion_tokens": None}} for e in events]
    ),
    "one byte at a time": stutter,
    "no [DONE]": lambda events: stream_of(events, done=False),
    "an error behind the finish reason": lambda events: stream_of([*events, {"error": WORDS}]),
    "held open behind [DONE]": held_open,
    "held open behind the finish reason": held_open_behind_the_reason,
    "comments without end behind the last token": endless_comments,
}
NOT_STREAMED = {
    "log-probabilities of a token missing in a chunk": three_at_a_time(1),
    "text behind the finish reason": lambda events: stream_of([*events, events[0]]),
    "an error event": told({"error": {"message": WORDS}}),
    "an error event of vLLM's old shape": told({"object": "error", "message": WORDS, "code": 500}),
    "an error event as plain text": told(b"data: " + WORDS.encode()),
    "a line without end": endless_line,
    "an HTML page for a stream": lambda events: b"<html>Bad gateway</html>",
    "another finish reason": each_choice(lambda c, last: c | {"finish_reason": "abort"} if last else c),
}
ATTACKS = [
    *(Attack("streams", name, under(streams(mangle))) for name, mangle in RIGHT.items()),
    *(
        Attack("streams", name, under(streams(mangle)), says="streams of .* are not used")
        for name, mangle in NOT_STREAMED.items()
    ),
    Attack(
        "streams",
        "an error event later on",
        under(streams(told({"detail": WORDS}), later=True), answers=False),
        1,
        WORDS,
    ),
    Attack(
        "replies",
        "an error with status 200",
        under(completions(says(200, {"error": {"message": WORDS, "code": 400}}))),
        2,
        WORDS,
    ),
    Attack(
        "replies",
        "an error with status 200 later on",
        under(completions(says(200, {"error": WORDS}), later=True), *PUBLISHED, answers=False),
        1,
        WORDS,
    ),
    Attack(
        "replies",
        "status 500 around code 400",
        under(completions(says(500, {"error": {"message": WORDS, "code": 400}}))),
        2,
        WORDS,
    ),
    Attack(
        "replies", "status 418", under(completions(says(418, {"detail": [{"loc": ["x"], "msg": WORDS}]}))), 2, WORDS
    ),
    Attack(
        "replies", "a body without end", under(completions(endless_body), *PUBLISHED), 2, "64 MiB|no answer in time"
    ),
    Attack(
        "replies", "more tokens than asked for", under(completions(more_than_asked_for), *PUBLISHED), 2, "more than the"
    ),
    Attack("replies", "an HTML page", under(completions(says(200, b"<html>Sign in</html>"))), 2, "Sign in"),
    Attack("replies", "half a document", under(completions(says(200, b'{"choices": [{'))), 2, "no JSON"),
]
