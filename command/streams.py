"""Standard output and error that bear everything: a reader that is gone, a full disk, a closed terminal, closed descriptors."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

# Whoever reads has had enough, or there is nobody; anything else is a loss that must be told.
NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESHUTDOWN, errno.ECONNRESET)


class Bearing:
    """A text stream that takes whatever is written, also where what lies behind it cannot; `fault` is why it could not."""

    def __init__(self, stream: io.TextIOBase):
        self.stream = stream
        self.fault: OSError | None = None
        self.told = False  # whether its user knows of the fault

    def write(self, text: str) -> int:
        """Write; returns the length of the text, whatever became of it."""
        try:
            self.stream.write(text)
        except OSError as error:
            self.fault = error
        except ValueError:  # it is closed
            pass
        except RuntimeError:  # a signal's handler says something in the middle of another write
            with contextlib.suppress(OSError, ValueError):
                os.write(self.stream.fileno(), text.encode(errors="backslashreplace"))
        return len(text)

    def writelines(self, lines) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what can be."""
        try:
            self.stream.flush()
        except OSError as error:
            self.fault = error
        except (ValueError, RuntimeError):
            pass

    @property
    def lost(self) -> OSError | None:
        """Why something that somebody waits for was not written; None where all was, nobody reads, or it has been told."""
        nobody_waits = self.fault is None or self.fault.errno in NOBODY_READS
        return None if nobody_waits or self.told else self.fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Nowhere(io.TextIOBase):
    """Stands for a stream that Python has not: its descriptor was closed."""

    def write(self, text: str) -> int:
        return len(text)


def bear_everything() -> None:
    """Make standard output and error streams that no write to them raises."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Bearing):
            continue
        stream = stream or _Nowhere()
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Bearing(stream))


@contextlib.contextmanager
def bearing_everything() -> Iterator[None]:
    """The same for as long as the context lasts."""
    before = sys.stdout, sys.stderr
    bear_everything()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def open_closed_descriptors() -> None:
    """Open what is closed of the descriptors 0 to 2 to nothing: the next file opened would be one of them, a log of results say."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))
