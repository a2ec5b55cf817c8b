"""Files of questions of one's own: their rows, each with the place where it stands.

A row is what the file's form has: an object of JSON, a record of a table, a line of text. What it means is rows.py's.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from command.json_text import parsed
from command.paths import decoded, is_file
from datasets_loader import DataError

LISTS = ("data", "questions")  # under which of these an object of JSON has its rows
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """A row as the file has it, by column, and where it stands: the file and a line, or the number of a row."""

    where: str
    values: dict = field(hash=False)


def rows_of(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a file, by its name's ending (FORMATS, each also with .gz behind it), and which of its keys were passed over.

    Raises:
        DataError: it cannot be read, or is not in its format; the message names the line.
    """
    read = FORMATS[format_of(path)]
    if not is_file(path):
        raise DataError(f"there is no file {path}")
    try:
        data = path.read_bytes()
        text = decoded(gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    passed_over: list[str] = []
    rows = list(read(path, text, passed_over))
    if not rows:
        raise DataError(f"{path} has no questions in it")
    return rows, passed_over


def format_of(path: Path) -> str:
    """Which of FORMATS a file's name says (DataError: none)."""
    name = path.name.lower().removesuffix(".gz")
    for ending in FORMATS:
        if name.endswith(ending):
            return ending
    raise DataError(f"{path}: how it is to be read is told by its name's ending: {', '.join(FORMATS)}, or with .gz")


def stem_of(path: Path) -> str:
    """A file's name without its format's ending."""
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(format_of(path))]


def _jsonl(path: Path, text: str, _: list[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removeprefix("\ufeff")  # of several files put together
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = parsed(line)
            except ValueError as error:
                hint = " (is the whole file one list? name it .json)" if line.strip() in ("[", "{", "[{") else ""
                raise DataError(f"{where}: {error}{hint}") from None
            yield Row(where, _object(value, where))


def _json(path: Path, text: str, passed_over: list[str]) -> Iterator[Row]:
    try:
        content = parsed(text)
    except ValueError as error:
        hint = " (is each line an object of its own? name it .jsonl)" if "Extra data" in str(error) else ""
        raise DataError(f"{path}: {error}{hint}") from None
    if isinstance(content, dict):
        lists = [name for name in LISTS if name in content]
        if len(lists) != 1 or not isinstance(content[lists[0]], list):
            raise DataError(f"{path} must be a list of questions, or an object with one under {' or '.join(LISTS)}")
        passed_over += [name for name in content if name != lists[0]]
        content = content[lists[0]]
    if not isinstance(content, list):
        raise DataError(f"{path} must be a list of questions, or an object with one under {' or '.join(LISTS)}")
    for number, value in enumerate(content, 1):
        where = f"{path}, row {number}"
        yield Row(where, _object(value, where))


def _object(value: object, where: str) -> dict:
    """A row of JSON; a text by itself is a question."""
    if isinstance(value, str):
        return {"question": value}
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be an object with a question, or a text; it is {json.dumps(value)[:80]}")
    return value


def _table(delimiter: str) -> Callable[[Path, str, list[str]], Iterator[Row]]:
    def read(path: Path, text: str, _: list[str]) -> Iterator[Row]:
        csv.field_size_limit(_LONGEST_CELL)  # contexts may be long
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names: list[str] | None = None
        for where, cells in _records(path, lines):
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _header(where, cells, delimiter)
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{where}: it has {len(cells)} cell{'s' * (len(cells) != 1)} and the first line has {len(names)}; "
                    "a cell that holds the separator or a line's end stands in double quotes"
                )
            if nameless := [i for i, name in enumerate(names) if not name and cells[i].strip()]:
                raise DataError(f"{where}: there is a value in column {nameless[0] + 1}, which has no name")
            yield Row(where, {name: cell for name, cell in zip(names, cells, strict=True) if name})

    return read


def _records(path: Path, lines: "csv.Reader") -> Iterator[tuple[str, list[str]]]:
    while True:
        where = f"{path}, line {lines.line_num + 1}"
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where}: cannot be read as a row of a table ({error})") from None
        yield where, cells


def _header(where: str, cells: list[str], delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DataError(f"{where}: two columns have the name {twice!r}")
    others = [mark for mark in (";", ",", "\t") if mark != delimiter and mark in names[0]]
    if len(names) == 1 and others:
        raise DataError(
            f"{where}: its columns seem to be parted by {others[0]!r}; those of .csv are parted by commas, of .tsv by tabs"
        )
    return names


def _txt(path: Path, text: str, _: list[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Row(f"{path}, line {number}", {"question": line.strip()})


# To add a format: one entry here, which yields its rows and tells which keys it passed over.
FORMATS: dict[str, Callable[[Path, str, list[str]], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _txt,
}
