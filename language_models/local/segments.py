"""What is asked of a forward pass, and what it says: new tokens of samples, and the tokens that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int
    top: int = 0
    sampling: Sampling | None = None
    ahead: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a model says about one position: its token (greedy, or drawn), and the `top` as (id, natural log-probability)."""

    token: int
    top: tuple[tuple[int, float], ...]
