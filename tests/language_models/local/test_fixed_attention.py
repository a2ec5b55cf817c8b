"""Attention of passes of fixed sizes: plain torch against the formula, and kernels against plain torch, by Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = needs.module("torch")

from fixed_passes import Case, cases, random_cache  # noqa: E402
from runs import REPOSITORY  # noqa: E402

from language_models.local import fixed_attention, kernel_check, triton_attention  # noqa: E402
from language_models.local.kernel_check import AttentionKind, fixed_pass, kernels_work  # noqa: E402
from language_models.local.slot_cache import SlotCache  # noqa: E402
from scripts.run_tests import OUTCOMES  # noqa: E402

CPU = torch.device("cpu")


def by_formula(case: Case, segment, new: int, at: int, cached, q, k, v) -> torch.Tensor:
    """The attention of one new token of a segment, [heads, value size]: `at` is where it stands in the pass."""
    keys, values = cached
    positions = segment.positions
    path = [new] if segment.parents else range(new + 1)
    while segment.parents and segment.parents[path[-1]] >= 0:
        path.append(segment.parents[path[-1]])
    first = at - new
    seen = [(p, keys[segment.slot, :, p], values[segment.slot, :, p]) for p in range(segment.start)]
    seen += [(positions[n], k[0, :, first + n], v[0, :, first + n]) for n in path]
    seen = [(key, value) for p, key, value in seen if not case.window or p > positions[new] - case.window]
    keys, values = (torch.stack(x, 1).repeat_interleave(case.repeats, 0) for x in zip(*seen, strict=True))
    scores = (keys @ q[0, :, at, :, None])[:, :, 0] * case.scale
    if case.cap:
        scores = case.cap * torch.tanh(scores / case.cap)
    return (scores.softmax(-1)[:, None] @ values)[:, 0]


@settings(max_examples=9)
@given(case=cases(), most=st.sampled_from((1, 700, 1 << 26)))
def test_plain_torch_computes_the_formula(case, most):
    cache, before = random_cache(case)
    made = fixed_pass(cache, case.segments, longest=case.longest, padding=case.padding, kernels=False, device=CPU)
    q, k, v = case.new()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_attention, "MOST_SCORES", most)
        found = made.attend(0, q, k, v, case.scale, case.window, case.cap)
        assert torch.equal(found, made.attend(0, q, k, v, case.scale, case.window, case.cap))  # what was kept is right
    assert found.isfinite().all()
    assert found.shape == (1, case.tokens, case.heads, case.value_size)
    at = 0
    for segment in case.segments:
        for new in range(len(segment.tokens)):
            expected = by_formula(case, segment, new, at, before, q, k, v)
            assert (expected - found[0, at]).abs().max() < 1e-5
            for old, now, added in zip(before, cache.layers[0], (k, v), strict=True):
                old[segment.slot, :, segment.start + new] = added[0, :, at]
                assert torch.equal(old[segment.slot, :, segment.start + new], now[segment.slot, :, segment.start + new])
            at += 1
    for old, now in zip(before, cache.layers[0], strict=True):
        assert torch.equal(old[: cache.slots], now[: cache.slots])  # nothing else has changed


def test_scores_of_long_texts_are_computed_in_parts():
    """33 samples of 1,024 new tokens behind 32,768: 72 TB at once."""
    made = fixed_pass(SlotCache(33, 32768), [], longest=1024, padding=1, kernels=False, device=CPU)
    made.slots, made.span = torch.zeros(33), 32768
    parts = list(made._chunks(heads=32))
    assert sorted((row, token) for rows, tokens in parts for row in _range(rows) for token in _range(tokens)) == [
        (row, token) for row in range(33) for token in range(1024)
    ]
    assert (
        max(len(_range(rows)) * len(_range(tokens)) for rows, tokens in parts) * 32 * 32768
        <= fixed_attention.MOST_SCORES
    )


def _range(part: slice) -> range:
    return range(part.start, part.stop)


class TestRoom:
    def cache(self) -> SlotCache:
        cache = SlotCache(2, 1000)
        cache.make_room(100)
        for layer in range(3):
            for tensor in cache.of_layer(layer, torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 4)):
                tensor.normal_()
        return cache

    def test_grows_by_doubling_up_to_the_longest_text_and_keeps_what_is_there(self):
        cache = self.cache()
        old = {layer: pair[0].clone() for layer, pair in cache.layers.items()}
        assert [cache.capacity, cache.make_room(256), cache.make_room(257), cache.capacity] == [256, False, True, 512]
        assert [cache.make_room(900), cache.capacity, cache.make_room(1024)] == [True, 1024, False]
        for layer, (keys, values) in cache.layers.items():
            assert (keys.shape, values.shape) == ((3, 2, 1024, 8), (3, 2, 1024, 4))
            assert torch.equal(keys[:, :, :256], old[layer])
            assert not keys[:, :, 256:].any()
        assert cache.bytes == 3 * 3 * 2 * 1024 * 12 * 4

    def test_no_memory_for_more_leaves_what_is_there(self, monkeypatch):
        cache = self.cache()
        old = {layer: [x.clone() for x in pair] for layer, pair in cache.layers.items()}
        new_zeros, calls = torch.Tensor.new_zeros, []

        def sometimes(tensor, *sizes):
            calls.append(sizes)
            if len(calls) == 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return new_zeros(tensor, *sizes)

        monkeypatch.setattr(torch.Tensor, "new_zeros", sometimes)
        with pytest.raises(torch.OutOfMemoryError):
            cache.make_room(500)
        assert cache.capacity == 256
        for layer, pair in old.items():
            for tensor, now in zip(pair, cache.layers[layer], strict=True):
                assert torch.equal(tensor, now[:, :, :256])
        assert cache.make_room(500)
        assert {tensor.shape[2] for pair in cache.layers.values() for tensor in pair} == {cache.capacity} == {512}


@pytest.mark.parametrize(
    ("capacity", "programs", "processors", "splits"),
    [
        (512, 32, 132, 1),  # short texts are read by one program
        (1024, 32, 132, 2),
        (8192, 32, 132, 8),  # one sample, 32 key-value heads
        (32768, 8, 132, 32),
        (131072, 8, 132, 32),
        (8192, 8, 132, 16),
        (8192, 32 * 8, 132, 1),  # eight samples keep the GPU busy by themselves
        (32768, 8 * 8, 132, 4),
        (32768, 1, 1, 2),
        (0, 1, 132, 1),
    ],
)
def test_number_of_splits(capacity, programs, processors, splits):
    assert triton_attention.number_of_splits(capacity, programs, processors) == splits


@given(
    queries=st.integers(1, 5000),
    size=st.sampled_from((16, 32, 64, 128, 256)),
    value_size=st.sampled_from((16, 64, 128, 256)),
    element=st.sampled_from((2, 4)),
    shared=st.integers(52_000, 200_000),
)
def test_blocks_fit_into_shared_memory(queries, size, value_size, element, shared):
    some, keys = triton_attention.blocks(queries, size, value_size, element, shared)
    assert some in (16, 32, 64)
    assert keys in (16, 32, 64)
    least = element * (16 * size + 32 * (size + value_size))
    assert element * (some * size + 2 * keys * (size + value_size)) <= max(shared, least)


KIND = AttentionKind(4, 2, 32, 32, None, None, torch.float32)


class TestCheck:
    @pytest.fixture(autouse=True)
    def fresh(self):
        kernels_work.cache_clear()
        yield
        kernels_work.cache_clear()

    def test_without_triton(self, monkeypatch):
        monkeypatch.setattr(triton_attention, "triton", None)
        assert kernels_work(CPU, frozenset([KIND])) == "triton is not installed"
        assert not triton_attention.usable(64, 64)

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (lambda out: out + 1e-3, "torch.float32 numbers differ from those of PyTorch by 0.001"),
            (lambda out: out * float("nan"), "torch.float32 numbers differ from those of PyTorch by inf"),
            (lambda out: 1 / 0, "ZeroDivisionError: division by zero"),
        ],
    )
    def test_kernels_that_are_wrong(self, monkeypatch, fault, reason):
        """Plain torch stands in for them, with a fault."""
        monkeypatch.setattr(triton_attention, "triton", "is there")
        monkeypatch.setattr(triton_attention, "store", _stored)
        held = {}
        monkeypatch.setattr(triton_attention, "attend", lambda *args, **more: held["fault"](_attended(*args, **more)))
        held["fault"] = lambda out: out
        kinds = frozenset([KIND, KIND._replace(window=100), KIND._replace(cap=5.0), KIND._replace(size=300)])
        assert kernels_work(CPU, kinds) == ""
        held["fault"] = fault
        kernels_work.cache_clear()
        assert kernels_work(CPU, kinds) == reason


def _stored(key, value, keys, values, slots, places) -> None:
    keys[slots, :, places] = key[0].transpose(0, 1)
    values[slots, :, places] = value[0].transpose(0, 1)


def _attended(query, keys, values, *, slots, offsets, counts, starts, longest, scale, window, cap, tree, **_):
    made = fixed_attention.FixedPass(None, None, None, slots, offsets, counts, starts, longest, keys.shape[2], False)
    if tree is not None:
        made.seen = tree[0]
        made._tree = lambda _: tree
    return made._by_torch(query, keys, values, scale, window, cap)


@pytest.mark.long
@pytest.mark.slow
def test_kernels_by_the_interpreter():
    """They are interpreted only if Triton is told so before it is imported: so in a process of its own."""
    needs.module("triton", why="the kernels are run by {}'s interpreter")
    file = REPOSITORY / "tests" / "support" / "interpreted_kernels.py"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", OUTCOMES))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)],
        cwd=REPOSITORY,
        env=clean | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["triton_attention", "fused_kernels"])
def test_files_of_kernels_are_imported_without_triton(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    path = Path(kernel_check.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_without_triton", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.triton is None
