"""scripts/serve_models.sh with a stand-in for vLLM: commands, waiting, messages, and that it leaves nothing behind."""

import contextlib
import errno
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx2
import pytest
from doubles import answers, free_port
from runs import REPOSITORY
from served_pair import chat_body
from waiting import HANG, finish, wait_until

from baselines import PROXY_TUNING_LOGPROBS
from cluster.serve_models import MAX_LOGPROBS, is_before, main
from cluster.server_processes import HostingError, Process, catch_signals, stop, wait_until_ready

SCRIPT = str(REPOSITORY / "scripts/serve_models.sh")
FAKE = str(REPOSITORY / "tests/support/fake_vllm.py")


# The script takes the packages of the Python that runs the tests.
OWN_PYTHON = {"NUDGING_VENV": sys.prefix}
WRITES = {"FAKE_WRITES": sys.executable}  # the stand-in's models write
PAIR = ("base-lm", "llama-2-chat", "--device", "cpu", "--serve_nudged", "0")


def dry_run(*options: str, code: int = 0, env: dict | None = None) -> list[str]:
    environment = os.environ | OWN_PYTHON | (env or {})
    command = [SCRIPT, "--dry_run", *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    assert finished.returncode == code and "Traceback" not in finished.stderr, finished.stderr
    return finished.stdout.splitlines() or finished.stderr.splitlines()


class Hosting:
    """The script at work on the stand-in."""

    def __init__(self, folder: Path, *options: str, env: dict | None = None):
        self.ready_file = folder / "ready"
        ports = ["--base_port", str(free_port()), "--nudging_port", "0"]
        command = [SCRIPT, *options, *ports, "--ready_file", str(self.ready_file), "--log_dir", str(folder / "logs")]
        environment = os.environ | OWN_PYTHON | {"VLLM_PYTHON": FAKE, "FAKE_MARK": str(folder)} | (env or {})
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.mark = f"FAKE_MARK={folder}".encode()
        self.process = subprocess.Popen(command, env=environment, text=True, **streams)

    def hosts(self) -> dict[str, str]:
        wait_until(self.ready_file.exists, "the ready file is there", self.process)
        return dict(line.split("=") for line in self.ready_file.read_text().splitlines())

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        if number:
            self.process.send_signal(number)
        output, errors = finish(self.process)
        return self.process.returncode, output, errors

    def leaves_nothing(self) -> None:
        """Wait until nothing is left: what was killed takes a moment to go."""
        wait_until(lambda: not self.left_behind(), "nothing is left behind")

    def left_behind(self) -> list[str]:
        """Processes that were started for this one, and still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture
def hosting(tmp_path):
    """Start the script; whatever it leaves behind is a failure."""
    started = []

    def start(*options: str, env: dict | None = None) -> Hosting:
        started.append(Hosting(tmp_path, *options, env=env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.leaves_nothing()


class TestCommands:
    def test_servers_give_as_many_log_probabilities_as_proxy_tuning_reads(self):
        assert MAX_LOGPROBS == PROXY_TUNING_LOGPROBS

    def test_on_gpus(self):
        base, nudging = dry_run("big", "small", "--base_gpus", "0,1", "--nudging_gpus", "2", "--", "--seed", "3")
        assert "CUDA_VISIBLE_DEVICES=0,1 " in base and "CUDA_VISIBLE_DEVICES=2 " in nudging
        assert "--tensor-parallel-size 2" in base and "--tensor-parallel-size 1" in nudging
        assert "--model big --served-model-name big --host 127.0.0.1 --port 8000 --max-model-len 2048" in base
        for command in (base, nudging):
            for part in ("--max-logprobs 100", "--enable-prefix-caching", "--generation-config vllm", "--seed 3"):
                assert part in command
            assert "--dtype" not in command and "--gpu-memory-utilization" not in command

    def test_one_gpu_for_both(self):
        options = ("--base_gpus", "0", "--nudging_gpus", "0", "--nudging_options=--gpu-memory-utilization 0.2")
        base, nudging = dry_run("big", "small", *options)
        assert base.endswith("--gpu-memory-utilization 0.45") and nudging.endswith("--gpu-memory-utilization 0.2")

    def test_on_a_cpu(self, monkeypatch, tmp_path):
        monkeypatch.setenv("NUDGING_CACHE", str(tmp_path))
        options = ("--device", "cpu", "--proxy_base", "stories15m", "--base_port", "0", "--dtype", "float32")
        base, _, stories = dry_run("demo-base", "some/model", *options)
        assert f"--model {tmp_path}/demo-base-transformers --served-model-name demo-base" in base
        assert "VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=" in base and "HF_HUB_OFFLINE=1" in base
        assert "--enforce-eager --dtype float32" in base and "--port 8000" not in base
        assert "--port 8002 --max-model-len 256 " in stories

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--device", "gpu"), "name the GPUs of each model: --base_gpus"),
            (("--base_gpus", "0", "--nudging_gpus", "1,,2"), "name the GPUs of each model: --nudging_gpus"),
            (("--device", "cpu", "--base_gpus", "0"), "served on the CPU"),
            (("--device", "cpu", "--nudging_port", "8000"), "a port of its own"),
            (("--device", "cpu", "--serve_nudged", "8001"), "a port of its own"),
            (
                ("--device", "cpu", "--serve_nudged_options", "--no_key"),
                "those of --serve_nudged PORT, which is not given",
            ),
        ],
    )
    def test_what_does_not_fit(self, options, message):
        (line,) = dry_run("big", "small", *options, code=1)
        assert line.startswith("serve_models.sh: error: ") and message in line

    def test_a_key_among_the_options_is_not_shown(self, capsys, monkeypatch):
        monkeypatch.setattr("cluster.server_processes.catch_signals", lambda: None)
        assert main(["a/b", "c/d", "--device", "cpu", "--dry_run", "--", "--api-key", "sk-live-123"]) == 0
        assert "--api-key ***" in (said := capsys.readouterr().out) and "sk-live-123" not in said

    def test_a_full_disk(self, monkeypatch, capsys):
        class Full(io.StringIO):
            def flush(self):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("cluster.server_processes.catch_signals", lambda: None)
        monkeypatch.setattr(sys, "stdout", Full())
        assert main(["a/b", "c/d", "--device", "cpu", "--dry_run"]) == 2
        assert "standard output cannot be written (No space left" in capsys.readouterr().err

    def test_under_nohup_the_servers_go_on(self, monkeypatch):
        set_for = {}
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
        monkeypatch.setattr(signal, "signal", lambda number, handler: set_for.setdefault(number, handler))
        catch_signals()
        assert set(set_for) == {signal.SIGINT, signal.SIGTERM}

    def test_keys_of_tls_that_cannot_be_written(self, monkeypatch, capsys):
        monkeypatch.setattr("cluster.server_processes.catch_signals", lambda: None)
        monkeypatch.setenv("SSLKEYLOGFILE", "/no/such/folder/keys")
        assert main(["a/b", "c/d", "--dry_run"]) == 2 and "SSLKEYLOGFILE cannot be written" in capsys.readouterr().err

    def test_the_pair_as_a_model(self):
        given = "--top_prob_thres 0.4 --no_key"
        options = ("--host", "0.0.0.0", "--serve_nudged", "8010", "--serve_nudged_options", given)
        *_, line = dry_run("big", "small", "--device", "cpu", *options)
        python, script, *words = shlex.split(line)
        assert (python, script) == (f"{sys.prefix}/bin/python", str(REPOSITORY / "serve_nudged.py"))
        assert words == shlex.split(
            "--base_model big --base_host http://127.0.0.1:8000/v1 --nudging_model small --nudging_host http://127.0.0.1:8001/v1 "
            f"--startup_timeout 1800 --host 0.0.0.0 --port 8010 {given}"
        )

    def test_one_option_of_a_server(self):
        base, _, pair = dry_run(
            *("a", "b", "--device", "cpu", "--serve_nudged", "0", "--serve_nudged_options", "--no_key"),
            *("--base_options", "--trust-remote-code"),
        )
        assert base.endswith(" --trust-remote-code") and pair.endswith(" --no_key")

    def test_the_pair_sends_vllms_key(self):
        *_, line = dry_run("a", "b", "--device", "cpu", "--serve_nudged", "0", env={"VLLM_API_KEY": "sk-vllm-123"})
        assert "sk-vllm-123" not in line and line.count("_api_key_env VLLM_API_KEY") == 2

    def test_versions(self):
        assert is_before("0.7.3", (0, 8)) and not is_before("0.10.0", (0, 8)) and not is_before("", (0, 8))


@pytest.mark.slow
class TestHosting:
    def test_both_answer_until_it_is_stopped(self, hosting):
        pair = hosting("big", "small", "--base_gpus", "3", "--nudging_gpus", "4")
        hosts = pair.hosts()
        assert list(hosts) == ["BASE_HOST", "NUDGING_HOST"]
        for url in hosts.values():
            assert answers(url.removesuffix("/v1") + "/health")
        code, output, errors = pair.end(signal.SIGTERM)
        assert code == 143 and "Traceback" not in errors and not pair.ready_file.exists()
        pair.leaves_nothing()
        assert f"big at {hosts['BASE_HOST']}" in output and "python run_api.py" in output
        assert f"--base_model big --base_host {hosts['BASE_HOST']} --nudging_model small" in output
        (log,) = pair.ready_file.parent.glob("logs/base-*.log")
        assert "devices: 3\n" in log.read_text() and "--generation-config vllm" in log.read_text()

    def test_the_pair_answers_until_all_are_stopped(self, hosting):
        """Told to stop, the models go on until the pair has finished what it writes."""
        pair = hosting(*PAIR, "--serve_nudged_options", "--top_prob_thres 0.4", env=WRITES)
        hosts = pair.hosts()
        assert list(hosts) == ["BASE_HOST", "NUDGING_HOST", "PAIR_HOST"]
        root = hosts["PAIR_HOST"].removesuffix("/v1")
        body = chat_body("How many days are in two weeks?", stream=True)
        with httpx2.stream("POST", f"{root}/v1/chat/completions", json=body, timeout=HANG) as reply:
            lines = reply.iter_lines()
            assert '"role":"assistant"' in next(lines)
            pair.process.send_signal(signal.SIGTERM)
            text = "\n".join(lines)
        assert text.rstrip().endswith("data: [DONE]") and '"by":"base"' in text
        code, output, errors = pair.end()
        assert code == 143 and "Traceback" not in errors
        pair.leaves_nothing()
        assert f"pair:       both, nudged, at {root}/v1\nchat page:  {root}/\n" in output
        assert "serve_nudged.py answers after" in errors

    def test_options_of_the_pair_that_cannot_be(self, hosting):
        """It is said at once, not when the models are loaded."""
        options = (
            "hangs",
            "llama-2-chat",
            "--device",
            "cpu",
            "--serve_nudged",
            "0",
            "--serve_nudged_options",
            "--host 0.0.0.0",
        )
        code, _, errors = hosting(*options, env=WRITES).end()
        assert code == 1 and "serve_nudged.py ended with status 2" in errors and "or say --no_key" in errors

    def test_a_model_that_dies_ends_the_pair_too(self, hosting):
        code, _, errors = hosting("base-lm", "dies", *PAIR[2:], env=WRITES).end()
        assert code == 1 and "dies ended with status 7" in errors

    def test_an_old_vllm(self, hosting):
        pair = hosting("big", "small", "--device", "cpu", env={"FAKE_VLLM_VERSION": "0.6.3.post1"})
        pair.hosts()
        assert pair.end(signal.SIGINT)[0] == 130
        for log in pair.ready_file.parent.glob("logs/*.log"):
            assert "--generation-config" not in log.read_text()

    def test_kill_9_leaves_no_server(self, hosting):
        pair = hosting("big", "small", "--device", "cpu")
        pair.hosts()
        pair.end(signal.SIGKILL)
        pair.leaves_nothing()

    def test_a_second_signal_ends_servers_that_do_not_want_to(self, hosting):
        pair = hosting("stubborn", "small", "--device", "cpu")
        other = pair.hosts()["NUDGING_HOST"]
        pair.process.send_signal(signal.SIGINT)
        wait_until(
            lambda: not answers(other.removesuffix("/v1") + "/health"), "the other server has ended", pair.process
        )
        assert pair.end(signal.SIGINT)[0] == 130
        pair.leaves_nothing()

    def test_a_server_that_dies_while_it_starts(self, hosting):
        code, output, errors = hosting("hangs", "dies", "--device", "cpu").end()
        assert code == 1 and not output and "Traceback" not in errors and "\x1b" not in errors
        assert "error: dies ended with status 7; the last lines of" in errors
        assert errors.endswith("the first error in it: ValueError: the model is odd\n")

    def test_a_server_that_dies_later(self, hosting):
        pair = hosting("big", "small", "--device", "cpu")
        with contextlib.suppress(OSError):  # it dies before it answers
            urllib.request.urlopen(pair.hosts()["NUDGING_HOST"].removesuffix("/v1") + "/die", timeout=HANG)
        code, _, errors = pair.end()
        assert code == 1 and "small ended with status 9" in errors

    def test_a_server_that_does_not_come_up(self, hosting):
        code, _, errors = hosting("hangs", "small", "--device", "cpu", "--start_timeout", "1").end()
        # On a slow machine the other one may take more than a second, too.
        assert code == 1 and re.search(r"(hangs|small) does not answer after 1 s \(--start_timeout\)", errors)

    def test_the_log_of_a_server_that_does_not_come_up(self, tmp_path):
        said = "\n".join(f"\x1b[1mline {i}\x1b[0m" for i in range(20)) + "\n"
        log, command = tmp_path / "log", ["bash", "-c", f"printf '%s' '{said}'; exec sleep {HANG}"]
        process = Process("silent", log, f"http://127.0.0.1:{free_port()}/health", command, {})
        assert log.stat().st_mode & 0o077 == 0  # vLLM's own log shows its key
        try:
            wait_until(lambda: log.read_text() == said, "its log is written", process.process)
            with pytest.raises(HostingError) as error:
                wait_until_ready([process], timeout=0)
        finally:
            stop([process])
        head, *lines = str(error.value).splitlines()
        assert head == f"silent does not answer after 0 s (--start_timeout); the last lines of {log}:"
        assert lines == [f"    line {i}" for i in range(8, 20)]

    def test_a_port_in_use(self, hosting):
        with socket.create_server(("127.0.0.1", 0)) as other:
            pair = hosting(
                "a", "b", "--device", "cpu", "--proxy_base", "c", "--proxy_base_port", str(other.getsockname()[1])
            )
            code, _, errors = pair.end()
        assert code == 1 and "Address already in use; --proxy_base_port names another port" in errors

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            ({"FAKE_NO_VLLM": "1"}, "has no vLLM. Install it there"),
            ({"VLLM_PYTHON": "/nowhere/python"}, "/nowhere/python cannot be run (No such file or directory)"),
        ],
    )
    def test_no_vllm(self, hosting, env, message):
        code, _, errors = hosting("big", "small", "--device", "cpu", env=env).end()
        assert code == 1 and message in errors and len(errors.splitlines()) == 1

    def test_bundled_models_that_cannot_be_made(self, hosting, tmp_path):
        # the stand-in does not convert: it fails at once
        pair = hosting("demo-base", "small", "--device", "cpu", env={"NUDGING_CACHE": str(tmp_path / "empty")})
        code, _, errors = pair.end()
        assert (
            code == 1 and "serve_models.sh: error: scripts/get_demo_models.py --transformers demo-base failed" in errors
        )
