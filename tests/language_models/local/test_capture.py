"""CUDA graphs as they are captured on a GPU; what else there is of passes of fixed sizes is tested without one."""

import gc

import needs
import pytest

torch = needs.module("torch")

from local_models import BYTE_LEVEL, KINDS, PROMPT, TokenByToken, greedy, ids_of  # noqa: E402

from language_models.interface import ModelError, SamplingParams  # noqa: E402
from language_models.local import fixed_sizes  # noqa: E402
from language_models.local.engines import make_engine  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=needs.NO_GPU)
LONG = [(7 * i) % 500 for i in range(500)]


def model_on(device="cuda:0", kind="llama", **options):
    options = {"end_ids": frozenset(), "context_length": 512, "draft_ahead": False} | options
    return LocalModel(f"{kind} on {device}", KINDS[kind](1).to(device), BYTE_LEVEL, **options)


def answer(model, n=40, prompt=PROMPT):
    stream = greedy(model.for_sample(prompt), prompt, n)
    list(stream)
    return ids_of(stream)


def expected(kind="llama", n=40, prompt=PROMPT):
    return TokenByToken(KINDS[kind](1), BYTE_LEVEL).ids(prompt, n)


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_are_captured_and_replayed(kind):
    model = model_on(kind=kind, samples=3)
    report = model.engine.report
    assert report["kind"] == "graphs" and report["captured"] and report["kernels"], report
    assert not report["uncaptured"] and not report["fallbacks"] and report["capture_seconds"] > 0
    assert answer(model) == answer(model) == expected(kind)
    assert model.engine.report["graphs"] >= report["graphs"]


def test_drawn_tokens_and_several_log_probabilities():
    found = []
    for engine in ("graphs", "packed"):
        model = model_on(engine=engine)
        stream = model.for_sample("a").stream(PROMPT, SamplingParams(20, temperature=1.2, top_p=0.9, logprobs=5))
        found.append([(token.text, [text for text, _ in token.top]) for token in stream])
    assert found[0] == found[1]


def test_outputs_are_read_on_another_stream_and_kept_over_passes():
    engine, plain = make_engine(KINDS["llama"](1).to("cuda"), slots=2, longest=512), KINDS["llama"](1).to("cuda")
    engine.most = 128
    for n in (500, 300, 500):
        (rows,) = engine.outputs([Segment(1, 0, LONG[:n], n - 50)])
        with torch.inference_mode():
            logits = plain(torch.tensor([LONG[:n]], device="cuda"), use_cache=False).logits[0, 50:]
        assert (rows - logits).abs().max() < 1e-3


def test_growth_captures_again_and_keeps_what_is_cached():
    model = model_on(samples=2, expected_tokens=64)
    engine, stream = model.engine, greedy(model.for_sample(0), PROMPT, 30, logprobs=1)
    assert engine.capacity == 512
    engine.longest = engine.cache.longest = 4096
    for _ in range(10):
        next(stream)
    graphs = engine.sizes_made.captured
    for tokens in (900, 1100, 3000):  # further than the model's positions go, which harms nobody else
        engine.run([Segment(1, 0, (LONG * 6)[:tokens], 1, 1)])
        assert engine.sizes_made.captured < graphs
    assert engine.report["cache_grown"] == 3 and engine.capacity == 4096
    list(stream)
    assert ids_of(stream) == expected(n=30) and answer(model) == expected() and not engine.report["uncaptured"]


@pytest.mark.parametrize("fault", ["an error of our own", "a synchronisation", "an allocation"])
def test_a_capture_that_fails_leaves_nothing_behind(monkeypatch, fault):
    """The stream captures no longer, memory can be given back, the sizes captured before and after are good."""
    model, plain = model_on(samples=2), KINDS["llama"](1)
    engine = model.engine
    forward, capturing = fixed_sizes.FixedSize.forward, torch.cuda.is_current_stream_capturing

    def fail(self):
        forward(self)
        if self.shape.tokens == 64 and capturing():
            if fault == "a synchronisation":
                self.inputs.sum().item()
            elif fault == "an allocation":
                torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
            raise RuntimeError("an error of our own")

    engine.sizes_made.drop()
    monkeypatch.setattr(fixed_sizes.FixedSize, "forward", fail)
    for tokens in (8, 50, 100, 50):
        (found,) = engine.run([Segment(0, 0, LONG[:tokens], 1, 1)])
        with torch.inference_mode():
            logits = plain(torch.tensor([LONG[:tokens]]), use_cache=False).logits[0, -1]
        assert found[0].token == int(logits.argmax())
    report = engine.report
    assert [shape.split(" ")[0] for shape in report["uncaptured"]] == ["64"] and len(report["fallbacks"]) == 1
    assert not capturing() and answer(model) == expected()
    engine.sizes_made.drop()
    gc.collect()
    torch.cuda.empty_cache()
    assert answer(model) == expected()


def test_no_memory_for_a_larger_cache():
    model = model_on(samples=2)
    engine, stream = model.engine, greedy(model.for_sample(0), PROMPT, 30, logprobs=1)
    next(stream)
    ballast, size = [], 1 << 36
    while size >= 1 << 20:
        try:
            ballast.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    engine.longest = engine.cache.longest = 1 << 20
    with pytest.raises(ModelError, match="no memory on cuda:0 for the cache of a text of 900000 tokens"):
        engine.run([Segment(1, 899_999, [5], 1, 1)])
    del ballast
    torch.cuda.empty_cache()
    list(stream)
    assert ids_of(stream) == expected(n=30)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason=needs.ONE_GPU)
def test_a_model_on_the_second_device():
    """Its kernels and graphs are of that device, whichever is the current one of the thread."""
    first, second = model_on("cuda:0"), model_on("cuda:1")
    assert second.engine.report["captured"] and second.engine.device.index == 1
    assert answer(first) == answer(second) == answer(first) == expected()
    assert torch.cuda.current_device() == 0
