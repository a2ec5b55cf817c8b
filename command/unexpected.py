"""Errors that nobody expected: faults of the program, which a plain line would hide."""

import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from command.errors import UserError
from command.secrets import hide

ROOT = Path(__file__).resolve().parents[1]
REPORT = "this is a fault of the program: please report it, with the lines above"
_FRAMES = 12
_LONGEST = 3500  # characters; a line on a terminal ends before 4000


def is_ours(error: BaseException) -> bool:
    """Whether an error arose in a line of this program, not in that of a library; what has no memory is no fault of a line.

    A NotImplementedError says what a line of ours does not do, which is none either.
    """
    if isinstance(error, MemoryError | UserError | NotImplementedError):
        return False
    if isinstance(error, RuntimeError) and "memory" in str(error):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    where = Path(frames[-1].filename) if frames else Path()
    return where.is_relative_to(ROOT) and "site-packages" not in where.parts


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, as Python prints it, of limited length and without keys; its end tells most."""
    text = hide("".join(traceback.format_exception(error, limit=-_FRAMES)).rstrip())
    return text if len(text) <= _LONGEST else f"... {text[-_LONGEST:]}"


def told_with(told: UserError, error: BaseException) -> UserError:
    """The same plain error, with the traceback of the one behind it."""
    told.traceback = traceback_of(error)
    return told


def plain(error: BaseException) -> str:
    """An error in a line, of limited length."""
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told}"[:500] if told else type(error).__name__


@dataclass
class Unexpected:
    """The unexpected errors of a run: each is told once with its traceback, and counted.

    Args:
        say: told the traceback.
    """

    say: Callable[[str], None] = lambda line: None
    _first: dict[tuple, str] = field(default_factory=dict)
    _counts: Counter = field(default_factory=Counter)
    _adding: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, trace: str) -> None:
        """Count an error by its traceback, and tell it where it is new."""
        with self._adding:
            kind = _kind(trace)
            new = kind not in self._first
            self._first.setdefault(kind, trace)
            self._counts[kind] += 1
        if new:
            self.say(f"unexpected error\n{trace}\n{REPORT}")

    @property
    def found(self) -> list[dict]:
        """Each error with its traceback and how often it came, for run.json."""
        return [{"traceback": trace, "times": self._counts[kind]} for kind, trace in self._first.items()]


def _kind(trace: str) -> tuple[str, ...]:
    """The lines that an error went through, and its class: its message may name the sample."""
    return (*re.findall(r'^ +File ".*', trace, re.M), *re.findall(r"^(\w[\w.]*)(?::|$)", trace, re.M))
