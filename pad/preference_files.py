"""Preferences as files have them: in rows of prompts, and one after the other in a --principles_file."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from command.errors import OptionError
from command.paths import read_text
from command.schema import shown
from datasets_loader import DataError
from pad.preferences import Preference, from_principles, from_text
from pad.rows import lines_of, read_rows
from utils import without_surrogates

_NAMED = re.compile(r"\s*([^:]*[^:\s])\s*:\s+(.*\S)\s*", re.DOTALL)


def row_preference(row: dict, frame: str, where: str) -> Preference | None:
    """The preference that a row holds: "principles" (a text, or a list of texts) or "sys_prompt"; None where it has neither.

    Raises:
        DataError: it has both, or they are something else.
    """
    principles, text = (_unless_blank(row.get(name)) for name in ("principles", "sys_prompt"))
    if text and is_output(row) and (principles is None or _one_line(principles) in _one_line(text)):
        return _preference_of_output(row)
    if principles not in (None, "", []) and text:
        raise DataError(f"{where}: it has principles and a sys_prompt; leave one of them out")
    if text:
        if not isinstance(text, str):
            raise DataError(f"{where}: sys_prompt must be a text; it is {shown(text)}")
        return from_text(text)
    if principles in (None, "", []):
        return None
    if not isinstance(principles, str) and not (
        isinstance(principles, list) and all(isinstance(one, str) for one in principles)
    ):
        raise DataError(f"{where}: principles must be a text or a list of texts; they are {shown(principles)}")
    try:
        return from_principles(principles, frame)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def is_output(row: dict) -> bool:
    """Whether collect_model_outs.py has written a row: its prompt has the text of the preference in front of the user's words."""
    parts = [row.get(name) for name in ("sys_prompt", "instruction", "prompt")]
    return all(isinstance(part, str) for part in parts) and parts[0] + parts[1] == parts[2]


def _unless_blank(value: object) -> object:
    """A value; None for a cell of a table that says nothing."""
    return None if isinstance(value, str) and not value.strip() else value


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _preference_of_output(row: dict) -> Preference:
    """The preference by which a row was answered, as it was called then."""
    found = from_text(row["sys_prompt"], apart=False)
    name, principles = row.get("preference"), row.get("principles")
    return replace(
        found,
        name=without_surrogates(name) if isinstance(name, str) and name else found.name,
        principles=without_surrogates(principles) if isinstance(principles, str) else found.principles,
    )


def read_preferences(path: Path, frame: str, say: Callable[[str], None]) -> list[Preference]:
    """The preferences of a --principles_file, in order.

    In a .json or .jsonl file they are texts (principles), or objects with "principles" or "sys_prompt", and perhaps a "name". In
    any other file each line is one: `polite, brief` or `short: polite, brief`; one that begins with `#` is a comment.

    Raises:
        OptionError: it cannot be read, holds none, or one that stands there twice.
    """
    try:
        if path.suffix in (".json", ".jsonl"):
            found = [_entry(row, frame, f"{path}, row {n}") for n, row in enumerate(read_rows(path, say), 1)]
        else:
            lines = [(n, line.strip()) for n, line in enumerate(lines_of(read_text(path)), 1)]
            lines = [(n, line) for n, line in lines if line and not line.startswith("#")]
            found = [_line(line, frame, f"{path}, line {n}") for n, line in lines]
    except DataError as error:
        raise OptionError(f"--principles_file: {error}") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"--principles_file {path} cannot be read ({error})") from None
    if not found:
        raise OptionError(f"--principles_file {path} holds no preferences; a line of it is: polite, brief")
    name, times = Counter(one.name for one in found).most_common(1)[0]
    if times > 1:
        raise OptionError(f"--principles_file {path} has the preference {name!r} twice; give each a name of its own")
    return found


def _line(line: str, frame: str, where: str) -> Preference:
    named = _NAMED.fullmatch(line)
    try:
        return from_principles(named[2], frame, named[1]) if named else from_principles(line, frame)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _entry(row: object, frame: str, where: str) -> Preference:
    row = {"principles": row} if isinstance(row, str) else row
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a preference is a text, or an object with principles or sys_prompt; it is {shown(row)}"
        )
    if unknown := row.keys() - {"principles", "sys_prompt", "name"}:
        raise DataError(f"{where}: {min(unknown)!r} is no part of a preference: name, principles, sys_prompt")
    name = row.get("name")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise DataError(f"{where}: name must be a text; it is {shown(name)}")
    found = row_preference(row, frame, where)
    if found is None:
        raise DataError(f"{where}: there are no principles, and no sys_prompt")
    return replace(found, name=name.strip()) if name else found
