"""Attention over the new tokens of several samples that stand in one row, each sample with its own keys and values.

The linear layers, where the time goes, see one long matrix without padding; only the attention looks at each sample by itself.
A sample's keys and values lie in a slot of a cache that is allocated once, so that a text is cut back by a number and extended
by what is new; nothing is copied from pass to pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

from language_models.local.segments import Segment

FIRST_CAPACITY = 256
LONG_SEGMENT = 64


@dataclass
class KeyValueCache:
    """Keys and values of all layers, [slots, heads, capacity, head size] each; the capacity grows by doubling."""

    slots: int
    longest: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def room_for(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's tensors, with room for `length` tokens in each slot; `key` and `value` are [1, heads, tokens, size]."""
        there = self.layers.get(layer)
        if there is not None and there[0].shape[2] >= length:
            return there
        capacity = FIRST_CAPACITY
        while capacity < length:
            capacity *= 2
        capacity = min(capacity, max(length, self.longest))
        grown = tuple(new.new_empty(self.slots, new.shape[1], capacity, new.shape[3]) for new in (key, value))
        if there is not None:
            for old, new in zip(there, grown, strict=True):
                new[:, :, : old.shape[2]] = old
        self.layers[layer] = grown
        return grown

    @property
    def bytes(self) -> int:
        """What the tensors take; on a CPU, pages that were never written to take nothing."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.layers.values() for tensor in pair)


class PackedPass:
    """One forward pass, as the attention of each layer sees it."""

    def __init__(self, segments: list[Segment], cache: KeyValueCache, device: torch.device):
        self.segments, self.cache, self.device = segments, cache, device
        self.longest = max(segment.end for segment in segments)
        self._masks: dict[tuple, torch.Tensor | None] = {}

    def mask(self, segment: Segment, first: int, window: int | None, repeats: int) -> torch.Tensor | None:
        """Which keys, from position `first` on, each new token sees; None where it sees all of them.

        Shape [repeats * new tokens, keys]. The same for all layers of a kind, so it is made once per pass.
        """
        name = (id(segment), first, window, repeats, self.device)
        if name not in self._masks:
            mask = None
            if len(segment.tokens) > 1:
                new = torch.tensor(segment.positions, device=self.device)
                keys = torch.cat([torch.arange(first, segment.start, device=self.device), new])
                mask = keys <= new[:, None]
                if segment.parents is not None:
                    mask[:, segment.start - first :] = _lines(segment.parents).to(self.device)
                if window:
                    mask &= keys > new[:, None] - window
                mask = mask.repeat(repeats, 1)
            self._masks[name] = mask
        return self._masks[name]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        cap: float | None,
    ) -> torch.Tensor:
        """See attention.Pass; segment by segment."""
        self.device = query.device  # the layers of a model may be on several
        keys, values = self.cache.room_for(layer, key, value, self.longest)
        heads, kv_heads, size = query.shape[1], key.shape[1], query.shape[3]
        repeats = heads // kv_heads
        output = query.new_empty(query.shape[2], heads, value.shape[3])
        at = 0
        for segment in self.segments:
            n = len(segment.tokens)
            new, old = slice(at, at + n), slice(segment.start, segment.end)
            keys[segment.slot, :, old] = key[0, :, new]
            values[segment.slot, :, old] = value[0, :, new]
            first = max(0, segment.start - window + 1) if window else 0
            seen = slice(first, segment.end)
            k, v, q = keys[segment.slot, None, :, seen], values[segment.slot, None, :, seen], query[:, :, new]
            if n <= LONG_SEGMENT:
                # Heads that share keys stand below one another as further queries, so that no keys are repeated in memory.
                q = q.reshape(1, kv_heads, repeats * n, size)
                mask = self.mask(segment, first, window, repeats)
            else:
                k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
                mask = self.mask(segment, first, window, 1)
            if cap is None:
                out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
            else:
                out = _softcapped(q, k, v, mask, scale, cap)
            output[new] = out.reshape(heads, n, -1).transpose(0, 1)
            at += n
        return output[None]


def _lines(parents: Sequence[int]) -> torch.Tensor:
    """Which tokens of a tree each of them sees, [tokens, tokens]: itself and those that it descends from."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            seen[token] |= seen[parent]
    return seen


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores are kept between -softcap and softcap, as in Gemma 2 (arXiv 2408.00118, section 2)."""
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scale / softcap))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
