"""Attacks on standard output and error, and signals at moments when nobody expects them: the work goes on, or ends in one line."""

import atexit
import functools
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ScriptedServer
from runs import REPOSITORY, final_records, gsm8k_rows, nudging_options, write_rows
from waiting import wait_until

QUESTIONS = 3
FIXTURE = REPOSITORY / "tests/fixtures/run_of_an_earlier_version"
COMMANDS = [
    *("run_api.py", "eval_utils.py", "collect_model_outs.py", "measure_reward.py"),
    *(
        f"scripts/{name}.py"
        for name in ("report", "results_table", "sweep", "merge_shards", "serve_models", "paper_table")
    ),
    *("scripts/fit_scorer.py", "scripts/demo_screen.py", "scripts/get_demo_models.py"),
]
# A shell that starts attacks in the background has Ctrl-C ignored.
HEEDS_SIGNALS = {"preexec_fn": lambda: [signal.signal(number, signal.SIG_DFL) for number in (1, 2, 15)]}
HIDDEN = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


@functools.cache
def server() -> ScriptedServer:
    started = ScriptedServer("--seed", "2").start()
    atexit.register(started.stop)
    return started


def gone() -> int:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def closed_terminal() -> int:
    """A terminal whose window is gone."""
    master, slave = pty.openpty()
    os.close(master)
    return slave


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def whole_run(*streams: str, broken: Callable[[], int]) -> Callable[[Path], Outcome]:
    """A run of nudging, of which some streams are broken, has to leave all results."""

    def run(folder: Path) -> Outcome:
        data = write_rows(folder / "data", "gsm8k", gsm8k_rows(QUESTIONS))
        opened = {stream: broken() for stream in streams}
        try:
            outcome = run_command("run_api.py", *nudging_options(server().host, data, folder / "out"), **opened)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
        assert len(final_records(folder / "out")) == QUESTIONS and list((folder / "out").rglob("*.summary.json"))
        return outcome

    return run


def closed(*descriptors: int) -> Callable[[Path], Outcome]:
    """The same with closed descriptors: no file of results may get what is written to them."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    def run(folder: Path) -> Outcome:
        data = write_rows(folder / "data", "gsm8k", gsm8k_rows(QUESTIONS))
        options = nudging_options(server().host, data, folder / "out")
        outcome = run_command("run_api.py", *options, preexec_fn=close)
        assert len(final_records(folder / "out")) == QUESTIONS
        return outcome

    return run


def with_streams(script: str, *options: object, **streams: Callable[[], int]) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        opened = {name: open_it() for name, open_it in streams.items()}
        try:
            return run_command(script, *(str(option).replace("{folder}", str(folder)) for option in options), **opened)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    return run


def help_into_nothing(folder: Path) -> Outcome:
    """--help of every command, whose reader is gone."""
    began, said = time.monotonic(), ""
    for script in COMMANDS:
        outcome = with_streams(script, "--help", stdout=gone)(folder)
        assert outcome.exit_code == 0, (script, outcome)
        said += outcome.stderr
    assert said == "", said
    return Outcome(0, time.monotonic() - began, "", said)


def signalled(script: str, *options: object, number: int, until: Callable[[int], object]) -> Callable[[Path], Outcome]:
    """A command that gets a signal as soon as something holds of its process."""

    def run(folder: Path) -> Outcome:
        words = [str(option).replace("{folder}", str(folder)) for option in options]
        began = time.monotonic()
        with subprocess.Popen([sys.executable, str(REPOSITORY / script), *words], **HIDDEN, **HEEDS_SIGNALS) as process:
            wait_until(lambda: until(process.pid), "the moment", process, 60)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1].decode()
        assert said.count("\n") == 1, said
        return Outcome(process.returncode, time.monotonic() - began, "", said)

    return run


def while_connecting(number: int) -> Callable[[Path], Outcome]:
    """A run that gets a signal while it waits for the first word of a server."""

    def run(folder: Path) -> Outcome:
        data = write_rows(folder / "data", "gsm8k", gsm8k_rows(QUESTIONS))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            asked = threading.Event()
            threading.Thread(target=lambda: asked.set() if silent.accept() else None, daemon=True).start()
            host = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            options = nudging_options(host, data, folder / "out")
            return signalled("run_api.py", *options, number=number, until=lambda _: asked.is_set())(folder)

    return run


def catches(number: int) -> Callable[[int], bool]:
    """Whether a process has a handler for a signal: it is then among its first imports."""

    def handler_is_there(pid: int) -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(line.split()[1], 16) >> (number - 1) & 1)

    return handler_is_there


def has_loaded(library: str) -> Callable[[int], bool]:
    return lambda pid: library in Path(f"/proc/{pid}/maps").read_text()


PIPES = ("stdout", "stderr")
ATTACKS = [
    Attack("terminal", "reader of both streams gone", whole_run(*PIPES, broken=gone)),
    Attack("terminal", "full disk below stdout", whole_run("stdout", broken=full), says="not written whole"),
    Attack("terminal", "full disk below stderr", whole_run("stderr", broken=full)),
    Attack("terminal", "closed terminal", whole_run(*PIPES, broken=closed_terminal)),
    Attack("terminal", "closed stdout", closed(1)),
    Attack("terminal", "closed stdin, stdout, stderr", closed(0, 1, 2)),
    Attack("terminal", "--help of every command to nobody", help_into_nothing, seconds=200),
    Attack("terminal", "results_table to nobody", with_streams("scripts/results_table.py", FIXTURE, stdout=gone)),
    Attack(
        "terminal",
        "results_table > full disk",
        with_streams("scripts/results_table.py", FIXTURE, stdout=full),
        exit_code=2,
        says="standard output cannot be written",
    ),
    Attack(
        "terminal",
        "report to nobody",
        with_streams("scripts/report.py", FIXTURE, "-o", "{folder}/report.html", stdout=gone, stderr=gone),
    ),
    Attack("terminal", "an error, told to nobody", with_streams("run_api.py", stderr=gone), exit_code=2),
    Attack("terminal", "an error, and a full disk", with_streams("run_api.py", "--x", stderr=full), exit_code=2),
    *(
        Attack(
            "terminal",
            f"{signal.Signals(number).name} while {script} is imported",
            signalled(script, "{folder}", number=number, until=catches(signal.SIGTERM)),
            exit_code=128 + number,
            says="interrupted before it began",
        )
        for script, number in (
            ("run_api.py", signal.SIGINT),
            ("run_api.py", signal.SIGHUP),
            ("measure_reward.py", signal.SIGTERM),
            ("scripts/report.py", signal.SIGINT),
        )
    ),
    Attack(
        "terminal",
        "SIGINT in the middle of numpy's import",
        signalled("run_api.py", number=signal.SIGINT, until=has_loaded("_multiarray_umath")),
        exit_code=130,
        says="interrupted before it began",
    ),
    *(
        Attack(
            "terminal",
            f"{signal.Signals(number).name} while a server is waited for",
            while_connecting(number),
            exit_code=128 + number,
            says="interrupted; what is finished is saved",
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ),
]
