"""Preferences: what the answers should be like, as the text that the models read before the user's words.

The frame is that of PAD's published commands (Chen et al., ICLR 2025, arXiv 2410.04070).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from command.errors import OptionError
from utils import without_surrogates

PLACE = "{principles}"
FRAME = (
    "[Guidelines] Your task is to generate response by considering the following principle. "
    f"[Principles] {PLACE} [Instruction] "
)
PREFERENCE_AS = ("prompt", "system")
_PRINCIPLES = re.compile(r"(\[Principles\]\s*)(.*?)(\s*\[Instruction\])", re.DOTALL)


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
