"""How the new tokens of samples are put into passes of limited size."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from language_models.interface import ContextLengthError
from language_models.local.segments import MOST_IN_TREE, Segment


class Piece(NamedTuple):
    """Tokens of a segment that go into one pass, and the segment's number; the last `wanted` of them are looked at."""

    index: int
    segment: Segment
    begin: int
    end: int

    @property
    def wanted(self) -> int:
        return max(0, self.end - max(self.begin, len(self.segment.tokens) - self.segment.wanted))


def check(segments: Sequence[Segment], slots: int, longest: int) -> None:
    """See that segments can be computed together: on a GPU, what lies outside of the cache ends all passes that follow.

    Args:
        slots: how many the cache has.
        longest: tokens of the longest text.

    Raises:
        ValueError: they cannot, a fault of the program.
        ContextLengthError: a text is longer than the context window.
    """
    if len({segment.slot for segment in segments}) < len(segments):
        raise ValueError("two segments of one slot in a pass")
    for segment in segments:
        n = len(segment.tokens)
        if not (0 <= segment.slot < slots and segment.start >= 0 and 0 <= segment.wanted <= n):
            raise ValueError(f"a segment that cannot be: slot {segment.slot}, start {segment.start}, {n} tokens")
        if segment.ahead and not segment.wanted:
            raise ValueError("tokens are to be written after a place that is not looked at")
        if segment.parents is not None:
            if len(segment.parents) != n or n > MOST_IN_TREE or segment.ahead:
                raise ValueError(f"a tree that cannot be: {n} tokens, {len(segment.parents)} parents")
            if any(not -1 <= parent < token for token, parent in enumerate(segment.parents)):
                raise ValueError("a tree whose tokens come before their parents")
        if segment.end > longest:
            raise ContextLengthError(
                f"a text of {segment.end} tokens does not fit into the context window of {longest} tokens"
            )


def parts(segments: Sequence[Segment], most: int) -> Iterator[list[Piece]]:
    """What goes into one pass each, at most `most` tokens: long texts in several; a tree in one, whatever its size.

    Short pieces come first: long texts do not make them wait in a pass of their size.
    """
    part, free = [], most
    for index in sorted(range(len(segments)), key=lambda i: len(segments[i].tokens)):
        segment = segments[index]
        at, n = 0, len(segment.tokens)
        if segment.parents is not None and n > free and part:
            yield part
            part, free = [], most
        while at < n:
            size = n if segment.parents is not None else min(free, n - at)
            part.append(Piece(index, segment, at, at + size))
            at, free = at + size, free - size
            if free <= 0:
                yield part
                part, free = [], most
    if part:
        yield part
