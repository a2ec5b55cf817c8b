"""Attention over packed tokens of several samples in a pass of a fixed size: by Triton kernels, or the same in plain torch.

Nothing depends on what the samples are but by numbers on the device, so that a pass can be captured as a CUDA graph. The kernels
read of each sample as much as there is; plain torch looks at a fixed span of every slot, and masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from language_models.local import triton_attention
from language_models.local.segments import MOST_IN_TREE
from language_models.local.slot_cache import SlotCache

# Of the scores in plain torch at a time, over all heads and samples: 256 MiB in float32.
MOST_SCORES = 1 << 26
# Masks that are kept from layer to layer, in numbers: all of them together are of the size of the scores at most.
MOST_KEPT = MOST_SCORES // 8


@dataclass
class FixedPass:
    """One pass of a fixed size, as the attention of each layer sees it; see attention.Pass.

    Token t of the pass goes to `places[t]` of the slot `token_slots[t]`. Segment s has `counts[s]` of them, from `offsets[s]` on,
    and stands in the slot `slots[s]` from `starts[s]` on. All of these are int64 tensors on the device, [tokens] or [segments].
    Tokens of no segment pad the pass; they go to a slot that no segment is in.

    `longest` is how many tokens a segment has at most, `span` how many cached ones are looked at where there are no `kernels`.

    `seen`, int64 [tokens]: for tokens of a tree the bits of Segment.seen (never 0, since a token sees itself), by which it sees
    its ancestors among the new tokens beside what is cached before `starts`; 0 for all others, and for what pads the pass: these
    see every token before them. `places` are then where tokens stand in the cache, not their positions in the text.

    `splits` is among how many programs a kernel's keys are split, a power of two; None: as many as pay.
    """

    cache: SlotCache
    token_slots: Tensor
    places: Tensor
    slots: Tensor
    offsets: Tensor
    counts: Tensor
    starts: Tensor
    longest: int
    span: int
    kernels: bool
    seen: Tensor | None = None
    splits: int | None = None
    _made: dict[tuple, Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        """See attention.Pass; all segments at once. The result is good until the next layer's."""
        keys, values = self.cache.of_layer(layer, key, value)
        if not (self.kernels and triton_attention.usable(key.shape[3], value.shape[3])):
            keys[self.token_slots, :, self.places] = key[0].transpose(0, 1)
            values[self.token_slots, :, self.places] = value[0].transpose(0, 1)
            return self._by_torch(query, keys, values, scale, window, cap)
        triton_attention.store(key, value, keys, values, self.token_slots, self.places)
        return triton_attention.attend(
            query,
            keys,
            values,
            slots=self.slots,
            offsets=self.offsets,
            counts=self.counts,
            starts=self.starts,
            longest=self.longest,
            scale=scale,
            window=window,
            cap=cap,
            tree=None if self.seen is None else self._tree(window),
            splits=self.splits,
            buffers=self._made,
        )

    def _by_torch(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        _, heads, tokens, size = query.shape
        kv_heads = keys.shape[1]
        repeats = heads // kv_heads
        flat = query.new_zeros(tokens + 1, heads, values.shape[3])  # the last one takes what is no token
        for rows, some in self._chunks(heads):
            slots = self.slots[rows]
            k, v = keys[:, :, : self.span][slots], values[:, :, : self.span][slots]
            i = torch.arange(some.start, some.stop, device=query.device)
            index = (self.offsets[rows, None] + i).clamp(max=tokens - 1)
            # Heads that share keys stand below one another as further queries, so that no keys are repeated in memory.
            q = query[0][:, index].reshape(kv_heads, repeats, len(slots), len(i), size).permute(2, 0, 1, 3, 4)
            q = q.reshape(len(slots), kv_heads, repeats * len(i), size)
            bias = self._bias(rows, some, index, window, repeats, query.dtype)
            if cap is None:
                out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
            else:
                scores = cap * torch.tanh(q @ k.transpose(2, 3) * (scale / cap)) + bias
                out = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype) @ v
            out = out.reshape(len(slots), heads, len(i), -1).transpose(1, 2)
            flat[torch.where(i < self.counts[rows, None], index, tokens)] = out
        return flat[None, :tokens]

    def _chunks(self, heads: int) -> Iterator[tuple[slice, slice]]:
        """Which segments, and which tokens of each, are computed at a time, so that their scores fit; the same in all passes."""
        segments = self.slots.shape[0]
        of_token = heads * self.span
        tokens = min(self.longest, max(1, MOST_SCORES // of_token))
        rows = min(segments, max(1, MOST_SCORES // (of_token * tokens)))
        for row in range(0, segments, rows):
            for token in range(0, self.longest, tokens):
                yield slice(row, min(row + rows, segments)), slice(token, min(token + tokens, self.longest))

    def _bias(self, rows: slice, some: slice, index: Tensor, window: int | None, repeats: int, dtype: torch.dtype):
        """What is added to the scores: [segments, 1, repeats x tokens, span]. The same for all layers of a kind."""
        name = ("bias", window, repeats, dtype, rows.start, some.start)
        if name in self._made:
            return self._made[name]
        span, i = (torch.arange(x.start, x.stop, device=index.device) for x in (slice(0, self.span), some))
        starts = self.starts[rows, None, None, None]
        places = starts + i[:, None]
        seen = span <= places
        if window:
            seen &= span > places - window
        if self.seen is not None:
            bits, depths = (x[index][:, None, :, None] for x in self._tree(window))
            new = span - starts
            among = (new < MOST_IN_TREE) & ((bits >> new.clamp(0, MOST_IN_TREE - 1)) & 1).bool()
            before = span > starts + depths - window if window else True
            seen = torch.where(bits != 0, torch.where(new >= 0, among, before), seen)
        # A token that is none may see anything: of nothing there is no mean.
        seen |= i[:, None] >= self.counts[rows, None, None, None]
        bias = torch.zeros(seen.shape, dtype=dtype, device=index.device).masked_fill_(~seen, -torch.inf)
        bias = bias.repeat(1, 1, repeats, 1)
        if self.slots.shape[0] * self.longest * repeats * self.span <= MOST_KEPT:
            self._made[name] = bias
        return bias

    def _tree(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Which new tokens each token of a tree sees within the window, as bits, and how far down it stands: [tokens] both."""
        bits_name, depths_name = ("bits", window), ("depths",)
        if bits_name not in self._made:
            order = torch.arange(MOST_IN_TREE, device=self.seen.device)
            bits = (self.seen[:, None] >> order) & 1
            # Ancestors come earlier the higher up they are, so the window keeps the last ones.
            upwards = bits.flip(1).cumsum(1).flip(1)
            kept = bits if window is None else bits * (upwards <= window)
            self._made[bits_name] = (kept << order).sum(1)
            self._made[depths_name] = upwards[:, 0] - 1
        return self._made[bits_name], self._made[depths_name]
