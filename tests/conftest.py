"""Shared by all tests: the scripted language-model server as a real process, and run_api.py as a user runs it."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis
import pytest
from forked_runs import forked_run_api
from outcomes import Outcomes
from waiting import HANG, finish, records_in, wait_until

# Threads of llama.cpp and torch that wait by spinning would take the processors from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# How long an example takes is the machine's business.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

REPOSITORY = Path(__file__).parents[1]
CASES = {path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "tests/reference").glob("*.json"))}


def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(config))


class ScriptedServer:
    """tests/scripted_lm_server.py on a free loopback port."""

    def __init__(self, *options: str, port: int | None = None):
        self.options = options
        self.port = port or free_port()
        self.host = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen | None = None

    def start(self) -> "ScriptedServer":
        script = REPOSITORY / "tests/scripted_lm_server.py"
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


@pytest.fixture(scope="session")
def start_server():
    """Start scripted servers by their options; all are stopped at the end of the session."""
    servers: list[ScriptedServer] = []

    def start(*options: str) -> ScriptedServer:
        servers.append(ScriptedServer(*options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(start_server) -> ScriptedServer:
    """A scripted server that answers to every model name."""
    return start_server("--seed", "2")


def run_api_command(*options: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / "run_api.py"), *map(str, options)]


def run_api(*options: object, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run run_api.py to its end, in an environment that holds nothing of the developer's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "HF_"))}
    return forked_run_api([str(option) for option in options], clean | (env or {}))


class Running:
    """A command at work; what it says goes to files, so that it can be read meanwhile."""

    def __init__(self, folder: Path, command: list[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = folder / "stdout", folder / "stderr"
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()

    def until_it_says(self, words: str) -> None:
        wait_until(lambda: words in self.stderr, f"saying {words!r}", self.process)

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        finish(self.process)
        return self.process.returncode


def write_rows(folder: Path, name: str, rows: list[dict], split: str = "test") -> Path:
    """Write a data set in the hub's schema below a folder, for --data_dir; returns the folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / f"{split}.jsonl").write_text(text)
    return folder


def gsm8k_rows(n: int) -> list[dict]:
    return [
        {"question": f"Tom has {i} apples and buys {i + 3} more. How many are there?", "answer": f"#### {2 * i + 3}"}
        for i in range(n)
    ]


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """Six gsm8k questions of our own."""
    return write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(6))


def nudging_options(host: str, data_dir: Path, output_dir: Path) -> list[object]:
    return [
        *("--exp", "nudging", "--base_model", "base-lm", "--base_host", host),
        *("--nudging_model", "llama-2-chat", "--nudging_host", host, "--top_prob_thres", "0.4"),
        *("--max_token_total", "128", "--data_dir", data_dir, "--output_dir", output_dir),
    ]


def one(folder: Path, pattern: str) -> Path:
    """The only file below a folder that fits a pattern."""
    (path,) = folder.rglob(pattern)
    return path


def final_records(output_dir: Path) -> list[dict]:
    return json.loads(one(output_dir, "*_samples.json").read_text())


class ReplyServer:
    """An HTTP server whose replies a test writes: `reply(path, body) -> (status, headers, content)`; content None cuts the line."""

    def __init__(self, reply):
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                requests.append((self.path, body))
                status, headers, content = reply(self.path, body)
                if content is None:
                    self.close_connection = True
                    return
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
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
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def reply_server():
    """Start servers with scripted replies; they are stopped after the test."""
    servers = []

    def start(reply) -> ReplyServer:
        servers.append(ReplyServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class Gate:
    """A server in front of a scripted one. From the first request at which `closes` holds it keeps all waiting, until it is opened.

    Where what is behind it is gone, the line is cut.
    """

    def __init__(self, server: ScriptedServer, closes):
        self._server, self._closes = server, closes
        self._closed, self._open = threading.Event(), threading.Event()
        self.answered: list[dict] = []  # the requests' bodies
        self._front = ReplyServer(self._reply)
        self.host = self._front.host

    def _reply(self, path: str, body):
        if body is not None and not self._open.is_set():
            if self._closed.is_set() or self._closes():
                self._closed.set()
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
            return 0, {}, None

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def wait_until_closed(self, alive: subprocess.Popen) -> None:
        wait_until(lambda: self.closed, "the gate is closed", alive)

    def open(self) -> None:
        self._open.set()

    def stop(self) -> None:
        self.open()
        self._front.stop()


@pytest.fixture
def gate():
    """Put a gate in front of a scripted server: one that closes when the logs below a folder hold some records, and `too` holds."""
    gates = []

    def start(server: ScriptedServer, folder: Path, records: int = 1, too=lambda: True) -> Gate:
        gates.append(Gate(server, lambda: records_in(folder) >= records and too()))
        return gates[-1]

    yield start
    for one_of_them in gates:
        one_of_them.stop()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder of tiny models with random weights (see tiny_models.save_all)."""
    from tiny_models import save_all

    return save_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pad_folder(tmp_path, monkeypatch):
    """A working folder for collect_model_outs.py: a greedy configuration, and six prompts of unequal lengths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.config").write_text(
        json.dumps({"rm_weight": 1.0, "topk": 10, "mode": "greedy", "sample_temp": None})
    )
    prompts = [
        "How do I bake bread?",
        "A cat",
        "Why does the moon look larger near the horizon?",
        "Who?",
        "Is it so?",
        "Ha",
    ]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    return tmp_path


def completion_reply(text="hello", tokens=("hel", "lo"), finish_reason="length", **logprobs) -> dict:
    """A /v1/completions reply as vLLM writes it."""
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    found = {"tokens": list(tokens), "text_offset": offsets, "token_logprobs": [-0.1] * len(tokens)}
    found["top_logprobs"] = [{token: -0.1} for token in tokens]
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": found | logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": len(tokens)}}


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The records of a run of six questions that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run_api(
        *nudging_options(server.host, write_rows(folder / "data", "gsm8k", gsm8k_rows(6)), folder / "out")
    )
    assert finished.returncode == 0, finished.stderr
    return finished, folder / "out", final_records(folder / "out")
