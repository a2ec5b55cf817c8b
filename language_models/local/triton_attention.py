"""Triton kernels: new keys and values into the cache, and the attention of packed tokens to it, for any mix of samples.

A program looks up on the device which slot its sample is in, how many tokens are new and how many are cached, and loops over
just these: nothing is padded to the longest sample, gathered or masked, and the same launch serves every mix, so that it can be
replayed from a CUDA graph. Where a long text meets few queries, its keys are split among programs, each of which gives a partial
result, and a second kernel puts them together ("flash-decoding", https://pytorch.org/blog/flash-decoding/).

Why kernels of our own: texts are to be those of the published loop in float32, with sliding windows, soft-capping and trees. What
others have was read, not run: flash-attn is for float16 and bfloat16 only, and has no wheel on the package index, so that users
would have to compile it; FlashInfer's table of number formats has no float32; varlen_attn of torch 2.13 takes neither masks nor
soft-capping. flex_attention, which takes both, was not tried.
"""

import functools

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

MOST_IN_HEAD = 256
# Keys of a split at least: below, putting partial results together costs more than it saves.
KEYS_OF_SPLIT = 512
MOST_SPLITS = 32
# Programs that a processor of the GPU works on at once.
PROGRAMS_OF_PROCESSOR = 2

if triton is not None:

    @triton.jit
    def _store_kernel(
        k, v, keys, values, slots, places, k_token, k_head, v_token, v_head, ks, kh, vs, vh,
        SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0).to(tl.int64)
        h = tl.program_id(1).to(tl.int64)
        slot = tl.load(slots + n)
        place = tl.load(places + n)
        d = tl.arange(0, D)
        e = tl.arange(0, DV)
        key = tl.load(k + n * k_token + h * k_head + d, mask=d < SIZE)
        value = tl.load(v + n * v_token + h * v_head + e, mask=e < VALUE_SIZE)
        tl.store(keys + slot * ks + h * kh + place * SIZE + d, key, mask=d < SIZE)
        tl.store(values + slot * vs + h * vh + place * VALUE_SIZE + e, value, mask=e < VALUE_SIZE)

    @triton.jit
    def _attention_kernel(
        q, keys, values, out, partial, weights, row_slots, row_offsets, row_counts, row_starts, tree, depths,
        scale, cap, window, splits, q_token, q_head, ks, kh, vs, vh, o_split, o_token, w_split,
        REPEATS: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr,
        D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
        LEAST: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, TREE: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0)
        kv = tl.program_id(1)
        first_query = (tl.program_id(2) // splits) * BM
        split = tl.program_id(2) % splits
        count = tl.load(row_counts + row).to(tl.int32)
        if first_query < count * REPEATS:
            slot = tl.load(row_slots + row)
            offset = tl.load(row_offsets + row)
            start = tl.load(row_starts + row).to(tl.int32)
            m = first_query + tl.arange(0, BM)
            token = m // REPEATS
            head = kv * REPEATS + m % REPEATS
            valid = token < count
            d = tl.arange(0, D)
            e = tl.arange(0, DV)
            query_mask = valid[:, None]
            if SIZE != D:
                query_mask = query_mask & (d < SIZE)[None, :]
            at_query = q + (offset + token)[:, None] * q_token + head[:, None] * q_head + d[None, :]
            query = tl.load(at_query, mask=query_mask, other=0.0)
            place = start + token
            end = start + tl.minimum(count, (first_query + BM - 1) // REPEATS + 1)
            begin = 0
            if WINDOW:
                # A token of a tree is at the start of its segment at least.
                begin = tl.maximum(0, start - window + 1 + (0 if TREE else first_query // REPEATS)) // BN * BN
            if TREE:
                bits = tl.load(tree + offset + token, mask=valid, other=0)
                deep = start + tl.load(depths + offset + token, mask=valid, other=0).to(tl.int32)
            if SPLIT:
                each = (tl.maximum(LEAST, (end - begin + splits - 1) // splits) + BN - 1) // BN * BN
                begin = begin + split * each
                end = tl.minimum(end, begin + each)
            most = tl.full([BM], -1e30, tl.float32)
            total = tl.zeros([BM], tl.float32)
            acc = tl.zeros([BM, DV], tl.float32)
            key_base = keys + slot * ks + kv.to(tl.int64) * kh
            value_base = values + slot * vs + kv.to(tl.int64) * vh
            for at in range(begin, end, BN):
                n = at + tl.arange(0, BN)
                there = n < end
                key_mask = there[None, :]
                value_mask = there[:, None]
                if SIZE != D:
                    key_mask = key_mask & (d < SIZE)[:, None]
                if VALUE_SIZE != DV:
                    value_mask = value_mask & (e < VALUE_SIZE)[None, :]
                key = tl.load(key_base + n[None, :] * SIZE + d[:, None], mask=key_mask, other=0.0)
                scores = tl.dot(query, key, input_precision=PRECISION) * scale
                if CAP:
                    shrunk = tl.exp(-2 * tl.abs(scores) / cap)  # for the tangens hyperbolicus, without overflow
                    scores = tl.where(scores < 0, -cap, cap) * (1 - shrunk) / (1 + shrunk)
                seen = n[None, :] <= place[:, None]
                if WINDOW:
                    seen = seen & (n[None, :] > place[:, None] - window)
                if TREE:
                    new = n - start
                    bit = (bits[:, None] >> tl.minimum(tl.maximum(new, 0), 62).to(tl.int64)[None, :]) & 1
                    among = (bit != 0) & (new < 63)[None, :]
                    before = (new < 0)[None, :] & valid[:, None]
                    if WINDOW:
                        before = before & (n[None, :] > deep[:, None] - window)
                    of_tree = before | (among & (new >= 0)[None, :])
                    in_tree = (bits != 0)[:, None]
                    seen = (in_tree & of_tree) | (~in_tree & seen)
                seen = seen & there[None, :]
                scores = tl.where(seen, scores, -1e30)
                higher = tl.maximum(most, tl.max(scores, 1))
                p = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
                shrink = tl.exp(most - higher)
                total = total * shrink + tl.sum(p, 1)
                value = tl.load(value_base + n[:, None] * VALUE_SIZE + e[None, :], mask=value_mask, other=0.0)
                acc = acc * shrink[:, None] + tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
                most = higher
            inside = valid[:, None]
            if VALUE_SIZE != DV:
                inside = inside & (e < VALUE_SIZE)[None, :]
            to = (offset + token)[:, None] * o_token + head[:, None] * VALUE_SIZE + e[None, :]
            if SPLIT:
                # A split without keys says so by its weight alone.
                if begin < end:
                    tl.store(partial + split * o_split + to, acc, mask=inside)
                at_weight = weights + split * w_split + (offset + token) * HEADS + head
                tl.store(at_weight, most, mask=valid)
                tl.store(at_weight + splits * w_split, total, mask=valid)
            else:
                acc = acc / tl.where(total > 0, total, 1.0)[:, None]
                tl.store(out + to, acc.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _together_kernel(
        partial, weights, out, o_split, o_token, w_split,
        HEADS: tl.constexpr, VALUE_SIZE: tl.constexpr, DV: tl.constexpr, S: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0).to(tl.int64)
        h = tl.program_id(1)
        s = tl.arange(0, S)
        e = tl.arange(0, DV)
        at = weights + s * w_split + n * HEADS + h
        most = tl.load(at)
        total = tl.load(at + S * w_split)
        there = total > 0
        most = tl.where(there, most, -1e30)
        share = tl.where(there, tl.exp(most - tl.max(most, 0)), 0.0)
        whole = tl.sum(share * total, 0)
        to = n * o_token + h * VALUE_SIZE + e
        parts = tl.load(
            partial + s[:, None] * o_split + to[None, :], mask=there[:, None] & (e < VALUE_SIZE)[None, :], other=0.0
        )
        found = tl.sum(parts * share[:, None], 0) / tl.where(whole > 0, whole, 1.0)
        tl.store(out + to, found.to(out.dtype.element_ty), mask=e < VALUE_SIZE)


def usable(size: int, value_size: int) -> bool:
    """Whether the kernels can be used for heads of this size."""
    return triton is not None and max(size, value_size) <= MOST_IN_HEAD


@functools.lru_cache
def _limits(device: torch.device) -> tuple[int, int]:
    """The processors of a GPU, and the bytes of shared memory that a program there may take; some of it is left to Triton."""
    if device.type != "cuda":  # the interpreter
        return 1, 128 * 1024
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 64 * 1024)
    return properties.multi_processor_count, int(0.8 * shared)


def blocks(queries: int, size: int, value_size: int, element: int, shared: int) -> tuple[int, int]:
    """How many queries and how many keys a program works on at once.

    Args:
        queries: of one sample and key-value head, at most.
        size, value_size: of a head, padded.
        element: bytes of a number.
        shared: bytes of shared memory that there are.
    """
    some = 16 if queries <= 16 else 32 if queries <= 32 else 64
    keys = 64 if max(size, value_size) <= 128 else 32

    def taken() -> int:  # the loads of two rounds of the loop are under way at once
        return element * (some * size + 2 * keys * (size + value_size))

    while taken() > shared and keys > 16:
        keys //= 2
    while taken() > shared and some > 16:
        some //= 2
    return some, keys


def number_of_splits(capacity: int, programs: int, processors: int) -> int:
    """Among how many programs the keys of one sample, head and block of queries are split.

    One shape of a pass has one number, whatever its samples are, as a CUDA graph has to: from how many keys a slot has room for,
    how many programs there are without (samples x key-value heads x blocks of queries), and how many processors the GPU has. A
    power of two; how long its part of a text is, each program finds by itself.
    """
    most = min(capacity // KEYS_OF_SPLIT, PROGRAMS_OF_PROCESSOR * processors // programs, MOST_SPLITS)
    return 1 << max(0, most.bit_length() - 1)


def store(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor, places: Tensor) -> None:
    """Put new keys and values, [1, key-value heads, tokens, size], into the cache; see FixedPass."""
    key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (key, value))
    _, heads, tokens, size = key.shape
    value_size = value.shape[3]
    _store_kernel[(tokens, heads)](
        key, value, keys, values, slots, places, key.stride(2), key.stride(1), value.stride(2), value.stride(1),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), SIZE=size, VALUE_SIZE=value_size,
        D=triton.next_power_of_2(size), DV=triton.next_power_of_2(value_size), num_warps=1,
    )  # fmt: skip


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    slots: Tensor,
    offsets: Tensor,
    counts: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    window: int | None,
    cap: float | None,
    tree: tuple[Tensor, Tensor] | None,
    splits: int | None,
    buffers: dict[tuple, Tensor],
) -> Tensor:
    """The attention of packed tokens to the cache, where their own keys and values are already; see FixedPass.

    Args:
        query: [1, heads, tokens, size].
        keys, values: [slots, key-value heads, capacity, size].
        tree: which new tokens each one sees, as bits, and how deep it stands in its tree; [tokens] both.
        splits: of the keys, a power of two; None: as many as pay.
        buffers: made by the first layer of a pass, and used by the others.

    Returns:
        [1, tokens, heads, size of a value]; 0 where a token is padding. Good until the next layer's.
    """
    query = query if query.stride(3) == 1 else query.contiguous()
    _, heads, tokens, size = query.shape
    kv_heads, capacity, value_size = values.shape[1:]
    repeats = heads // kv_heads
    padded, padded_value = (max(16, triton.next_power_of_2(n)) for n in (size, value_size))
    processors, shared = _limits(query.device)
    some, at_once = blocks(repeats * longest, padded, padded_value, query.element_size(), shared)
    rows, parts = slots.shape[0], triton.cdiv(repeats * longest, some)
    if splits is None:
        splits = number_of_splits(capacity, rows * kv_heads * parts, processors)

    def buffer(name: str, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = buffers.get((name, dtype, *sizes))
        if made is None:  # of zeros: what pads a pass is a number, and no part of anything
            made = buffers[name, dtype, *sizes] = torch.zeros(sizes, dtype=dtype, device=query.device)
        return made

    out = buffer("out", 1, tokens, heads, value_size, dtype=query.dtype)
    partial = buffer("partial", splits, tokens, heads, value_size) if splits > 1 else out
    weights = buffer("weights", 2, splits, tokens, heads) if splits > 1 else out
    o_split, w_split = (partial.stride(0), weights.stride(1)) if splits > 1 else (0, 0)
    bits, depths = tree or (counts, counts)
    _attention_kernel[(rows, kv_heads, parts * splits)](
        query, keys, values, out, partial, weights, slots, offsets, counts, starts, bits, depths,
        float(scale), float(cap or 1.0), window or 0, splits, query.stride(2), query.stride(1),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), o_split, out.stride(1), w_split,
        REPEATS=repeats, HEADS=heads, SIZE=size, VALUE_SIZE=value_size, D=padded, DV=padded_value, BM=some, BN=at_once,
        SPLIT=splits > 1, LEAST=KEYS_OF_SPLIT, WINDOW=bool(window), CAP=cap is not None, TREE=tree is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", num_warps=4, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _together_kernel[(tokens, heads)](
            partial, weights, out, o_split, out.stride(1), w_split, HEADS=heads, VALUE_SIZE=value_size, DV=padded_value,
            S=splits, num_warps=4,
        )  # fmt: skip
    return out
