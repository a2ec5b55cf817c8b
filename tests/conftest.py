"""Shared by all tests: the scripted language-model server as a real process, and run_api.py as a user runs it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from browsers import open_browser
from doubles import Gate, ReplyServer, ScriptedServer
from judge_server import RIGHT, JudgeServer
from long_first import long_first
from outcomes import Outcomes
from real_servers import Hosts, real_hosts
from runs import final_records, gsm8k_rows, nudging_options, run_api, write_rows
from waiting import records_in

# Threads of llama.cpp and torch that wait by spinning would take the processors from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Tests that run side by side share the processors out: llama.cpp's threads in particular wait for each other by computing.
if (at_a_time := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // at_a_time)))
# How long an example takes is the machine's business.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(config))


@pytest.hookimpl(trylast=True)  # when tests are left that run
def pytest_collection_modifyitems(config, items) -> None:
    if hasattr(config, "workerinput"):
        is_long = [item.get_closest_marker("long") is not None for item in items]
        modules = [getattr(item, "module", None) for item in items]
        items[:] = long_first(items, is_long, modules, config.workerinput["workercount"])


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


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """Six gsm8k questions of our own."""
    return write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(6))


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


@pytest.fixture(scope="session")
def _judge_server():
    server = JudgeServer()
    yield server
    server.stop()


@pytest.fixture
def judge_server(_judge_server):
    """A chat server with scripted replies, which judges everything right until it is told otherwise."""
    _judge_server.replies, _judge_server.requests = [RIGHT], []
    return _judge_server


@pytest.fixture
def gate():
    """Put a gate in front of a scripted server: one that closes when the logs below a folder hold some records, and `too` holds."""
    gates = []

    def start(server: ScriptedServer, folder: Path, records: int = 1, too=lambda _: True) -> Gate:
        gates.append(Gate(server, lambda body: records_in(folder) >= records and too(body)))
        return gates[-1]

    yield start
    for one_of_them in gates:
        one_of_them.stop()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real browser; without one, the test is left out."""
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def hosts(tmp_path_factory) -> Iterator[Hosts]:
    """Real servers, for all tests that are marked so."""
    with real_hosts(tmp_path_factory.mktemp("servers")) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder of tiny models with random weights (see tiny_models.save_all)."""
    from tiny_models import save_all

    return save_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def scorers(tmp_path_factory) -> Path:
    """A folder of tiny reward models of the PAD paper's kinds (see tiny_models.save_scorers)."""
    from tiny_models import save_scorers

    return save_scorers(tmp_path_factory.mktemp("scorers"))


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


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The records of a run of six questions that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run_api(
        *nudging_options(server.host, write_rows(folder / "data", "gsm8k", gsm8k_rows(6)), folder / "out")
    )
    assert finished.returncode == 0, finished.stderr
    return finished, folder / "out", final_records(folder / "out")
