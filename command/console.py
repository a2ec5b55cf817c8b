"""What a command says to its user, and the code that it ends with."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from command.entry import leave
from command.errors import UserError
from command.secrets import hide
from command.stopping import exit_code, raise_on_signals
from command.streams import Bearing, bearing_everything
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


def _lost_output() -> str:
    """Why standard output lacks something that somebody waits for; "" where it lacks nothing."""
    sys.stdout.flush()
    lost = sys.stdout.lost if isinstance(sys.stdout, Bearing) else None
    return lost.strerror or str(lost) if lost else ""


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
            The code of `work`; 2 after a UserError, which is told in a line; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP;
            1 after an error that nobody expected, which is told with its traceback.
        """
        raise_on_signals()
        with bearing_everything(), self._ended_by_lost_interrupts(interrupted):
            try:
                return work()
            except (UserError, *errors) as error:
                if trace := getattr(error, "traceback", ""):
                    self.note(f"unexpected error\n{trace}\n{REPORT}")
                self.note(f"error: {error}")
                return CANNOT_START
            except OSError as error:
                if error.filename is None:
                    return self._unexpected(error)
                self.note(f"error: {error.filename}: {error.strerror}")  # a file of the user's, and why
                return CANNOT_START
            except KeyboardInterrupt as stop:
                self.note(interrupted)
                return exit_code(stop)
            except Exception as error:
                return self._unexpected(error)
            finally:
                if lost := _lost_output():
                    sys.stdout.told = True
                    self.note(f"warning: standard output was not written whole ({lost})")

    def _unexpected(self, error: Exception) -> int:
        self.note(f"unexpected error\n{traceback_of(error)}\n{REPORT}")
        return INCOMPLETE

    def show(self, text: str, end: str = "\n") -> None:
        """Print what the command is there for; a reader that has had enough is no error.

        Raises:
            UserError: standard output cannot take it.
        """
        print(text, end=end)
        self.check_shown()

    def check_shown(self) -> None:
        """Raise UserError if standard output could not take all that was printed."""
        if lost := _lost_output():
            sys.stdout.told = True
            raise UserError(f"standard output cannot be written ({lost})")

    @contextlib.contextmanager
    def _ended_by_lost_interrupts(self, interrupted: str) -> Iterator[None]:
        """Ctrl-C in a finalizer or a callback raises where Python only prints it, and the command would go on."""
        before = sys.unraisablehook

        def hook(lost: "sys.UnraisableHookArgs") -> None:
            if not isinstance(lost.exc_value, KeyboardInterrupt):
                return before(lost)
            self.note(interrupted)
            leave(exit_code(lost.exc_value))

        sys.unraisablehook = hook
        try:
            yield
        finally:
            sys.unraisablehook = before
