"""What a command says to its user, and the code that it ends with."""

import contextlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from command.errors import UserError
from command.secrets import hide
from command.stopping import INTERRUPTED, TERMINATED, Terminated, raise_on_sigterm
from command.unexpected import REPORT, traceback_of

CANNOT_START = 2
INCOMPLETE = 1
LONGEST_SHOWN = 4000
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def visible(text: str) -> str:
    """A text in which control characters, lone surrogates and marks that reorder text stand as escapes such as \\x1b."""

    def shown(c: re.Match) -> str:
        return f"\\x{ord(c[0]):02x}" if ord(c[0]) < 256 else f"\\u{ord(c[0]):04x}"

    return _INVISIBLE.sub(shown, text)


def for_terminal(text: str) -> str:
    """A text that others wrote, as a terminal can bear it: without control characters, of limited length."""
    return visible(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + f" ... ({len(text)} characters)")


def _above_progress_bars() -> contextlib.AbstractContextManager[None]:
    # Hosting models needs the standard library alone, and no bar is shown where tqdm is not loaded.
    tqdm = sys.modules.get("tqdm")
    return tqdm.tqdm.external_write_mode(sys.stderr) if tqdm else contextlib.nullcontext()


@dataclass(frozen=True)
class Command:
    """A command as its user meets it; `name` begins each line that it says."""

    name: str

    def note(self, message: object) -> None:
        """Say a line on standard error, above any progress bar."""
        with _above_progress_bars():
            print(f"{self.name}: {for_terminal(hide(str(message)))}", file=sys.stderr, flush=True)

    def run(
        self,
        work: Callable[[], int],
        *,
        interrupted: str = "interrupted",
        errors: tuple[type[Exception], ...] = (),
    ) -> int:
        """Do the work of the command; returns the exit code.

        Args:
            work: returns the exit code where nothing goes wrong.
            interrupted: what is said after Ctrl-C or SIGTERM.
            errors: further exceptions that are told like a UserError.

        Returns:
            The code of `work`; 2 after a UserError, which is told in a line; 130 after Ctrl-C, 143 after SIGTERM; 1 after an
            error that nobody expected, which is told with its traceback.
        """
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")
        raise_on_sigterm()
        try:
            return work()
        except (UserError, *errors) as error:
            if trace := getattr(error, "traceback", ""):
                self.note(f"unexpected error\n{trace}\n{REPORT}")
            self.note(f"error: {error}")
            return CANNOT_START
        except KeyboardInterrupt as stop:
            self.note(interrupted)
            return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        except Exception as error:
            self.note(f"unexpected error\n{traceback_of(error)}\n{REPORT}")
            return INCOMPLETE
