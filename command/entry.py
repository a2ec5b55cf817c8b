"""The first and the last moment of a command: signals while it is still being imported, and an end without noise.

A file that is run as a command begins with

    if __name__ == "__main__":
        begin("run_api.py")

before the imports that take seconds, and ends with `end(main)`. Needs little of the standard library, which is here at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from command.streams import bear_everything, open_closed_descriptors

# What a command ends with after a signal, as shells have it. The first is missing on Windows.
SIGNALS = {number: 128 + number for name in ("SIGHUP", "SIGINT", "SIGTERM") if (number := getattr(signal, name, None))}
_name = "this command"


def begin(name: str) -> None:
    """From now on until `Command.run`, a signal ends the process with one line, and no broken stream ends it.

    Args:
        name: begins that line.
    """
    global _name
    _name = name
    open_closed_descriptors()
    bear_everything()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, or behind a shell's &
            signal.signal(number, leave_at_once)


def leave_at_once(number: int, _frame: object) -> NoReturn:
    """A signal's handler, for as long as there is nothing to save."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_name}: interrupted before it began\n".encode())
    os._exit(SIGNALS[number])


def end(main: Callable[[], int]) -> NoReturn:
    """Do a command's work and end the process with its exit code, without waiting for threads or for Python's own clean-up."""
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt as stop:  # once more, while the first one was being told
        code = getattr(stop, "exit_code", SIGNALS[signal.SIGINT])
    except BaseException as error:
        from command.unexpected import REPORT, traceback_of

        print(f"{_name}: unexpected error\n{traceback_of(error)}\n{REPORT}", file=sys.stderr)
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """End the process now: what is to be kept is in its files."""
    for number in SIGNALS:
        with contextlib.suppress(ValueError):  # not in the main thread
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(code))  # whoever reads may be slow
    sys.stdout.flush()
    if lost := getattr(sys.stdout, "lost", None):  # of --help: nobody has told it yet
        print(f"{_name}: warning: standard output was not written whole ({lost.strerror or lost})", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def run_module(module: str, name: str) -> NoReturn:
    """Be a command whose work is a module's `main`."""
    begin(name)
    end(lambda: import_module(module).main())
