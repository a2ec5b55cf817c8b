"""Servers as process groups: started, waited for, watched, and stopped whatever happens to what started them."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from command.console import Command
from command.errors import UserError

POLL = 0.2  # seconds
PROGRESS_EVERY = 15.0
STOP_WITHIN = 15.0
TAIL_LINES = 12
PR_SET_PDEATHSIG = 1
_ERROR_LINE = re.compile(r"\b(\w*(?:Error|Exception): .+)")
_LOG_PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?([A-Z]+ \S+ \S+ \[\S+\] )?")  # vLLM's: process, level, time, place
_caught: list[int] = []


class HostingError(UserError):
    """Models cannot be hosted; the message says why and what to do."""


class Stopped(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


COMMAND = Command("serve_models.sh")
note = COMMAND.note


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def check_port(host: str, port: int, option: str) -> None:
    """Raise HostingError if a port cannot be listened on; `option` names another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise HostingError(f"{host}:{port}: {error.strerror or error}; {option} names another port") from None


def catch_signals() -> None:
    """Let Ctrl-C, TERM and a closed terminal end the waits below by Stopped instead of this process anywhere.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda caught, _: _caught.append(caught))


def pause() -> None:
    """A moment's wait.

    Raises:
        Stopped: a signal came.
    """
    if not _caught:
        time.sleep(POLL)
    if _caught:
        raise Stopped(_caught[0])


def _end_with_parent() -> None:
    # A server must not outlive a killed parent: it would keep its GPUs. Only Linux can promise that.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A server that runs in a process group of its own and writes into a log."""

    def __init__(
        self,
        name: str,
        log: Path,
        health: str,
        command: Sequence[str],
        environment: dict[str, str],
        stop_within: float = STOP_WITHIN,
    ):
        """
        Args:
            health: the URL that answers once it is ready.
            stop_within: seconds that it has after SIGTERM.
        """
        self.name, self.log, self.health, self.stop_within = name, log, health, stop_within
        self.started, self.ready = time.monotonic(), False
        # vLLM's log shows the key that it was given.
        with open(log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            log.chmod(0o600)
            try:
                self.process = subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                raise HostingError(f"{command[0]} cannot be run: {error.strerror}") from None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    def answers(self) -> bool:
        """Whether it says that it is well."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine's own
        with contextlib.suppress(OSError), opener.open(self.health, timeout=5) as reply:
            return reply.status == 200
        return False

    def is_alive(self) -> bool:
        """Whether anything of its process group runs."""
        self.process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 0)
            return True
        return False

    def send(self, number: int) -> None:
        """Send a signal to its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def log_lines(self) -> list[str]:
        """The last lines of its log, fit for a terminal."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 100_000))
            lines = file.read().decode(errors="replace").splitlines()
        return [shown[:240] for line in lines if (shown := re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e]+", "", line).strip())]

    def death(self) -> str:
        """What is to be said of its death: the status, the first error, and the last lines of its log."""
        lines = self.log_lines()
        errors = [found[1] for line in lines if (found := _ERROR_LINE.search(line))]
        said = f"{self.name} ended with status {self.process.returncode}; the last lines of {self.log}:\n"
        said += "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
        return said + (f"\nthe first error in it: {errors[0]}" if errors else "")


def wait_until_ready(processes: Sequence[Process], timeout: float, alive: Sequence[Process] = ()) -> None:
    """Wait until all answer.

    Args:
        timeout: seconds since each one's start.
        alive: others, which need not answer yet.

    Raises:
        HostingError: one died, or did not answer in time.
        Stopped: a signal came.
    """
    last_progress = time.monotonic()
    while waiting := [process for process in processes if not process.ready]:
        raise_deaths([*processes, *alive])
        for process in waiting:
            if process.answers():
                process.ready = True
                note(f"{process.name} answers after {process.seconds:.0f} s")
            elif process.seconds > timeout:
                tail = "\n".join(f"    {line}" for line in process.log_lines()[-TAIL_LINES:])
                raise HostingError(
                    f"{process.name} does not answer after {timeout:.0f} s (--start_timeout); the last lines of "
                    f"{process.log}:\n{tail}"
                )
        if time.monotonic() - last_progress > PROGRESS_EVERY:
            last_progress = time.monotonic()
            last_line = (waiting[0].log_lines() or ["nothing in its log yet"])[-1]
            last_line = _LOG_PREFIX.sub("", last_line)[:100]
            note(f"waiting for {', '.join(process.name for process in waiting)}: {last_line}")
        pause()


def raise_deaths(processes: Sequence[Process]) -> None:
    """Raise HostingError if one has died."""
    for process in processes:
        if process.process.poll() is not None:
            raise HostingError(process.death())


def wait_for_death(processes: Sequence[Process]) -> None:
    """Wait as long as all live.

    Raises:
        HostingError: one died.
        Stopped: a signal came.
    """
    while True:
        raise_deaths(processes)
        pause()


def stop(*groups: Sequence[Process]) -> None:
    """End the process groups, those of one argument after those before it: politely, then at once; a second signal shortens it."""
    signals = len(_caught)
    for processes in groups:
        until = time.monotonic() + max((process.stop_within for process in processes), default=0.0)
        for process in processes:
            process.send(signal.SIGTERM)
        while any(process.is_alive() for process in processes) and time.monotonic() < until and len(_caught) == signals:
            time.sleep(POLL)
        for process in processes:
            process.send(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(5)


def run_to_end(what: str, command: Sequence[str], cwd: Path | None = None) -> None:
    """Run a step that has a name; its output is the user's.

    Raises:
        HostingError: it failed; it has said why.
        Stopped: a signal came.
    """
    process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    try:
        while process.poll() is None:
            pause()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    if process.returncode:
        raise HostingError(f"{what} failed; the lines above say why")
