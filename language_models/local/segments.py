"""What is asked of a forward pass, and what it says: new tokens of samples, and the tokens that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

MOST_IN_TREE = 63  # what a token of a tree sees is told in the bits of an int64


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: temperature above 0, nucleus of probability top_p, and the source of chance."""

    temperature: float
    top_p: float
    generator: torch.Generator


@dataclass(slots=True)
class Segment:
    """New tokens of one sample: they stand at positions `start`, `start` + 1, ... of a slot of the cache.

    Wanted is what follows each of the last `wanted` tokens, with the `top` most probable ones of each position; and then `ahead`
    greedy tokens more, each fed back as the next input, of an engine that `writes_ahead`.

    `parents`: tokens that branch (a tree), at most MOST_IN_TREE of them. For each the number, among these, of the token before it,
    which comes earlier, or -1 where it follows what is cached; it sees what is cached, the tokens it descends from, and itself, and
    its position follows that of its parent. In the cache they stand one after another all the same, from `start` on. None: each
    token follows the one before it.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int
    top: int = 0
    sampling: Sampling | None = None
    ahead: int = 0
    parents: Sequence[int] | None = None

    @property
    def positions(self) -> Sequence[int]:
        """The position of each new token in its text."""
        if self.parents is None:
            return range(self.start, self.end)
        found: list[int] = []
        for parent in self.parents:
            found.append(self.start if parent < 0 else found[parent] + 1)
        return found

    @property
    def seen(self) -> list[int]:
        """For each token of a tree which of the new tokens it sees, itself included: bit n for the token n."""
        found: list[int] = []
        for n, parent in enumerate(self.parents):
            found.append((1 << n) | (found[parent] if parent >= 0 else 0))
        return found

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a model says about one position: its token (greedy, or drawn), and the `top` as (id, natural log-probability)."""

    token: int
    top: tuple[tuple[int, float], ...]
