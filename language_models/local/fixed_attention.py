"""Attention over packed tokens of several samples in a pass of a fixed size: Triton kernels, and the same in plain torch."""

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from language_models.local.loading import reason_of
from language_models.local.segments import MOST_IN_TREE

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

FIRST_CAPACITY = 256

if triton is not None:

    @triton.jit
    def _store_kernel(
        k, v, keys, values, slots, positions, k_token, k_head, v_token, v_head, ks, kh, vs, vh,
        D: tl.constexpr, DV: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0)
        h = tl.program_id(1)
        slot = tl.load(slots + n)
        place = tl.load(positions + n)
        d = tl.arange(0, D)
        tl.store(keys + slot * ks + h * kh + place * D + d, tl.load(k + n * k_token + h * k_head + d))
        e = tl.arange(0, DV)
        tl.store(values + slot * vs + h * vh + place * DV + e, tl.load(v + n * v_token + h * v_head + e))

    @triton.jit
    def _attention_kernel(
        q, keys, values, out, row_slots, row_offsets, row_counts, row_starts, scale, cap, window,
        q_token, q_head, ks, kh, vs, vh, o_token,
        REP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
        WINDOW: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0)
        kv = tl.program_id(1)
        first_query = tl.program_id(2) * BM
        count = tl.load(row_counts + row).to(tl.int32)
        if first_query < count * REP:
            slot = tl.load(row_slots + row)
            offset = tl.load(row_offsets + row).to(tl.int32)
            start = tl.load(row_starts + row).to(tl.int32)
            m = first_query + tl.arange(0, BM)
            token = m // REP
            head = kv * REP + m % REP
            valid = token < count
            d = tl.arange(0, D)
            e = tl.arange(0, DV)
            query = tl.load(
                q + (offset + token)[:, None] * q_token + head[:, None] * q_head + d[None, :],
                mask=valid[:, None],
                other=0.0,
            )
            place = start + token
            end = start + tl.minimum(count, (first_query + BM - 1) // REP + 1)
            begin = 0
            if WINDOW:
                begin = tl.maximum(0, start + first_query // REP - window + 1) // BN * BN
            most = tl.full([BM], -1e30, tl.float32)
            total = tl.zeros([BM], tl.float32)
            acc = tl.zeros([BM, DV], tl.float32)
            key_base = keys + slot * ks + kv * kh
            value_base = values + slot * vs + kv * vh
            for at in range(begin, end, BN):
                n = at + tl.arange(0, BN)
                there = n < end
                key = tl.load(key_base + n[None, :] * D + d[:, None], mask=there[None, :], other=0.0)
                scores = tl.dot(query, key, input_precision=PRECISION) * scale
                if CAP:
                    scores = cap * (2 * tl.sigmoid(2 * scores / cap) - 1)
                seen = n[None, :] <= place[:, None]
                if WINDOW:
                    seen = seen & (n[None, :] > place[:, None] - window)
                scores = tl.where(seen, scores, -1e30)
                higher = tl.maximum(most, tl.max(scores, 1))
                p = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
                shrink = tl.exp(most - higher)
                total = total * shrink + tl.sum(p, 1)
                value = tl.load(value_base + n[:, None] * DV + e[None, :], mask=there[:, None], other=0.0)
                acc = acc * shrink[:, None] + tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
                most = higher
            acc = acc / tl.where(total > 0, total, 1.0)[:, None]
            tl.store(
                out + (offset + token)[:, None] * o_token + head[:, None] * DV + e[None, :],
                acc.to(out.dtype.element_ty),
                mask=valid[:, None],
            )


def usable(size: int, value_size: int) -> bool:
    """Whether the kernels can be used for heads of this size."""
    return triton is not None and all(16 <= n <= 256 and not n & (n - 1) for n in (size, value_size))


class SlotCache:
    """Keys and values of all layers, [slots + 1, heads, capacity, size] each; the last slot takes what pads a pass."""

    def __init__(self, slots: int, longest: int):
        self.slots, self.longest = slots, -(-longest // 64) * 64
        self.capacity = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def of_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's tensors; `key` and `value` are [1, heads, tokens, size]."""
        there = self.layers.get(layer)
        if there is None:
            # Zeros: what is masked is multiplied by 0, and must be a number.
            there = tuple(
                new.new_zeros(self.slots + 1, new.shape[1], self.capacity, new.shape[3]) for new in (key, value)
            )
            self.layers[layer] = there
        return there

    def make_room(self, length: int, exactly: bool = False) -> bool:
        """Have room for `length` tokens per slot; whether the tensors are other ones now.

        Raises:
            torch.OutOfMemoryError: there is none. What was cached is there still, and the capacity what it was, but some tensors
                are other ones, so graphs that use them are to be thrown away.
        """
        if length <= self.capacity:
            return False
        capacity = max(FIRST_CAPACITY, self.capacity)
        while capacity < length and not exactly:
            capacity *= 2
        capacity = (
            max(capacity, -(-length // 64) * 64) if exactly else min(capacity, max(self.longest, -(-length // 64) * 64))
        )
        for layer, pair in self.layers.items():
            if pair[0].shape[2] >= capacity:  # grown before memory ran out, the last time
                continue
            grown = tuple(old.new_zeros(*old.shape[:2], capacity, old.shape[3]) for old in pair)
            for old, new in zip(pair, grown, strict=True):
                new[:, :, : old.shape[2]] = old
            self.layers[layer] = grown
        self.capacity = capacity
        return True

    def span(self, length: int) -> int:
        """How many cached tokens a pass without kernels looks at: one of a few numbers."""
        span = FIRST_CAPACITY
        while span < length:
            span *= 2
        return min(span, self.capacity)

    @property
    def bytes(self) -> int:
        """What the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.layers.values() for tensor in pair)


@dataclass
class FixedPass:
    """One pass of a fixed size, as the attention of each layer sees it; see attention.Pass.

    Token t of the pass goes to `places[t]` of the slot `token_slots[t]`. Segment s has `counts[s]` of them, from `offsets[s]` on,
    and stands in the slot `slots[s]` from `starts[s]` on. All of these are int64 tensors on the device, [tokens] or [segments].

    `longest` is how many tokens a segment has at most, `span` how many cached ones are looked at where there are no `kernels`.

    `seen`, int64 [tokens]: for tokens of a tree the bits of Segment.seen (never 0, since a token sees itself), by which it sees
    its ancestors among the new tokens beside what is cached before `starts`; 0 for all others, and for what pads the pass: these
    see every token before them. `places` are then where tokens stand in the cache, not their positions in the text.
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
    _made: dict[tuple, Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        """See attention.Pass; all segments at once."""
        keys, values = self.cache.of_layer(layer, key, value)
        way = (
            self._by_kernels
            if self.kernels and self.seen is None and usable(key.shape[3], value.shape[3])
            else self._by_torch
        )
        return way(query, key, value, keys, values, scale, window, cap)

    def _by_kernels(self, query, key, value, keys, values, scale, window, cap):
        _, heads, tokens, size = query.shape
        kv_heads, value_size = key.shape[1], value.shape[3]
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        _store_kernel[(tokens, kv_heads)](
            key, value, keys, values, self.token_slots, self.places, key.stride(2), key.stride(1), value.stride(2),
            value.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), D=size, DV=value_size,
            num_warps=1,
        )  # fmt: skip
        repeats = heads // kv_heads
        block = 16 if repeats * self.longest <= 16 else 32 if repeats * self.longest <= 32 else 64
        name = ("out", heads, value_size)
        if name not in self._made:  # of zeros: padding must be numbers; one for all layers
            self._made[name] = torch.zeros(1, tokens, heads, value_size, dtype=query.dtype, device=query.device)
        out = self._made[name]
        _attention_kernel[(self.slots.shape[0], kv_heads, triton.cdiv(repeats * self.longest, block))](
            query, keys, values, out, self.slots, self.offsets, self.counts, self.starts,
            float(scale), float(cap or 1.0), window or 0, query.stride(2), query.stride(1),
            keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), out.stride(1),
            REP=repeats, D=size, DV=value_size, BM=block, BN=64 if size <= 128 else 32, WINDOW=bool(window),
            CAP=cap is not None, PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            num_warps=4, num_stages=2,
        )  # fmt: skip
        return out

    def _by_torch(self, query, key, value, keys, values, scale, window, cap):
        _, heads, tokens, size = query.shape
        kv_heads = key.shape[1]
        repeats, rows, longest = heads // kv_heads, self.slots.shape[0], self.longest
        keys[self.token_slots, :, self.places] = key[0].transpose(0, 1)
        values[self.token_slots, :, self.places] = value[0].transpose(0, 1)
        k, v = keys[self.slots, :, : self.span], values[self.slots, :, : self.span]
        i = torch.arange(longest, device=query.device)
        index = (self.offsets[:, None] + i).clamp(max=tokens - 1)
        q = query[0][:, index].reshape(kv_heads, repeats, rows, longest, size).permute(2, 0, 1, 3, 4)
        q = q.reshape(rows, kv_heads, repeats * longest, size)
        name = ("bias", window)
        if name not in self._made:
            span = torch.arange(self.span, device=query.device)
            starts = self.starts[:, None, None, None]
            places = starts + i[:, None]
            seen = span <= places
            if window:
                seen &= span > places - window
            if self.seen is not None:
                bits, depths = self._tree(window)
                bits, depths = (x[index][:, None, :, None] for x in (bits, depths))
                new = span - starts
                among = (new < MOST_IN_TREE) & ((bits >> new.clamp(0, MOST_IN_TREE - 1)) & 1).bool()
                before = span > starts + depths - window if window else True
                seen = torch.where(bits != 0, torch.where(new >= 0, among, before), seen)
            unseen = ~seen
            # A token that is none may see nothing at all.
            unseen &= i[:, None] < self.counts[:, None, None, None]
            bias = torch.zeros(unseen.shape, dtype=query.dtype, device=query.device).masked_fill_(unseen, -torch.inf)
            self._made[name] = bias.repeat(1, 1, repeats, 1)
        bias = self._made[name]
        if cap is None:
            out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        else:
            scores = cap * torch.tanh(q @ k.transpose(2, 3) * (scale / cap)) + bias
            out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        out = out.reshape(rows, heads, longest, -1).transpose(1, 2)
        flat = out.new_zeros(tokens + 1, heads, out.shape[-1])
        flat[torch.where(i < self.counts[:, None], index, tokens)] = out
        return flat[None, :tokens]

    def _tree(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Which new tokens each token of a tree sees within the window, as bits, and how far down it stands: [tokens] both."""
        name = ("tree", window)
        if name not in self._made:
            order = torch.arange(MOST_IN_TREE, device=self.seen.device)
            bits = (self.seen[:, None] >> order) & 1
            # Ancestors come earlier the higher up they are, so the window keeps the last ones.
            upwards = bits.flip(1).cumsum(1).flip(1)
            kept = bits if window is None else bits * (upwards <= window)
            self._made[name] = (kept << order).sum(1), upwards[:, 0] - 1
        return self._made[name]


@functools.lru_cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> str:
    """Whether the kernels compute here what torch's own operations do: "" or why not."""
    if triton is None:
        return "triton is not installed"
    try:
        found = []
        with torch.inference_mode():
            generator = torch.Generator(device).manual_seed(1)

            def random(*sizes):
                return torch.randn(*sizes, generator=generator, device=device).to(dtype)

            cached, q, k, v = random(2, 4, 2, 128, 64), random(1, 8, 12, 64), random(1, 2, 12, 64), random(1, 2, 12, 64)
            for kernels in (True, False):
                cache = SlotCache(3, 128)
                cache.capacity = 128
                cache.layers[0] = tuple(cached.clone())
                numbers = [[1] * 9 + [0, 3, 3], [*range(70, 79), 0, 0, 0], [1, 0, 3], [0, 9, 0], [9, 1, 0], [70, 0, 0]]
                made = FixedPass(cache, *(torch.tensor(x, device=device) for x in numbers), 9, 128, kernels)
                out = made.attend(0, q, k, v, 0.125, None, None)
                keys, values = cache.layers[0]
                found.append((out[:, :10].float(), keys[:3].float(), values[:3].float()))
        worst = max((a - b).abs().max().item() for a, b in zip(*found, strict=True))
    except Exception as error:  # triton's compilers raise errors of many kinds
        return f"{type(error).__name__}: {reason_of(error)}"
    return "" if worst <= (1e-3 if dtype == torch.float32 else 0.05) else f"they differ by {worst:.2g}"
