"""Files of rows, as every command of reward-guided decoding reads them: a JSON array or JSON lines, whatever the suffix."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from command.json_text import parsed
from command.paths import decoded, is_file, read_text
from datasets_loader import DataError


def lines_of(text: str) -> list[str]:
    """The lines of a text, however its system ends them; the other marks that Python's splitlines knows stand within a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_rows(path: Path, say: Callable[[str], None]) -> list:
    """The values of a JSON array, or of JSON lines; blank lines are passed over, and a torn last line is left out with a note.

    Where the file is missing and one with the other of .json and .jsonl is there, that one is read with a note.

    Raises:
        DataError: it cannot be read, or holds something else; the line is named.
    """
    path = _existing(path, say)
    try:
        text = decoded(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else read_text(path)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    if text.lstrip().startswith("["):
        try:
            return parsed(text)
        except ValueError as error:
            raise DataError(f"{path}: not a JSON array ({error})") from None
    return _lines(text, path, say)


def _lines(text: str, path: Path, say: Callable[[str], None]) -> list:
    lines, rows = text.split("\n"), []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(parsed(line))
        except ValueError as error:
            if number == len(lines) and rows:  # no newline behind it: a run was killed while it wrote
                say(f"{path}, line {number}: torn off, left out")
                break
            raise DataError(f"{path}, line {number}: not a line of JSON ({error})") from None
    return rows


def _existing(path: Path, say: Callable[[str], None]) -> Path:
    if is_file(path):
        return path
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}.get(path.suffix, path.suffix))
    if other != path and is_file(other):
        say(f"{path} is not there; reading {other}")
        return other
    raise DataError(f"no file {path}")
