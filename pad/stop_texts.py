"""Texts that end an answer (--stop), looked for while its tokens come."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from language_models.local.vocabulary import GrowingText


class StopTexts:
    """Looks for some texts in one answer as it grows.

    Args:
        texts: none of them empty.
        growing: the text of the answer's tokens, none of which have come.
    """

    def __init__(self, texts: Sequence[str], growing: "GrowingText"):
        self._texts = texts
        self._longest = max(map(len, texts))
        self._growing = growing
        self._tail = ""  # the end of the answer so far, as far as a text may begin in it

    def found_in(self, token: int) -> bool:
        """Whether one of the texts is there once a token is added."""
        text = self._tail + self._growing.add(token)
        self._tail = text[-(self._longest - 1) :] if self._longest > 1 else ""
        return any(stop in text for stop in self._texts)


def cut_at(texts: Sequence[str], answer: str) -> str:
    """An answer up to the first of some texts in it."""
    return answer[: min((at for text in texts if (at := answer.find(text)) >= 0), default=None)]
