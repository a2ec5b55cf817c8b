"""What one process of this program can drive: answers and streamed tokens per second against a server that answers at once.

    python benchmarks/client_throughput.py --threads 64 --seconds 20

The server is a process of its own that sends made-up tokens from memory: the base model is uncertain at every tenth of them. Its
own limit is printed as well: the rate of its plainest reply to a bare socket.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import socket
import sys
import threading
import time
from pathlib import Path

from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from language_models.hosted.endpoint import OpenAIEndpoint  # noqa: E402
from language_models.interface import Metered, Usage  # noqa: E402
from nudging import NudgingSettings, nudge  # noqa: E402

VARIANTS = 512
SENT_AHEAD = 24  # tokens of a stream that are on their way before the client can close it
UNCERTAIN_EVERY = 10


def chunk(token: str, probability: float, finish: str | None, logprobs: bool) -> dict:
    """One token as vLLM streams it."""
    logprob = math.log(probability)
    shown = {"tokens": [token], "token_logprobs": [logprob], "top_logprobs": [{token: logprob}], "text_offset": [0]}
    choice = {"index": 0, "text": token, "logprobs": shown if logprobs else None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}


def replies(base: bool) -> tuple[list[bytes], list[bytes]]:
    """Made-up replies, whole ones of 16 tokens and streams, as HTTP has them."""
    whole, streams = [], []
    rng = random.Random(0)
    for _ in range(VARIANTS):
        tokens = [f" {rng.choice('abcdefgh')}{rng.randrange(10**4)}" for _ in range(SENT_AHEAD)]
        sure = [0.2 if (i + 1) % UNCERTAIN_EVERY == 0 else 0.9 for i in range(SENT_AHEAD)]
        n = SENT_AHEAD if base else 16
        events = [chunk(tokens[i], sure[i], "length" if i == n - 1 else None, base) for i in range(n)]
        shown = {
            "tokens": tokens[:16],
            "token_logprobs": [math.log(p) for p in sure[:16]],
            "top_logprobs": [{t: math.log(p)} for t, p in zip(tokens[:16], sure, strict=False)],
        }
        choice = {"text": "".join(tokens[:16]), "logprobs": shown if base else None, "finish_reason": "length"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 16}}).encode()
        whole.append(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        streams.append(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
    return whole, streams


class Answering(asyncio.Protocol):
    """A connection of the server."""

    canned: dict[bool, tuple[list[bytes], list[bytes]]] = {}
    count = 0

    def connection_made(self, transport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        start = head.lower().find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n")[0]) if start >= 0 else 0
        if len(body) < length:
            return
        self.received = b""
        Answering.count += 1
        whole, streams = self.canned[b'"base"' in body]
        kind = streams if b'"stream":true' in body or b'"stream": true' in body else whole
        self.transport.write(kind[Answering.count % VARIANTS])


def serve(ready) -> None:
    """Answer until the process is killed."""

    async def run():
        Answering.canned = {base: replies(base) for base in (True, False)}
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def server_limit(port: int, seconds: float = 2.0) -> float:
    """Replies per second to one bare socket."""
    body = b'{"model": "chat"}'
    request = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    count, until = 0, time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as line:
        while time.monotonic() < until:
            line.sendall(request)
            line.recv(1 << 20)
            count += 1
    return count / seconds


def drive(host: str, request_mode: str, threads: int, seconds: float) -> dict:
    """Answer as many prompts as can be answered in some seconds; what was done per second."""
    models = [OpenAIEndpoint(name, host, max_connections=2 * threads) for name in ("base", "chat")]
    settings = NudgingSettings(top_prob_thres=0.4, max_token_total=256)
    totals, lock, until = {"answers": 0, "requests": 0, "tokens": 0}, threading.Lock(), time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < until:
            views = [Metered(model, Usage()) for model in models]
            nudge(*views, "Question: how many?\n", "[INST] How many? [/INST]", settings, request_mode=request_mode)
            with lock:
                totals["answers"] += 1
                totals["requests"] += sum(view.usage.requests for view in views)
                totals["tokens"] += sum(view.usage.completion_tokens for view in views)

    began, cpu = time.monotonic(), time.process_time()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.monotonic() - began
    found = {"request_mode": request_mode, "threads": threads} | {
        f"{name}/s": total / took for name, total in totals.items()
    }
    return found | {"client CPU": (time.process_time() - cpu) / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    receive, send = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(send,), daemon=True)
    server.start()
    port = receive.recv()
    host = f"http://127.0.0.1:{port}/v1"
    print(f"the server alone: {server_limit(port):.0f} replies/s to one connection")
    rows = [
        drive(host, request_mode, n, options.seconds)
        for n in options.threads
        for request_mode in ("published", "streamed")
    ]
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"))
    server.kill()


if __name__ == "__main__":
    main()
