"""Triton kernels for the small operations of Llama-like layers: rotary positions, and the gate of the feed-forward layer."""

from torch import Tensor, device, empty

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:

    @triton.jit
    def _rotary_kernel(
        q, k, cos, sin, q_out, k_out, q_token, q_head, k_token, k_head, c_token, s_token,
        HQ: tl.constexpr, HK: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0).to(tl.int64)
        h = tl.program_id(1)
        i = tl.arange(0, BLOCK)
        inside = i < HALF
        c1 = tl.load(cos + n * c_token + i, mask=inside).to(tl.float32)
        c2 = tl.load(cos + n * c_token + HALF + i, mask=inside).to(tl.float32)
        s1 = tl.load(sin + n * s_token + i, mask=inside).to(tl.float32)
        s2 = tl.load(sin + n * s_token + HALF + i, mask=inside).to(tl.float32)
        if h < HQ:
            source = q + n * q_token + h * q_head
            target = q_out + (n * HQ + h) * (2 * HALF)
        else:
            source = k + n * k_token + (h - HQ) * k_head
            target = k_out + (n * HK + h - HQ) * (2 * HALF)
        a = tl.load(source + i, mask=inside).to(tl.float32)
        b = tl.load(source + HALF + i, mask=inside).to(tl.float32)
        tl.store(target + i, (a * c1 - b * s1).to(q_out.dtype.element_ty), mask=inside)
        tl.store(target + HALF + i, (b * c2 + a * s2).to(q_out.dtype.element_ty), mask=inside)

    @triton.jit
    def _silu_kernel(both, out, size, row, BLOCK: tl.constexpr):
        n = tl.program_id(0).to(tl.int64)
        i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = i < size
        gate = tl.load(both + n * row + i, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(both + n * row + size + i, mask=inside, other=0.0).to(tl.float32)
        small = tl.exp(-tl.abs(gate))  # never overflows
        share = tl.where(gate < 0, small, 1.0) / (1 + small)
        tl.store(out + n * size + i, (gate * share * up).to(out.dtype.element_ty), mask=inside)


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions (arXiv 2104.09864) of [1, heads, tokens, size]; the memory of the result is [tokens, heads, size].

    `cos` and `sin`: [1, tokens, size].
    """
    _, hq, tokens, size = q.shape
    hk = k.shape[1]
    q_out, k_out = (empty(tokens, n, size, dtype=x.dtype, device=x.device) for n, x in ((hq, q), (hk, k)))
    _rotary_kernel[(tokens, hq + hk)](
        q, k, cos, sin, q_out, k_out, q.stride(2), q.stride(1), k.stride(2), k.stride(1), cos.stride(1), sin.stride(1),
        HQ=hq, HK=hk, HALF=size // 2, BLOCK=triton.next_power_of_2(size // 2), num_warps=1,
    )  # fmt: skip
    return q_out.transpose(0, 1)[None], k_out.transpose(0, 1)[None]


def fits_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `rotary` computes this."""
    size = q.shape[-1]
    return (
        q.dim() == k.dim() == 4
        and q.shape[0] == 1
        and q.shape[2:] == k.shape[2:]
        and size % 2 == 0
        and q.dtype == k.dtype
        and cos.shape == sin.shape == (1, q.shape[2], size)
        and all(x.stride(-1) == 1 for x in (q, k, cos, sin))
    )


def silu_times(both: Tensor) -> Tensor:
    """[..., 2 x size] -> [..., size]: silu of the first half times the second (SwiGLU, arXiv 2002.05202)."""
    size = both.shape[-1] // 2
    flat = both.reshape(-1, 2 * size)
    out = empty(flat.shape[0], size, dtype=both.dtype, device=both.device)
    _silu_kernel[(flat.shape[0], triton.cdiv(size, 1024))](flat, out, size, flat.stride(0), BLOCK=1024, num_warps=4)
    return out.view(*both.shape[:-1], size)


def run_on(place: device) -> bool:
    """Whether there is Triton, and it runs on a device: one of CUDA, or any by its interpreter."""
    return triton is not None and (place.type == "cuda" or not isinstance(_silu_kernel, triton.JITFunction))
