"""Ctrl-C, and the SIGTERM by which schedulers announce the end of a job: no new samples, then out, with what is finished saved."""

import os
import signal
import threading
import time
from collections.abc import Callable

INTERRUPTED = 130
TERMINATED = 143
# Slurm sends SIGKILL 30 s after SIGTERM (KillWait), and a preempting partition may leave less.
GRACE_SECONDS = 5.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, outside of the answering of samples; whatever cleans up after Ctrl-C cleans up after it too."""


def raise_on_sigterm() -> None:
    """From now on the first SIGTERM raises Terminated in the main thread, and later ones do nothing."""

    def on_term(*_) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)


class StopSignals:
    """While this context lasts, signals ask the work inside to stop instead of ending it.

    The first Ctrl-C asks for no new work, the second ends the process at once. SIGTERM asks the same as the first Ctrl-C, and
    what is in flight has GRACE_SECONDS. Signals reach the main thread alone; in another one nothing changes.
    """

    def __init__(self, say: Callable[[str], None], grace: float = GRACE_SECONDS):
        self.exit_code = 0
        self._say, self._grace = say, grace
        self._deadline: float | None = None
        self._stop = threading.Event()
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether no new work shall begin."""
        return self._stop.is_set()

    @property
    def overdue(self) -> bool:
        """Whether what is in flight shall be waited for no longer."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number, handler in ((signal.SIGINT, self._on_interrupt), (signal.SIGTERM, self._on_term)):
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for number, handler in self._previous.items():
            # A scheduler may repeat its SIGTERM; the writing of the files that follows must not be cut short by it.
            again = number == signal.SIGTERM and self.exit_code == TERMINATED
            signal.signal(number, signal.SIG_IGN if again else handler)

    def _on_interrupt(self, *_) -> None:
        if self.exit_code:
            os._exit(self.exit_code)  # the log is flushed record by record: nothing finished is lost
        self.exit_code = INTERRUPTED
        self._stop.set()
        self._say("interrupted: no new samples; waiting for those in flight (once more: leave at once)")

    def _on_term(self, *_) -> None:
        if self.exit_code == TERMINATED:
            return
        self.exit_code = TERMINATED
        self._deadline = time.monotonic() + self._grace
        self._stop.set()
        self._say(f"told to stop (SIGTERM): no new samples; those in flight have {self._grace:g} s")
