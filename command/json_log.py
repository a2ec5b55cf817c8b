"""A log of JSON lines that outlives kills, and JSON files beside it."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from command.files import ResultsError, not_writable, write_atomically
from command.paths import read_text
from command.schema import read_as


def json_lines(entries: Iterable[dict]) -> str:
    """The text of a log: an entry a line."""
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def whole_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Line number from 1 and value of each whole line of a log; None as the value where it is no JSON.

    What stands behind the last newline was torn off by a kill, and is left out.
    """
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


class JsonLog:
    """Appends entries to a file of JSON lines; each is on the disk when `append` returns.

    Args:
        path: the file; its folder is there already.
        option: the option that chooses another place, for messages.
    """

    def __init__(self, path: Path, option: str):
        self.path, self._option = path, option
        self._file = None

    def open(self) -> None:
        """Open it for appending; a line that a kill has torn is cut off.

        Raises:
            ResultsError: it cannot be opened.
        """
        try:
            self._file = open(self.path, "a+b")
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(0, size - 1))
            if self._file.read() not in (b"", b"\n"):
                self._file.seek(0)
                self._file.truncate(self._file.read().rfind(b"\n") + 1)
        except OSError as error:
            raise not_writable(self.path, error, self._option) from None

    def append(self, entry: dict) -> None:
        """Add an entry.

        Raises:
            ResultsError: the disk is full or gone. What was written before stays readable.
        """
        try:
            self._file.write(json_lines([entry]).encode())
            self._file.flush()
            os.fsync(self._file.fileno())  # an entry costs seconds of computing, this costs milliseconds
        except OSError as error:
            self.close()
            raise ResultsError(
                f"{self.path} cannot be written ({error}); what was finished before is kept, the same command continues"
            ) from None

    def rewrite(self, entries: Iterable[dict]) -> None:
        """Close it, and replace its entries (OSError: it cannot be written; the file stays as it was)."""
        self.close()
        write_atomically(self.path, json_lines(entries))

    def close(self) -> None:
        """Close the file; harmless where it is closed."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # bytes that could not be written are tried again on closing
                self._file.close()
            self._file = None


def read_json(path: Path, remedy: str, kind: type | None = None) -> dict:
    """What a JSON file holds; empty if there is none.

    Args:
        remedy: what to do where it cannot be used, for messages.
        kind: the table (see command.schema) that the object has to fit in.

    Raises:
        ResultsError: it cannot be read, or holds no object, or another one than it should.
    """
    if not os.path.exists(path):
        return {}
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read ({error}); {remedy}") from None
    if kind is not None:
        read_as(kind, found, path, ResultsError, remedy=remedy)
    return found


def write_json(path: Path, content: dict, hide: Callable[[str], str] = lambda text: text) -> None:
    """Write a JSON object.

    Args:
        hide: takes out of the text what must not be shown.

    Raises:
        ResultsError: it cannot be written.
    """
    try:
        write_atomically(path, hide(json.dumps(content, indent=2)) + "\n")
    except OSError as error:
        raise ResultsError(f"{path} cannot be written ({error})") from None
