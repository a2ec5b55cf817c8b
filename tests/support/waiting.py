"""Waiting in tests: until something holds, however slow the machine is. The one limit is a guard against hangs."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

HANG = 1800  # seconds; many times what the slowest of these waits takes


def wait_until(
    condition: Callable[[], object],
    what: str = "",
    alive: subprocess.Popen | None = None,
    limit: float = HANG,
    pause: float = 0.01,
) -> object:
    """Wait until a condition holds, and return what it gave.

    Args:
        alive: a process that must not end before.
        limit: seconds; shorter than HANG where the wait is of milliseconds, so that a failure is known soon.
        pause: seconds between two looks; longer where a look starts a process.
    """
    until = time.monotonic() + limit
    while not (found := condition()):
        # The process may have brought the condition about as the last thing that it did.
        if alive is not None and alive.poll() is not None and not (found := condition()):
            raise AssertionError(f"{alive.args} ended with {alive.returncode} before {what or 'what was waited for'}")
        assert time.monotonic() < until, f"{what or condition}: not within {limit} s"
        if found:
            break
        time.sleep(pause)
    return found


def records_in(folder: Path) -> int:
    """How many lines the logs (.jsonl) below a run's output folder hold."""
    return sum(log.read_bytes().count(b"\n") for log in folder.rglob("*.jsonl"))


def finish(process: subprocess.Popen) -> tuple[str, str]:
    """A process's output and error output, after its end; one that hangs is killed."""
    try:
        return process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def in_threads(functions: list[Callable[[], object]]) -> None:
    """Run functions side by side to their end; what one of them raises is raised."""
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), f"a thread hangs for {HANG} s"
    if errors:
        raise errors[0]
