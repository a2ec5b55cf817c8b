"""Ctrl-C, the SIGTERM by which schedulers announce the end of a job, and the SIGHUP of a terminal that is closed.

No new samples, then out, with what is finished saved.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

from command.entry import SIGNALS, leave_at_once

INTERRUPTED = 130
TERMINATED = 143
HUNG_UP = 129
# Slurm sends SIGKILL 30 s after SIGTERM (KillWait), and a preempting partition may leave less.
GRACE_SECONDS = 5.0


_ENDING = tuple(number for number in SIGNALS if number != signal.SIGINT)  # SIGTERM, and SIGHUP where there is one


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, outside of the answering of samples; whatever cleans up after Ctrl-C cleans up after it too."""

    def __init__(self, exit_code: int = TERMINATED):
        super().__init__(exit_code)
        self.exit_code = exit_code


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted: 130, or after another signal that one's."""
    return stop.exit_code if isinstance(stop, Terminated) else INTERRUPTED


def raise_on_signals() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt in the main thread, and the first SIGTERM or SIGHUP Terminated.

    Later ones of these two do nothing. A SIGHUP that is ignored, as under nohup, stays so.
    """

    def on_end(number: int, _) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(SIGNALS[number])

    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _ENDING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_end)


class StopSignals:
    """While this context lasts, signals ask the work inside to stop instead of ending it.

    The first Ctrl-C asks for no new work, the second ends the process at once. SIGTERM and SIGHUP ask the same as the first
    Ctrl-C, and what is in flight has GRACE_SECONDS. Signals reach the main thread alone; in another one nothing changes.
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
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)
            for number in _ENDING:
                if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._previous[number] = signal.signal(number, self._on_end)
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for number, handler in self._previous.items():
            # A scheduler may repeat its SIGTERM; the writing of the files that follows must not be cut short by it.
            again = number in _ENDING and self._deadline is not None
            signal.signal(number, signal.SIG_IGN if again else handler)

    def _on_interrupt(self, *_) -> None:
        if self.exit_code:
            os._exit(self.exit_code)  # the log is flushed record by record: nothing finished is lost
        self.exit_code = INTERRUPTED
        self._stop.set()
        self._say("interrupted: no new samples; waiting for those in flight (once more: leave at once)")

    def _on_end(self, number: int, _) -> None:
        if self._deadline is not None:
            return
        self.exit_code = SIGNALS[number]
        self._deadline = time.monotonic() + self._grace
        self._stop.set()
        name = signal.Signals(number).name
        self._say(f"told to stop ({name}): no new samples; those in flight have {self._grace:g} s")
