"""Preferences: what the answers should be like, as the text that the models read before the user's words.

The frame is that of PAD's published commands (Chen et al., ICLR 2025, arXiv 2410.04070).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from command.errors import OptionError
from command.paths import read_text
from command.schema import shown
from datasets_loader import DataError
from pad.rows import read_rows
from utils import without_surrogates

PLACE = "{principles}"
FRAME = (
    "[Guidelines] Your task is to generate response by considering the following principle. "
    f"[Principles] {PLACE} [Instruction] "
)
PREFERENCE_AS = ("prompt", "system")
_PRINCIPLES = re.compile(r"(\[Principles\]\s*)(.*?)(\s*\[Instruction\])", re.DOTALL)
_NAMED = re.compile(r"\s*([^:]*[^:\s])\s*:\s+(.*\S)\s*", re.DOTALL)


@dataclass(frozen=True)
class Preference:
    """A preference: the text before the user's words, what it is called in tables, and its principles where it was made of these.

    Without any preference all of them are empty.
    """

    text: str = ""
    name: str = ""
    principles: str | None = None

    def with_perspective(self, perspective: str | None) -> "Preference":
        """The same with other principles: what stands between [Principles] and [Instruction] is replaced.

        Raises:
            OptionError: there is no such place.
        """
        if perspective is None:
            return self
        if not _PRINCIPLES.search(self.text):
            raise OptionError(
                "a configuration's perspective replaces what stands between [Principles] and [Instruction] in --sys_prompt, "
                "which has no such place"
            )
        text = _PRINCIPLES.sub(lambda found: found[1] + perspective + found[3], self.text, count=1)
        return replace(self, text=text, name=perspective, principles=perspective)


NO_PREFERENCE = Preference()


def check_frame(frame: str, option: str = "--frame") -> None:
    """Raise OptionError unless a frame has a place for the principles."""
    if frame.count(PLACE) != 1:
        raise OptionError(f"{option} needs {PLACE} once, where the principles go; it is {frame!r}")


def from_principles(principles: str | Sequence[str], frame: str = FRAME, name: str = "") -> Preference:
    """The preference for some principles: "polite, brief" or ["polite", "brief"], which the frame has as "polite and brief".

    Raises:
        ValueError: there are none.
    """
    parts = principles.split(",") if isinstance(principles, str) else principles
    parts = [part.strip() for part in parts]
    if not parts or not all(parts):
        raise ValueError("a principle is empty" if any(parts) else "there are no principles")
    joined = without_surrogates(" and ".join(parts))
    return Preference(_apart(frame.replace(PLACE, joined)), without_surrogates(name) or joined, joined)


def from_text(text: str, *, apart: bool = True) -> Preference:
    """The preference of a text that is put before the user's words; `apart`: with a space between them, in any case.

    It is called by its principles where these stand between [Principles] and [Instruction], else by the whole text.
    """
    text = without_surrogates(text)
    principles = principles_in(text)
    return Preference(_apart(text) if apart else text, principles or " ".join(text.split()), principles)


def principles_in(text: str) -> str | None:
    """The principles of a text in PAD's frame; None where there are none."""
    found = _PRINCIPLES.search(text)
    return " ".join(found[2].split()) or None if found else None


def _apart(text: str) -> str:
    return text if not text or text[-1].isspace() else f"{text} "


def row_preference(row: dict, frame: str, where: str) -> Preference | None:
    """The preference that a row holds: "principles" (a text, or a list of texts) or "sys_prompt"; None where it has neither.

    Raises:
        DataError: it has both, or they are something else.
    """
    principles, text = row.get("principles"), row.get("sys_prompt")
    # The rows that collect_model_outs.py writes have both, the text made of the principles.
    if principles not in (None, "", []) and text:
        if isinstance(principles, str) and isinstance(text, str) and principles in text:
            return Preference(without_surrogates(text), principles, principles)
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


def read_preferences(path: Path, frame: str, say: Callable[[str], None]) -> list[Preference]:
    """The preferences of a --principles_file, in order.

    In a .json or .jsonl file they are texts (principles), or objects with "principles" or "sys_prompt", and perhaps a "name". In
    any other file each line is one: `polite, brief` or `short: polite, brief`; `#` begins a comment.

    Raises:
        OptionError: it cannot be read, holds none, or one that stands there twice.
    """
    try:
        if path.suffix in (".json", ".jsonl"):
            found = [_entry(row, frame, f"{path}, row {n}") for n, row in enumerate(read_rows(path, say), 1)]
        else:
            lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1)]
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
