"""Cases of attention in passes of fixed sizes: segments, trees, windows and caps beside one another. The caller has torch."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from language_models.local.segments import Segment
from language_models.local.slot_cache import SlotCache

SLOTS, CAPACITY = 4, 128


@dataclass(frozen=True)
class Case:
    """What a layer computes in a pass; its numbers are drawn by the seed."""

    segments: list[Segment]
    padding: int
    kv_heads: int
    repeats: int
    size: int
    value_size: int
    window: int | None
    cap: float | None
    more: int  # tokens that a segment might have beside those that it has
    dtype: torch.dtype
    seed: int

    @property
    def heads(self) -> int:
        return self.kv_heads * self.repeats

    @property
    def tokens(self) -> int:
        return sum(len(segment.tokens) for segment in self.segments) + self.padding

    @property
    def longest(self) -> int:
        return max(len(segment.tokens) for segment in self.segments) + self.more

    @property
    def scale(self) -> float:
        return self.size**-0.5

    def random(self, *sizes: int, seed: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=torch.Generator().manual_seed(self.seed + seed)).to(self.dtype)

    def new(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """New queries, keys and values; they lie in memory as one linear layer gives them."""
        sizes = [self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.value_size]
        parts = self.random(1, self.tokens, sum(sizes), seed=1).split(sizes, -1)
        heads = (self.heads, self.kv_heads, self.kv_heads)
        return tuple(x.view(1, self.tokens, n, -1).transpose(1, 2) for x, n in zip(parts, heads, strict=True))


def random_cache(case: Case) -> tuple[SlotCache, list[torch.Tensor]]:
    """A cache in which everything is full of numbers, and a copy of its layer 0."""
    cache = SlotCache(SLOTS, CAPACITY)
    cache.capacity = CAPACITY
    sizes = (case.size, case.value_size)
    pair = tuple(case.random(SLOTS + 1, case.kv_heads, CAPACITY, n, seed=2 + n) for n in sizes)
    cache.layers[0] = pair
    return cache, [tensor.clone() for tensor in pair]


@st.composite
def cases(draw, sizes=(8, 16, 24), dtypes=(torch.float32,), most=20) -> Case:
    """Cases of one to four segments of up to `most` tokens, some of them trees; all but the first may have none."""
    segments = []
    for slot in draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True)):
        n = draw(st.sampled_from((0, 1, 2, most // 2)) if segments else st.integers(1, most))
        tree = n and draw(st.booleans())
        parents = [draw(st.integers(-1, i - 1)) for i in range(n)] if tree else None
        segments.append(Segment(slot, draw(st.integers(0, CAPACITY - n)), [0] * n, 0, parents=parents))
    return Case(
        segments,
        padding=draw(st.sampled_from((0, 1, 5))),
        kv_heads=draw(st.sampled_from((1, 2))),
        repeats=draw(st.sampled_from((1, 2, 3, 4))),
        size=draw(st.sampled_from(sizes)),
        value_size=draw(st.sampled_from(sizes)),
        window=draw(st.sampled_from((None, 1, 3, 8, 70, 4096))),
        cap=draw(st.sampled_from((None, 1.0, 30.0))),
        more=draw(st.sampled_from((0, 3, 40))),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 1000)),
    )
