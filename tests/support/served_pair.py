"""A nudged pair behind serve_nudged.py's application: in a thread of this process, or as the command that users run."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from runs import REPOSITORY
from waiting import wait_until

from nudged_pair import NudgedPair
from serve_nudged import open_pair
from serving.app import bind, make_app, make_server
from serving.settings import ServeSettings

# Names by which the scripted server writes as a base model and as one that was trained to follow Llama 2's template.
BASE, NUDGING = "base-lm", "llama-2-chat"


def settings_over(host: str, **options) -> ServeSettings:
    """The settings of a pair on a scripted server."""
    given = {"base_model": BASE, "nudging_model": NUDGING, "base_host": host, "nudging_host": host, "port": 0}
    return ServeSettings(**given | {"top_prob_thres": 0.4, "max_retries": 0, "max_outage": 0.0} | options)


class Served:
    """A server that is up: `url` is its root, `pair` what it serves; `post` and `stream` ask it."""

    def __init__(self, url: str, pair: NudgedPair | None = None, app=None):
        self.url, self.pair, self.app = url, pair, app
        self.http = httpx2.Client(base_url=url, timeout=60.0)

    def post(self, path: str, body: object, **more) -> httpx2.Response:
        """POST a body as JSON."""
        return self.http.post(path, json=body, **more)

    def chat(self, question: str, **more) -> httpx2.Response:
        """Ask one question."""
        return self.post("/v1/chat/completions", chat_body(question, **more))

    def chunks(self, question: str, **more) -> list[dict]:
        """The chunks of a streamed chat, each checked to be one event, with [DONE] as the last."""
        return read_events(self.chat(question, stream=True, **more).text)


def chat_body(question: str, **more) -> dict:
    """The body of a request with one question."""
    return {"model": "pair", "messages": [{"role": "user", "content": question}], **more}


def read_events(text: str) -> list[dict]:
    """The events of a whole stream without its [DONE], which must be there."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]", text[-500:]
    return [json.loads(event) for event in events[:-1]]


@contextmanager
def in_this_process(settings: ServeSettings, pair: NudgedPair | None = None) -> Iterator[Served]:
    """The application over a pair, run by uvicorn in a thread."""
    with bind(settings) as listening, pair or open_pair(settings) as pair:
        app = make_app(pair, settings)
        server = make_server(app)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the server listens")
        served = Served(f"http://127.0.0.1:{listening.getsockname()[1]}", pair, app)
        try:
            yield served
        finally:
            served.http.close()
            server.should_exit = server.force_exit = True
            thread.join()
            app.state.slots.close()


@contextmanager
def as_a_command(*options: str, env: dict | None = None) -> Iterator[tuple[Served, subprocess.Popen]]:
    """`python serve_nudged.py` with some options on a free port, once it serves."""
    command = [sys.executable, "serve_nudged.py", "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=env)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if " serving " in line and "/v1 (page" in line:
                break
        else:
            raise AssertionError("".join(said))
        url = line.split("(page: ")[1].strip().rstrip(")/")
        served = Served(url)
        served.said = said
        yield served, process
        served.http.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def demo_pair() -> Iterator[Served]:
    """The bundled models, which have to be there, in this process: GGUF files, so that the base model's tokenizer is known."""
    own = {"base_model": "demo-base", "nudging_model": "demo-aligned", "base_host": None, "nudging_host": None}
    with in_this_process(settings_over("", **own)) as served:
        yield served
