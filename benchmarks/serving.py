"""serve_nudged.py against the decoding loop called directly, side by side: one client, 64 clients, and clients that leave.

    python benchmarks/serving.py

The models are scripted servers, the clients and serve_nudged.py processes of their own. What is measured: time to the first final
text and to the last of it at one client, over servers that take their time for each token; answers and tokens per second of 64
streams over a server that answers at once, each text checked, and the CPU seconds of an answer in the process that runs the loop;
threads, sockets, streams of the servers behind and memory before and after 1,000 requests, of which a tenth is left in mid-stream.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from client_throughput import VARIANTS, Answering, chunk, replies  # noqa: E402

from answering.conversations import Prompts  # noqa: E402
from answering.settings import LoadSettings  # noqa: E402
from nudged_pair import NudgedPair  # noqa: E402

NAMES = {"base_model": "base", "nudging_model": "llama-2-chat"}
SETTINGS = {"top_prob_thres": 0.4, "max_token_total": 256}
MODELS = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in NAMES.values()]}).encode()
FEWEST = 16  # tokens that the decoding loop asks for
MARK = re.compile(rb'"(?:text|content)":("(?:[^"\\]|\\.)*"),"logprobs"')


class ByPrompt(Answering):
    """A connection of the server that answers at once: the same to the same request, so that texts can be checked."""

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not found or (length and len(body) < int(length[1])):
            return
        self.received = b""
        if head.startswith(b"GET"):
            self.transport.write(_whole(MODELS, "application/json"))
            return
        if not head.startswith(b"POST /v1/completions"):
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        is_base, is_stream = b'"base"' in body, b'"stream":true' in body
        most = int(re.search(rb'"max_tokens": *(\d+)', body)[1])
        if most < FEWEST:
            self.transport.write(_short(most, is_base, is_stream))
            return
        whole, streams = self.canned[is_base]
        self.transport.write((streams if is_stream else whole)[zlib.crc32(body) % VARIANTS])


def _whole(body: bytes, kind: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind.encode(), len(body), body)


def _short(most: int, is_base: bool, is_stream: bool) -> bytes:
    """What the requests get that find out what a server can do."""
    events = [chunk(" a", 0.9, "length" if i == most - 1 else None, is_base) for i in range(most)]
    if is_stream:
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        return _whole(data, "text/event-stream")
    (choice,) = events[-1]["choices"]
    choice["text"] = " a" * most
    if is_base:
        choice["logprobs"] = {name: values * most for name, values in choice["logprobs"].items()}
    usage = {"prompt_tokens": 9, "completion_tokens": most}
    return _whole(json.dumps(events[-1] | {"usage": usage}).encode(), "application/json")


def answer_at_once(ready) -> None:
    """The server of made-up answers, until the process is killed."""

    async def run():
        ByPrompt.canned = {base: replies(base) for base in (True, False)}
        server = await asyncio.get_running_loop().create_server(ByPrompt, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def in_a_process(work: Callable, *arguments) -> Iterator[object]:
    """Some work in a process of its own; gives what it sends first, and kills it."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(send, *arguments), daemon=True)
    process.start()
    try:
        yield receive.recv()
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def scripted(*options: object) -> Iterator[str]:
    """tests/support/scripted_lm_server.py; gives its base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    script = REPOSITORY / "tests/support/scripted_lm_server.py"
    process = subprocess.Popen(
        [sys.executable, script, "--port", str(port), "--seed", "2", *map(str, options)], stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def served(host: str, most: int) -> Iterator[tuple[int, int]]:
    """serve_nudged.py over a pair; gives its port and process id."""
    options = NAMES | SETTINGS | {"base_host": host, "nudging_host": host, "port": 0, "max_concurrent": most}
    command = [sys.executable, "serve_nudged.py", *(str(w) for name, v in options.items() for w in (f"--{name}", v))]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"page: http://127.0.0.1:(\d+)", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield int(found[1]), process.pid
                return
        raise RuntimeError(f"serve_nudged.py has not started: {''.join(said)}")
    finally:
        process.kill()
        process.wait()


def load(host: str, most: int) -> NudgedPair:
    """The same pair in this process."""
    hosts = {"base_host": host, "nudging_host": host, "num_threads": most, "max_retries": 2, "max_outage": 10.0}
    return NudgedPair.open(LoadSettings(**NAMES, **SETTINGS, **hosts), "top_prob", lambda _: None)


def question(number: int) -> str:
    """One of many prompts."""
    return f"Question: how many are {number} and {number % 7}?\nAnswer:"


class Client:
    """A client on one connection, which costs as little as can be: it reads bytes, and texts once all have come."""

    def __init__(self, port: int, **fields: object):
        self._fields = fields
        self._line = socket.create_connection(("127.0.0.1", port), timeout=120)

    def ask(self, prompt: str, leave_after: int | None = None) -> tuple[float, float, list[str]]:
        """Ask for a stream; seconds to the first text and to the end, and the texts in their order.

        Args:
            leave_after: chunks after which the connection is closed.
        """
        body = json.dumps({"model": "pair", "prompt": prompt, "stream": True} | self._fields).encode()
        began = time.perf_counter()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._line.sendall(head + body)
        received, first = bytearray(), 0.0
        while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            more = self._line.recv(1 << 18)
            received += more
            if not more or b'"error"' in more:
                raise RuntimeError(f"a stream has failed: {bytes(received[-300:])!r}")
            first = first or time.perf_counter() - began
            if leave_after is not None and received.count(b"data: ") >= leave_after:
                self.close()
                return first, time.perf_counter() - began, []
        took = time.perf_counter() - began
        return first, took, [json.loads(text) for text in MARK.findall(received)]

    def close(self) -> None:
        """Leave."""
        self._line.close()


def one_client(answers: int, token_ms: float) -> list[dict]:
    """The same questions to the loop and to the server, in turns; medians of seconds, and the ratios of pairs."""
    rows = []
    with scripted("--latency_ms", token_ms, "--request_ms", 4 * token_ms) as host, served(host, 4) as (port, _):
        client = Client(port)
        with load(host, 4) as pair:
            times: list[tuple[float, float, float, float]] = []
            for number in range(answers + 1):
                prompt = question(number)
                began, first, text = time.perf_counter(), 0.0, ""
                for piece in pair.stream(Prompts(prompt, prompt)):
                    first = first or time.perf_counter() - began
                    text += piece.text
                took = time.perf_counter() - began
                by_server = client.ask(prompt)
                assert "".join(by_server[2]) == text, f"another text for {prompt!r}"
                times.append((first, took, *by_server[:2]))
        client.close()
    for name, one, other in (("first text", 0, 2), ("whole answer", 1, 3)):
        direct, behind = ([pair[i] for pair in times[1:]] for i in (one, other))
        ratio = statistics.median(b / a for a, b in zip(direct, behind, strict=True))
        row = {"one client": name, "loop, ms": 1000 * statistics.median(direct)}
        rows.append(row | {"server, ms": 1000 * statistics.median(behind), "server/loop": ratio})
    return rows


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_parallel(threads: int, seconds: float, ask: Callable[[int, int], int]) -> tuple[int, int, float]:
    """Have threads ask one question after the other for some seconds; answers, pieces and how long it took."""
    until = time.monotonic() + seconds

    def work(thread: int) -> tuple[int, int]:
        answers = pieces = 0
        while time.monotonic() < until:
            pieces += ask(thread, answers)
            answers += 1
        return answers, pieces

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, range(threads)))
    return sum(one[0] for one in found), sum(one[1] for one in found), time.monotonic() - began


def loop_alone(ready, host: str, threads: int, seconds: float) -> None:
    """Threads that call the loop; sends what they did."""
    pair = load(host, threads)

    def ask(thread: int, number: int) -> int:
        prompt = question(1000 * thread + number)
        return sum(1 for _ in pair.stream(Prompts(prompt, prompt)))

    in_parallel(threads, seconds / 4, ask)
    cpu = time.process_time()
    found = in_parallel(threads, seconds, ask)
    ready.send((*found, time.process_time() - cpu))


def clients_alone(ready, port: int, threads: int, seconds: float) -> None:
    """Threads that ask the server; sends what they got, and some of the texts."""
    clients, texts = [Client(port) for _ in range(threads)], {}

    def ask(thread: int, number: int) -> int:
        prompt = question(1000 * thread + number)
        _, _, pieces = clients[thread].ask(prompt)
        texts[prompt] = "".join(pieces)
        return sum(map(bool, pieces))

    in_parallel(threads, seconds / 4, ask)
    texts.clear()
    ready.send("go")
    found = in_parallel(threads, seconds, ask)
    ready.send((*found, texts))


def many_clients(threads: int, seconds: float, rounds: int) -> list[dict]:
    """Answers per second of the loop in threads, and of the server with as many clients, in turns."""
    rows: list[dict] = []
    checked = 0
    with in_a_process(answer_at_once) as port, served(f"http://127.0.0.1:{port}/v1", threads) as (ours, pid):
        host = f"http://127.0.0.1:{port}/v1"
        for _ in range(rounds):
            with in_a_process(loop_alone, host, threads, seconds) as (answers, pieces, took, cpu):
                rows.append(_row("loop", threads, answers, pieces, took, cpu))
            receive, send = multiprocessing.Pipe(duplex=False)
            arguments = (send, ours, threads, seconds)
            asking = multiprocessing.get_context("spawn").Process(target=clients_alone, args=arguments, daemon=True)
            asking.start()
            receive.recv()
            cpu = cpu_seconds(pid)
            answers, pieces, took, texts = receive.recv()
            rows.append(_row("server", threads, answers, pieces, took, cpu_seconds(pid) - cpu))
            asking.join()
            assert len(texts) == answers, f"{answers - len(texts)} answers are lost"
            with load(host, 8) as pair, ThreadPoolExecutor(8) as pool:
                right = pool.map(lambda prompt: pair.answer(Prompts(prompt, prompt)).raw_text, texts)
                wrong = [prompt for prompt, text in zip(texts, right, strict=True) if texts[prompt] != text]
            assert not wrong, f"{len(wrong)} answers are not those of the loop, such as that to {wrong[0]!r}"
            checked += len(texts)
    best = {side: max(row["answers/s"] for row in rows if row["side"] == side) for side in ("loop", "server")}
    costs = {side: min(row["CPU ms/answer"] for row in rows if row["side"] == side) for side in ("loop", "server")}
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
    print(
        f"{threads} clients: server/loop {best['server'] / best['loop']:.2f} answers/s, {costs['server'] / costs['loop']:.2f} CPU "
        f"per answer; {checked} texts checked, none lost or mixed up\n"
    )
    return rows


def _row(side: str, threads: int, answers: int, pieces: int, took: float, cpu: float) -> dict:
    rates = {"answers/s": answers / took, "pieces/s": pieces / took, "CPU ms/answer": 1000 * cpu / max(1, answers)}
    return {"side": side, "clients": threads} | rates


def held(pid: int, host: str) -> dict:
    """What a process holds, and which streams of the servers behind are open."""
    status = Path(f"/proc/{pid}/status").read_text()
    with urllib.request.urlopen(host.removesuffix("/v1") + "/stats") as reply:
        streams = sum(row["open"] for row in json.load(reply).values())
    numbers = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("Threads", "VmRSS")}
    sockets = sum("socket" in os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {"threads": numbers["Threads"], "sockets": sockets, "streams": streams, "MB": numbers["VmRSS"] / 1024}


def leaving(requests: int, threads: int) -> list[dict]:
    """What is held before and after requests of which a tenth is left in mid-stream."""
    rows, lock = [], threading.Lock()
    with scripted("--latency_ms", 1) as host, served(host, 2 * threads) as (port, pid):

        def ask(number: int) -> None:
            client = Client(port, max_token_total=64)
            client.ask(question(number), leave_after=3 if number % 10 == 0 else None)
            client.close()

        def rest() -> float:
            """Seconds until no stream behind is open."""
            began = time.monotonic()
            while held(pid, host)["streams"] and time.monotonic() < began + 30:
                time.sleep(0.02)
            return time.monotonic() - began

        with ThreadPoolExecutor(threads) as pool:
            for name, number in (("start", 0), ("warm", requests // 2), (f"after {requests} more", requests)):
                list(pool.map(ask, range(number)))
                ended = rest()
                time.sleep(1)
                with lock:
                    rows.append({"leaving": name} | held(pid, host) | {"last stream open, s": ended})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=12, help="of one client")
    parser.add_argument("--token_ms", type=float, default=4.0, help="a token's time where one client is measured")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15.0, help="for which many clients are measured")
    parser.add_argument("--rounds", type=int, default=3, help="of loop and server in turns")
    parser.add_argument("--requests", type=int, default=1000, help="of which a tenth is left")
    parser.add_argument("--only", choices=("one", "many", "leaving"))
    parser.add_argument("--quick", action="store_true", help="everything at its smallest")
    options = parser.parse_args()
    if options.quick:
        options.answers, options.token_ms, options.clients, options.seconds = 2, 1.0, 4, 0.5
        options.rounds, options.requests = 1, 20
    if options.only in (None, "one"):
        print(
            tabulate(one_client(options.answers, options.token_ms), headers="keys", tablefmt="github", floatfmt=".3f")
        )
        print()
    if options.only in (None, "many"):
        many_clients(options.clients, options.seconds, options.rounds)
    if options.only in (None, "leaving"):
        rows = leaving(options.requests, min(32, options.requests))
        print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
