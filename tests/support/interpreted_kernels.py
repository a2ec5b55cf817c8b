"""Tests of the Triton kernels by its interpreter, run by test_fixed_attention.py with TRITON_INTERPRET=1 in the environment."""

import os

import pytest
import torch
import triton
from fixed_passes import SLOTS, Case, cases, random_cache
from hypothesis import example, given, settings
from local_models import ARCHITECTURES
from triton.runtime import interpreter

from language_models.local import engine as engine_of
from language_models.local import triton_attention
from language_models.local.fused_layers import fuse
from language_models.local.graph_engine import GraphEngine
from language_models.local.kernel_check import AttentionKind, fixed_pass, kernels_work, kinds_of
from language_models.local.segments import Segment

assert os.environ["TRITON_INTERPRET"] == "1"
assert not isinstance(triton_attention._attention_kernel, triton.JITFunction)
CPU = torch.device("cpu")
CLOSE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@pytest.fixture(autouse=True)
def short_splits(monkeypatch):
    """Texts of tests are short."""
    monkeypatch.setattr(triton_attention, "KEYS_OF_SPLIT", 16)


@pytest.fixture(autouse=True)
def right_bfloat16(monkeypatch):
    """The interpreter holds bfloat16 as bits, and multiplies the bits."""
    dot = interpreter.InterpreterBuilder.create_dot

    def numbers(tensor):
        if tensor.dtype.scalar is not triton.language.bfloat16:
            return tensor
        return interpreter.TensorHandle((tensor.data.astype("uint32") << 16).view("float32"), triton.language.float32)

    monkeypatch.setattr(
        interpreter.InterpreterBuilder, "create_dot", lambda self, a, b, *more: dot(self, numbers(a), numbers(b), *more)
    )


def simple(**changes) -> Case:
    usual = {"padding": 1, "kv_heads": 2, "repeats": 2, "size": 16, "value_size": 16, "window": None, "cap": None}
    segments = [Segment(2, 60, [0] * 3, 0), Segment(0, 5, [0], 0), Segment(1, 9, [], 0)]
    return Case(**(usual | {"segments": segments, "more": 0, "dtype": torch.float32, "seed": 3} | changes))


@settings(max_examples=2)
@given(case=cases(sizes=(8, 16, 24, 40), dtypes=tuple(CLOSE), most=6))
@example(case=simple(size=80, value_size=112, window=30))
@example(case=simple(size=256, value_size=96, cap=5.0, dtype=torch.bfloat16))
@example(case=simple(segments=[Segment(3, 250, [0] * 2, 0), Segment(0, 140, [0], 0)]))  # four splits, and three
@example(case=simple(size=64, value_size=128, dtype=torch.float16, repeats=7, kv_heads=1, padding=0))
@example(case=simple(segments=[Segment(1, 50, [0] * 63, 0, parents=list(range(-1, 62)))], window=7, kv_heads=1))
def test_kernels_compute_what_plain_torch_does(case):
    cache, before = random_cache(case)
    q, k, v = case.new()
    for kernels in (None, 1, 4):
        cache.layers[0] = tuple(tensor.clone() if kernels else tensor.double() for tensor in before)
        made = fixed_pass(
            cache, case.segments, longest=case.longest, padding=case.padding, kernels=bool(kernels), device=CPU
        )
        made.splits = kernels
        new = (q, k, v) if kernels else (x.double() for x in (q, k, v))
        found = made.attend(0, *new, case.scale, case.window, case.cap)
        assert found.isfinite().all()
        if kernels is None:
            expected, cached = found, cache.layers[0]
            continue
        assert found.dtype == case.dtype
        real = slice(0, case.tokens - case.padding)
        assert (found[:, real] - expected[:, real]).abs().max() <= CLOSE[case.dtype] * max(1, expected.abs().max())
        assert not found[:, real.stop :].any()
        for one, other in zip(cache.layers[0], cached, strict=True):
            assert torch.equal(one[:SLOTS].double(), other[:SLOTS])


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_whole_model(architecture, monkeypatch):
    """With kernels and fused layers."""
    monkeypatch.setattr(engine_of, "block_weights", lambda _: 0)  # blocked linear layers are not put together
    tokens = torch.randint(600, (2, 5), generator=torch.Generator().manual_seed(4)).tolist()
    with torch.inference_mode():
        expected = ARCHITECTURES[architecture](1)(torch.tensor(tokens), use_cache=False).logits.log_softmax(-1).max(-1)
    engine = GraphEngine(ARCHITECTURES[architecture](1), slots=3, longest=64)
    assert max(kind.value_size for kind in kinds_of(engine.model)) == 16
    engine.kernels = True
    found = [[], []]
    fusion = None
    for start, stop in ((0, 3), (3, 5)):
        segments = [Segment(2 - n, start, tokens[n][start:stop], stop - start, 1) for n in range(2)]
        for n, next_tokens in enumerate(engine.run(segments)):
            found[n] += next_tokens
        fusion = fusion or fuse(engine.model)
    assert min(fusion.counts.values()) > 0 or architecture == "gemma2"
    assert [[token.token for token in text] for text in found] == expected.indices.tolist()
    found = torch.tensor([[token.top[0][1] for token in text] for text in found])
    assert (found - expected.values).abs().max() < 1e-4


def test_the_check_of_kernels():
    kind = AttentionKind(4, 1, 24, 16, 100, 5.0, torch.float32)
    assert kernels_work(CPU, frozenset([kind])) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_layers(dtype):
    """All of a Llama-like model's, with heads of no power of two, and what the other models' are no more."""
    model = ARCHITECTURES["qwen2"](2).to(dtype)
    other = ARCHITECTURES["qwen2"](2).to(dtype)
    ids = torch.tensor([[5, 6, 100]])
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        fusion = fuse(model)
        assert fusion.counts == {"linears": 4, "norms": 5, "gates": 2, "rotary": 2}
        found = model(ids, use_cache=False).logits
        assert (found - expected).abs().max() <= CLOSE[dtype] * 10 * expected.std()
        assert not torch.equal(found, expected)
        assert torch.equal(other(ids, use_cache=False).logits, expected)
        fusion.undo()
        assert torch.equal(model(ids, use_cache=False).logits, expected)


@pytest.mark.parametrize("architecture", ["gemma", "qwen3", "olmo", "olmo2", "phi3", "gpt_neox"])
def test_layers_of_other_architectures_compute_the_same_fused(architecture):
    model = ARCHITECTURES[architecture](2)
    ids = torch.tensor([[5, 6, 100]])
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        fuse(model)
        assert (model(ids, use_cache=False).logits - expected).abs().max() <= 1e-4
