"""Servers that stand for those of language models."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from runs import REPOSITORY
from waiting import HANG, wait_until

from language_models.hosted.token_texts import TextMismatch, token_slices


class ScriptedServer:
    """tests/support/scripted_lm_server.py on a free loopback port."""

    def __init__(self, *options: str, port: int | None = None):
        self.options = options
        self.port = port or free_port()
        self.host = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen | None = None

    def start(self) -> "ScriptedServer":
        script = REPOSITORY / "tests/support/scripted_lm_server.py"
        command = [sys.executable, str(script), "--port", str(self.port), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: answers(f"http://127.0.0.1:{self.port}/health"), "the server answers", self.process)
        return self

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stats(self) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as reply:
            return json.load(reply)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(url, timeout=HANG).close()
    except OSError:
        return False
    return True


def kept_to(max_tokens: int | None, reply: object) -> object:
    """A scripted completion with no more tokens than a request asks for; replies of other shapes stay as they are."""
    try:
        (choice,) = reply["choices"]
        shape = choice["logprobs"]
        name = "content" if shape.get("content") else "tokens"
        tokens = [entry["token"] if name == "content" else entry for entry in shape[name]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return reply
    if max_tokens is None or len(tokens) <= max_tokens:
        return reply
    try:
        slices = token_slices(tokens, choice["text"], ended=choice["finish_reason"] != "length")
    except (TextMismatch, TypeError):  # a faulty reply, which is a test's business
        return reply
    cut = {key: value[:max_tokens] if isinstance(value, list) else value for key, value in shape.items()}
    short = choice | {"logprobs": cut, "finish_reason": "length", "text": "".join(slices[:max_tokens])}
    usage = (
        {"usage": reply["usage"] | {"completion_tokens": max_tokens}} if isinstance(reply.get("usage"), dict) else {}
    )
    return reply | {"choices": [short]} | usage


class ReplyServer:
    """An HTTP server whose replies a test writes: `reply(path, body) -> (status, headers, content)`.

    Content None cuts the line; scripted completions are cut to the tokens that were asked for (see `kept_to`), bytes are not.
    """

    def __init__(self, reply):
        requests = self.requests = []
        heads = self.heads = []  # of the same requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the body waits 40 ms for the acknowledgement of the head

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                requests.append((self.path, body))
                heads.append({name.lower(): value for name, value in self.headers.items()})
                status, headers, content = reply(self.path, body)
                if content is None:
                    self.close_connection = True
                    return
                if not isinstance(content, bytes):
                    content = json.dumps(kept_to((body or {}).get("max_tokens"), content)).encode()
                self.send_response(status)
                for name, value in (
                    {"Content-Type": "application/json", "Content-Length": len(content)} | headers
                ).items():
                    self.send_header(name, str(value))
                with contextlib.suppress(ConnectionError):  # whoever asked may be gone
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self.server.server_port}/v1"
        # Stopping waits for the next look: hundreds of tests stop one.
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Gate:
    """A server in front of a scripted one: it keeps every request waiting for whose body `closes` holds, until it is opened.

    Where what is behind it is gone, the line is cut.
    """

    def __init__(self, server: ScriptedServer, closes: Callable[[dict], object]):
        self._server, self._closes = server, closes
        self._open = threading.Event()
        self.held: list[dict] = []  # the bodies of requests that had to wait
        self.answered: list[dict] = []  # of all that were answered
        self.cut: list[str] = []  # of all whose line was cut, as JSON
        self._front = ReplyServer(self._reply)
        self.host = self._front.host

    def _reply(self, path: str, body):
        if body is not None and not self._open.is_set() and self._closes(body):
            self.held.append(body)
            self._open.wait(HANG)
        url, data = self._server.host.removesuffix("/v1") + path, None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=HANG) as answer:
                content = answer.read()
            self.answered.append(body or {})
            return answer.status, {"Content-Type": answer.headers["Content-Type"]}, content
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {}, error.read()
        except (OSError, http.client.HTTPException):
            self.cut.append(json.dumps(body))
            return 0, {}, None

    def wait_until_closed(self, alive: subprocess.Popen) -> None:
        wait_until(lambda: self.held, "the gate is closed", alive)

    def open(self) -> None:
        self._open.set()

    def stop(self) -> None:
        self.open()
        self._front.stop()


def completion_reply(text="hello", tokens=("hel", "lo"), finish_reason="length", **logprobs) -> dict:
    """A /v1/completions reply as vLLM writes it."""
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    found = {"tokens": list(tokens), "text_offset": offsets, "token_logprobs": [-0.1] * len(tokens)}
    found["top_logprobs"] = [{token: -0.1} for token in tokens]
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": found | logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": len(tokens)}}


class NeverAnswers:
    """For `reply_server`: a server that lets requests for a number of tokens wait until `over` is set; all others it answers."""

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self.asked: list[str] = []
        self.over = threading.Event()

    def __call__(self, path: str, body: dict | None):
        if path.endswith("completions") and body["max_tokens"] == self._max_tokens:
            self.asked.append(path)
            self.over.wait(HANG)
        return 200, {}, {"data": []} if path.endswith("models") else completion_reply()
