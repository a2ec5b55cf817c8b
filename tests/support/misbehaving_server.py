"""A server in front of a scripted one that spoils what it sends, byte by byte if need be."""

import json
import select
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from doubles import ScriptedServer
from waiting import HANG


@dataclass(frozen=True)
class Exchange:
    """A request, its number from 0, and what the server behind answers to it."""

    number: int
    path: str
    asked: dict
    status: int
    content: bytes

    @property
    def is_stream(self) -> bool:
        return bool(self.asked.get("stream")) and self.status == 200

    @property
    def events(self) -> list[dict]:
        """The chunks of a stream."""
        lines = [line.removeprefix(b"data: ") for line in self.content.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def body(self) -> dict:
        """A whole reply."""
        return json.loads(self.content)


Parts = Iterator[bytes | None]
# Gives the parts of the response in turn, its head first; after None the connection stays open and nothing comes any more.
Spoil = Callable[[Exchange], Parts]


def head(status: int = 200, kind: str = "application/json", **fields: object) -> bytes:
    """The head of a response; without a Content-Length its body ends with the connection."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "".join(line + "\r\n" for line in [*lines, ""]).encode()


def as_it_is(exchange: Exchange) -> Parts:
    """What the server behind has sent."""
    yield head(exchange.status, "text/event-stream" if exchange.is_stream else "application/json") + exchange.content


def stream_of(events: list[dict | bytes], ending: bytes = b"\n", done: bool = True) -> bytes:
    """A stream of these chunks."""
    lines = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() for event in events]
    return b"".join(line + ending * 2 for line in lines + [b"data: [DONE]"] * done)


class MisbehavingServer:
    """Answers as the scripted server behind it does, but for what `spoil` makes of it."""

    def __init__(self, server: ScriptedServer, spoil: Spoil):
        self.requests: list[Exchange] = []
        self.gone = 0  # of those that waited for what never came
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                exchange = outer.ask(server, self.path, json.loads(self.rfile.read(length) or "null"))
                try:
                    for part in spoil(exchange):
                        if part is None:
                            outer.wait_until_gone(self.connection)
                            return
                        self.wfile.write(part)
                except OSError:  # whoever asked has gone
                    pass

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def ask(self, server: ScriptedServer, path: str, body: dict | None) -> Exchange:
        """Ask the server behind."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            server.host.removesuffix("/v1") + path, data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=HANG) as reply:
                status, content = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        exchange = Exchange(len(self.requests), path, body or {}, status, content)
        self.requests.append(exchange)
        return exchange

    def wait_until_gone(self, connection: socket.socket) -> None:
        """Wait until whoever asked closes the connection, or the server stops."""
        while not self._over.is_set():
            readable, _, _ = select.select([connection], [], [], 0.02)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                self.gone += 1
                return

    def stop(self) -> None:
        self._over.set()
        self.server.shutdown()
        self.server.server_close()
