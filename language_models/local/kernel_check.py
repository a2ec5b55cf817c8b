"""Whether the Triton kernels compute, here and now, what plain torch does: for the kinds of attention that a model has."""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from language_models.local import triton_attention
from language_models.local.fixed_attention import FixedPass
from language_models.local.loading import reason_of
from language_models.local.segments import Segment
from language_models.local.slot_cache import SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a mean of values that are 1 on average, computed by torch in float64.
CLOSE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
CAPACITY = 2 * triton_attention.KEYS_OF_SPLIT
WINDOW = 40  # at most, so that it shows in texts as long as those of the check
TREE = (-1, 0, 1, 1, 0, 4, 5, 6, 7, 8, 9, 10, 11, -1, 13)  # as Segment.parents


class AttentionKind(NamedTuple):
    """What a layer asks of its attention, beside the numbers."""

    heads: int
    kv_heads: int
    size: int
    value_size: int
    window: int | None
    cap: float | None
    dtype: torch.dtype


@dataclass
class _Asking:
    """A pass that notes what the layers ask for, and computes nothing; see attention.Pass."""

    kinds: set[AttentionKind] = field(default_factory=set)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        """See attention.Pass."""
        heads, tokens = query.shape[1:3]
        shapes = heads, key.shape[1], key.shape[3], value.shape[3]
        self.kinds.add(AttentionKind(*shapes, window or None, cap, query.dtype))
        return query.new_zeros(1, tokens, heads, value.shape[3])


@torch.inference_mode()
def kinds_of(model: "PreTrainedModel") -> frozenset[AttentionKind]:
    """The kinds of attention in a model, whose attention is attention.OWN_ATTENTION already; one pass of one token."""
    asking = _Asking()
    one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=one, position_ids=one, use_cache=False, packed=asking)
    return frozenset(asking.kinds)


@functools.lru_cache
def kernels_work(device: torch.device, kinds: frozenset[AttentionKind]) -> str:
    """Whether the kernels are right here: "" or why not. Heads too large for them are computed by plain torch, and no reason."""
    if triton_attention.triton is None:
        return "triton is not installed"
    for kind in sorted(kinds, key=str):
        if triton_attention.usable(kind.size, kind.value_size):
            try:
                with torch.inference_mode():
                    worst = max(_difference(device, kind, *case) for case in _CASES)
            except Exception as error:  # triton's compilers raise errors of many kinds
                return f"{type(error).__name__}: {reason_of(error)}"
            if worst > CLOSE.get(kind.dtype, 1e-4):
                return f"{kind.dtype} numbers differ from those of PyTorch by {worst:.2g}"
    return ""


# Segments as (slot, start, new tokens or a tree), how many tokens a segment is said to have at most, and splits of the keys.
_CASES = (
    ([(2, 70, TREE), (0, 1, 3)], 20, 1),
    ([(1, 700, 2), (0, 3, 1), (2, 900, TREE)], 15, 2),
    ([(1, 5, 1), (3, 0, 0), (2, 99, 1)], 1, 1),
    ([(2, 10, 70), (0, 0, 1)], 128, None),
)


def _difference(device: torch.device, kind: AttentionKind, segments: list, longest: int, splits: int | None) -> float:
    """The largest difference in what is computed and what is cached; infinite where something is no number."""
    kv_heads = min(2, kind.kv_heads)
    heads = kind.heads // kind.kv_heads * kv_heads
    asked = [
        Segment(slot, start, [0] * (new if isinstance(new, int) else len(new)), 0, parents=_tree(new))
        for slot, start, new in segments
    ]
    generator = torch.Generator(device).manual_seed(1)
    number = sum(len(segment.tokens) for segment in asked) + 3

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device).to(kind.dtype)

    cached = [random(4, kv_heads, CAPACITY, size) for size in (kind.size, kind.value_size)]
    new = [random(1, n, number, size) for n, size in zip((heads, kv_heads), (kind.size, kind.size), strict=True)]
    new.append(random(1, kv_heads, number, kind.value_size))
    found = []
    for kernels in (True, False):
        cache = SlotCache(3, CAPACITY)
        cache.capacity = CAPACITY
        # In slots that are one of many, what lies behind the text is not 0.
        cache.layers[0] = tuple(x.clone() if kernels else x.double() for x in cached)
        made = fixed_pass(cache, asked, longest=longest, padding=3, kernels=kernels, device=device)
        made.splits = splits
        window = kind.window and min(kind.window, WINDOW)
        q, k, v = (x if kernels else x.double() for x in new)
        out = made.attend(0, q, k, v, kind.size**-0.5, window, kind.cap)
        keys, values = cache.layers[0]
        found.append([x.double().flatten() for x in (out[:, : number - 3], keys[:3], values[:3])])
    worst = (torch.cat(found[0]) - torch.cat(found[1])).abs().max().item()
    return worst if worst == worst else float("inf")


def _tree(new: int | tuple[int, ...]) -> tuple[int, ...] | None:
    return None if isinstance(new, int) else new


def fixed_pass(
    cache: SlotCache, segments: list[Segment], *, longest: int, padding: int, kernels: bool, device: torch.device
) -> FixedPass:
    """The pass over all new tokens of some segments, and some that pad it, over all that a slot has room for."""
    places, slots, seen = [], [], []
    for segment in segments:
        n = len(segment.tokens)
        slots += [segment.slot] * n
        places += range(segment.start, segment.end)
        seen += [0] * n if segment.parents is None else segment.seen
    counts = [len(segment.tokens) for segment in segments]
    offsets = [sum(counts[:n]) for n in range(len(counts))]
    numbers = (
        slots + [cache.slots] * padding,
        places + [0] * padding,
        [segment.slot for segment in segments],
        offsets,
        counts,
        [segment.start for segment in segments],
    )
    tensors = (torch.tensor(x, device=device) for x in numbers)
    branching = any(segment.parents is not None for segment in segments)
    tree = torch.tensor(seen + [0] * padding, device=device) if branching else None
    return FixedPass(cache, *tensors, longest, cache.capacity, kernels, seen=tree)
