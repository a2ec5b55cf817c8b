"""The Triton kernels compiled, and replayed from a CUDA graph; by the interpreter they are tested everywhere."""

import needs
import pytest

torch = needs.module("torch")

from fixed_passes import SLOTS  # noqa: E402
from local_models import ARCHITECTURES  # noqa: E402

from language_models.local.attention import OWN_ATTENTION  # noqa: E402
from language_models.local.fixed_attention import FixedPass  # noqa: E402
from language_models.local.fused_layers import fuse  # noqa: E402
from language_models.local.kernel_check import AttentionKind, fixed_pass, kernels_work, kinds_of  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402
from language_models.local.slot_cache import SlotCache  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=needs.NO_GPU)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kind",
    [
        (32, 32, 128, 128, None, None),
        (32, 8, 128, 128, None, None),
        (8, 1, 256, 256, 1024, 50.0),
        (12, 12, 64, 64, None, None),
        (7, 1, 80, 80, 7, None),
        (4, 2, 96, 112, None, 30.0),
    ],
)
def test_compute_what_plain_torch_does(kind, dtype):
    kernels_work.cache_clear()
    assert kernels_work(torch.device("cuda", 0), frozenset([AttentionKind(*kind, dtype)])) == ""


@pytest.mark.parametrize("splits", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_replayed_from_a_graph(dtype, splits):
    """Captured once, with segments of no use; then the numbers on the device are others."""
    device, capacity = torch.device("cuda", 0), 8192
    tree = (-1, 0, 1, 1, 0, 4, -1)
    mixes = (
        [Segment(0, 0, [0], 0), Segment(1, 0, [0], 0), Segment(2, 0, [0] * 15, 0, parents=tuple(range(-1, 14)))],
        [Segment(3, 8000, [0] * 8, 0), Segment(0, 17, [0] * 2, 0), Segment(1, 5000, [0] * 7, 0, parents=tree)],
        [Segment(2, 100, [0] * 7, 0, parents=tree), Segment(3, 8191, [0], 0), Segment(0, 4000, [0] * 9, 0)],
    )
    cached = [torch.randn(SLOTS + 1, 2, capacity, 64, device=device).to(dtype) for _ in range(2)]
    new = [torch.randn(1, heads, 17, 64, device=device).to(dtype) for heads in (8, 2, 2)]

    def packed(segments: list[Segment], kernels: bool) -> FixedPass:
        cache = SlotCache(SLOTS, capacity)
        cache.capacity = capacity
        cache.layers[0] = tuple(x.clone() if kernels else x.double() for x in cached)
        padding = 17 - sum(len(segment.tokens) for segment in segments)
        return fixed_pass(cache, segments, longest=15, padding=padding, kernels=kernels, device=device)

    captured = packed(mixes[0], kernels=True)
    captured.splits = splits
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)  # what was drawn is there for the other stream
    with torch.inference_mode(), torch.cuda.stream(stream):
        captured.attend(0, *new, 0.125, 1000, 20.0)
        stream.synchronize()
        captured._made.clear()
        with torch.cuda.graph(graph, stream=stream):
            out = captured.attend(0, *new, 0.125, 1000, 20.0)
        for segments in mixes:
            made, tokens = packed(segments, kernels=False), sum(len(segment.tokens) for segment in segments)
            for old, other in zip(captured.cache.layers[0], cached, strict=True):
                old.copy_(other)
            for name in ("token_slots", "places", "slots", "offsets", "counts", "starts", "seen"):
                getattr(captured, name).copy_(getattr(made, name))
            graph.replay()
            stream.synchronize()
            expected = made.attend(0, *(x.double() for x in new), 0.125, 1000, 20.0)
            close = 1e-4 if dtype == torch.float32 else 0.05
            assert (out[:, :tokens].double() - expected[:, :tokens]).abs().max() <= close
            assert not out[:, tokens:].any()
            for one, other in zip(captured.cache.layers[0], made.cache.layers[0], strict=True):
                assert torch.equal(one[:SLOTS].double(), other[:SLOTS])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_layers_compute_the_same(architecture):
    model = ARCHITECTURES[architecture](2).to("cuda")
    ids = torch.tensor([[5, 6, 7, 8, 9, 100]], device="cuda")
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        fusion = fuse(model)
        assert (model(ids, use_cache=False).logits - expected).abs().max() <= 1e-3
        fusion.undo()
        assert torch.equal(model(ids, use_cache=False).logits, expected)
    model.set_attn_implementation(OWN_ATTENTION)
    assert kernels_work(model.device, kinds_of(model)) == ""
