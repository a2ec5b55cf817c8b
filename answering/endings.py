"""Where an answer ends that its models would go on with: at a stop sequence, or at a number of tokens.

Both take pieces of an answer in their order and give out what is final of them, cut where the answer ends.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from language_models.tokenizing import TextTokenizer
from nudging import Piece


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a piece; the parts of one piece have its `number`."""

    piece: Piece
    number: int

    def cut(self, start: int, end: int | None = None) -> "Part":
        """The characters from `start` to `end` of it."""
        return replace(self, piece=replace(self.piece, text=self.piece.text[start:end]))


class StopIndex:
    """Stop sequences, to be looked for in a text; made once, however many answers they end."""

    def __init__(self, texts: Iterable[str]):
        """
        Args:
            texts: none of them empty.
        """
        self._sorted = sorted(set(texts))
        self._all = set(self._sorted)
        self._lengths = sorted({len(text) for text in self._sorted})
        self._longest = max(self._lengths, default=0)

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def first(self, text: str) -> int | None:
        """Where the first begins that a text holds; None where it holds none."""
        for at in range(len(text)):
            for length in self._lengths:
                if at + length > len(text):
                    break
                if text[at : at + length] in self._all:
                    return at
        return None

    def kept(self, text: str) -> int:
        """How many characters at the end of a text may begin one."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if (i := bisect_left(self._sorted, tail)) < len(self._sorted) and self._sorted[i].startswith(tail):
                return length
        return 0


class StopSequences:
    """Ends an answer before the first of some texts; what may be the beginning of one is held back.

    Stop sequences may lie across pieces; the first is the one that begins first in the whole text, however that is cut into pieces.
    Of several that begin at one place it does not matter which it was.
    """

    def __init__(self, stops: StopIndex):
        self._stops = stops
        self._held: deque[Part] = deque()
        self.found = False

    def add(self, part: Part) -> Iterator[Part]:
        """What is final once a part has come; nothing more where `found`."""
        if not self._stops:
            yield part
            return
        self._held.append(part)
        text = self._text()
        at, open_from = self._stops.first(text), len(text) - self._stops.kept(text)
        # One that is not whole yet may begin before one that is.
        self.found = at is not None and at <= open_from
        yield from self._give(at if self.found else open_from)

    def rest(self) -> Iterator[Part]:
        """What was held back, where the answer ends by itself; a stop sequence may be `found` in it."""
        if self.found:
            return
        text = self._text()
        at = self._stops.first(text)
        self.found = at is not None
        yield from self._give(at if self.found else len(text))

    def _text(self) -> str:
        return "".join(part.piece.text for part in self._held)

    def _give(self, characters: int) -> Iterator[Part]:
        while characters > 0 and self._held:
            part = self._held.popleft()
            length = len(part.piece.text)
            if length > characters:
                self._held.appendleft(part.cut(characters))
                part = part.cut(0, characters)
            characters -= length
            yield part


class TokenLimit:
    """Ends an answer at a number of a tokenizer's tokens.

    The whole answer is cut into tokens only where it can have reached the limit: no token is less than a byte.
    """

    def __init__(self, tokenizer: TextTokenizer, most: int):
        self._tokenizer, self._most = tokenizer, most
        self._text = ""
        self._at_most = 0  # tokens of the text so far
        self.reached = False

    def add(self, part: Part) -> Iterator[Part]:
        """What of a part lies within the limit; the answer ends with it where the limit is `reached`.

        Raises:
            ModelError: the tokenizer's server does not answer.
        """
        text = part.piece.text
        whole = self._text + text
        self._at_most += len(text.encode("utf-8", "replace"))
        if self._at_most >= self._most:
            ids = self._tokenizer.encode(whole)
            self._at_most = len(ids)
            self.reached = len(ids) >= self._most
            if len(ids) > self._most:
                part = part.cut(0, len(self._within(whole, ids)) - len(self._text))
        self._text = whole
        if part.piece.text:
            yield part

    def _within(self, text: str, ids: list[int]) -> str:
        """The longest beginning of a text that is within the limit, and no shorter than what has been given out."""
        for most in range(self._most, 0, -1):
            beginning = self._tokenizer.decode(ids[:most])
            # The tokens of a part of a character, or a tokenizer that writes a text otherwise than it was.
            if len(beginning) <= len(self._text):
                break
            # By itself it may be cut into more tokens than as the beginning of a longer text.
            if text.startswith(beginning) and len(self._tokenizer.encode(beginning)) <= self._most:
                return beginning
        return self._text
