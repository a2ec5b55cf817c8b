"""A log of JSON lines that outlives kills and the loss of its file, and JSON files beside it."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from command.files import ResultsError, not_writable, saved_elsewhere, write_atomically
from command.json_text import parsed
from command.paths import read_text
from command.schema import read_as

_OTHER_LETTERS = re.compile("[^\x00-\x7e]")
_JOINERS = "\u200c\u200d"  # which letters of some alphabets need between them


def json_lines(entries: Iterable[dict], *, readable: bool = False) -> str:
    """The text of a log: an entry a line.

    `readable`: other letters than ASCII's stand there as they are. What is appended to a log has none, so that a kill cannot tear
    one apart.
    """
    text = "".join(json.dumps(entry, ensure_ascii=not readable) + "\n" for entry in entries)
    return _OTHER_LETTERS.sub(_readable, text) if readable else text


def _readable(found: re.Match) -> str:
    """A character as it is, or escaped: ends of lines, marks that turn a text around, halves of characters."""
    character = found[0]
    return character if character.isprintable() or character in _JOINERS else json.dumps(character)[1:-1]


def whole_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Line number from 1 and value of each whole line of a log; where it cannot be used, the ValueError that says why.

    What stands behind the last newline was torn off by a kill, and is left out.
    """
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            yield number, parsed(line)
        except ValueError as error:
            yield number, error


def not_an_object(value: object) -> str:
    """Why a line of a log is no object, for messages."""
    return str(value) if isinstance(value, ValueError) else "not an object of JSON"


class JsonLog:
    """Appends entries to a file of JSON lines; each is on the disk when `append` returns.

    The file may be deleted or moved by others meanwhile, with its folder: it is written anew then, from what is in memory.
    What can be written nowhere near it is saved in a folder for temporary files, which the error names.

    Args:
        path: the file; its folder is there already.
        option: the option that chooses another place, for messages.
    """

    def __init__(self, path: Path, option: str):
        self.path, self._option = path, option
        self._file = None
        self._size = 0
        self._kept: Callable[[], Iterable[dict]] = tuple
        self._restore: Callable[[], None] = lambda: None
        self._say: Callable[[str], None] = lambda line: None

    def open(
        self,
        kept: Callable[[], Iterable[dict]] = tuple,
        say: Callable[[str], None] = lambda line: None,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        """Open it for appending; a line that a kill has torn is cut off.

        Args:
            kept: what the file holds, from memory.
            say: told in a line that the file was written anew.
            restore: called when the file's folder has been made anew, before the file is.

        Raises:
            ResultsError: it cannot be opened.
        """
        self._kept, self._say, self._restore = kept, say, restore
        try:
            if self.path.exists() and not self.path.is_file():
                raise OSError("a folder, a pipe or a device lies in its place")
            self._open()
            self._file.seek(max(0, self._size - 1))
            if self._file.read() not in (b"", b"\n"):
                self._file.seek(0)
                self._size = self._file.read().rfind(b"\n") + 1
                self._file.truncate(self._size)
        except OSError as error:
            self.close()
            raise not_writable(self.path, error, self._option) from None

    def _open(self) -> None:
        self._file = open(self.path, "a+b", buffering=0)  # a buffer would write again on closing what had no room
        self._size = self._file.seek(0, os.SEEK_END)

    def append(self, *entries: dict) -> None:
        """Add entries.

        Raises:
            ResultsError: the disk is full or gone, or another file has taken the log's place. What was written before stays
                readable, and the message says where the rest is.
        """
        try:
            if fate := self._fate():
                self._write_anew(fate, [*self._kept(), *entries])
                return
            text = json_lines(entries).encode()
            left = memoryview(text)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())  # an entry costs seconds of computing, this costs milliseconds
            self._size += len(text)
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line would spoil what is added to the file by hand
                os.ftruncate(self._file.fileno(), self._size)
            self.close()
            raise ResultsError(
                f"{self.path} cannot be written ({error}); what was finished before is kept, the same command continues; "
                + saved_elsewhere(self.path, json_lines(entries), f"what it lacks ({_counted(entries)})")
            ) from None

    def _fate(self) -> str:
        """What others have done with the file since it was opened; "" for nothing.

        Raises:
            OSError: the disk does not say.
        """
        mine = os.fstat(self._file.fileno())
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return "deleted or moved"
        if not os.path.samestat(mine, there):
            return "replaced by another file"
        return "cut short" if mine.st_size < self._size else ""

    def _write_anew(self, fate: str, entries: list[dict]) -> None:
        """Write the file again, unless there is another one in its place (ResultsError)."""
        told = f"{self.path} was {fate} while it was being written"
        text, counted = json_lines(entries), _counted(entries)
        self.close()
        try:
            if fate.startswith("replaced"):
                raise OSError("that file is left as it is")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._restore()
            write_atomically(self.path, text)
            self._open()
        except (OSError, ResultsError) as error:
            place = saved_elsewhere(self.path, text, f"all that is in memory ({counted})")
            raise ResultsError(f"{told} ({error}); {place}") from None
        self._say(f"warning: {told}; it was written anew with all that is in memory ({counted})")

    def rewrite(self, entries: Iterable[dict]) -> None:
        """Close it, and replace its entries.

        Raises:
            OSError: it cannot be written; the file stays as it was.
            ResultsError: another file has taken its place meanwhile; the message says where the entries are.
        """
        entries = list(entries)
        if self._file is not None and self._fate().startswith("replaced"):
            self._write_anew(self._fate(), entries)
        self.close()
        write_atomically(self.path, json_lines(entries, readable=True))

    def close(self) -> None:
        """Close the file; harmless where it is closed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _counted(entries: Iterable[dict]) -> str:
    number = len(list(entries))
    return f"{number} record{'s' * (number != 1)}"


def read_json(path: Path, remedy: str, kind: type | None = None) -> dict:
    """What a JSON file holds; empty if there is none.

    Args:
        remedy: what to do where it cannot be used, for messages.
        kind: the table (see command.schema) that the object has to fit in.

    Raises:
        ResultsError: it cannot be read, or holds no object, or another one than it should.
    """
    if not os.path.lexists(path):
        return {}
    try:
        found = parsed(read_text(path))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error}); {remedy}") from None
    if kind is not None:
        read_as(kind, found, path, ResultsError, remedy=remedy)
    return found


def write_json(path: Path, content: dict) -> None:
    """Write a JSON object.

    Raises:
        ResultsError: it cannot be written.
    """
    try:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ResultsError(f"{path} cannot be written ({error})") from None
