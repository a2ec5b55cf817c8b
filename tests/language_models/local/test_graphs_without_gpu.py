"""What is done on a GPU alone, by doubles: set-up, graphs that write into each other's memory, streams, and memory given back."""

import gc
import weakref

import needs
import pytest

torch = needs.module("torch")

from local_models import KINDS  # noqa: E402
from tiny_models import make_model  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from language_models.interface import ModelError  # noqa: E402
from language_models.local import captures, engines, fixed_sizes, fused_layers, graph_engine  # noqa: E402
from language_models.local import engine as engine_base  # noqa: E402
from language_models.local.engines import make_engine  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402


class Graph:
    """Stands for a CUDA graph of a pool: what a replay writes may lie where any other graph has left its results."""

    def __init__(self, fixed, pooled):
        self.fixed, self.pooled = fixed, pooled

    def replay(self):
        for other in self.fixed.engine.sizes_made._shapes.values():
            if other is not self.fixed and other.graph:
                for name in other.graph.pooled:
                    getattr(other, name).fill_(float("nan"))
        self.fixed.forward()


@pytest.fixture
def pooled(monkeypatch):
    """Engines whose graphs share memory: all tensors that a pass makes are in it, those that were there before are not."""

    def record(work, pool, device):
        fixed = work.__self__
        before = fixed.logits, fixed.out
        work()
        names = zip(("logits", "out"), before, (fixed.logits, fixed.out), strict=True)
        return Graph(fixed, [name for name, old, new in names if new is not None and new is not old])

    plain = captures.FixedSizes.__init__
    monkeypatch.setattr(fixed_sizes, "record_graph", record)
    monkeypatch.setattr(
        captures.FixedSizes, "__init__", lambda self, engine, wanted, tell: plain(self, engine, True, tell)
    )


def test_steps_leave_alone_what_the_pass_before_them_has_found(pooled):
    engine, plain = make_engine(KINDS["llama"](1), slots=3, longest=128, kind="graphs"), KINDS["llama"](1)
    tokens = [(7 * i) % 500 for i in range(60)]
    ids = list(tokens)
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(plain(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    for most, top in ((1024, 1), (1024, 3), (8, 1), (32, 3)):  # in one pass, and in several
        engine.most = most
        found, other = engine.run([Segment(0, 0, tokens, 2, top, ahead=3), Segment(1, 0, tokens[:9], 1, 1)])
        assert [token.token for token in found[1:]] == ids[60:], (most, top)
        logprobs = [x for token in [*found, *other] for _, x in token.top]
        assert len(logprobs) == 2 * top + 3 + 1 and all(-50 < x <= 0 for x in logprobs)


def test_the_whole_set_up(pooled, monkeypatch):
    """Layers are fused, measured, and the graphs captured after that are right; counts begin at 0."""
    fuse, model = graph_engine.fuse_where_it_pays, KINDS["llama"](1)

    def as_on_a_gpu(*asked):
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "device", torch.device("cuda", 0))
            patch.setattr(fused_layers, "WORTH", float("inf"))
            return fuse(*asked)

    monkeypatch.setattr(engine_base, "block_weights", lambda model: 0)  # of CPUs alone
    monkeypatch.setattr(graph_engine, "fuse_where_it_pays", as_on_a_gpu)
    engine = make_engine(model, slots=2, longest=128, kind="graphs")
    assert not engine.fallbacks and engine.kind == "graphs"
    report = engine.report
    assert report["fused_layers"]["linears"] and report["why_not_fused"] == "" and report["cache_grown"] == 0
    assert report["graphs"] == 1 and engine.passes == engine.tokens == 0
    tokens = [(7 * i) % 500 for i in range(60)]
    with torch.inference_mode():
        expected = KINDS["llama"](1)(torch.tensor([tokens]), use_cache=False).logits[0, -9:]
    (found,) = engine.outputs([Segment(1, 0, tokens, 9)])
    assert (found - expected).abs().max() < 1e-3 and engine.passes == 1


class Watched(TorchDispatchMode):
    """Notes what is computed."""

    def __init__(self):
        super().__init__()
        self.after: list[str] | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.after is not None:
            self.after.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("most", [8, 1024])
def test_outputs_are_there_when_the_stream_is_through(monkeypatch, most):
    """Whoever asked reads them on another stream: nothing may be started after that."""
    engine, watched = make_engine(make_model("llama", 1), slots=2, longest=128, kind="graphs"), Watched()
    engine.most = most
    monkeypatch.setattr(engine, "wait", lambda: setattr(watched, "after", []))
    with watched:
        found = engine.outputs([Segment(0, 0, [3] * 40, 30), Segment(1, 0, [5] * 5, 5)])
    assert [len(rows) for rows in found] == [30, 5] and watched.after == []


def test_measuring_that_fails_leaves_no_graph(pooled, monkeypatch):
    """It would have the addresses of weights that are given up, and of a cache that grows."""
    plain, made = graph_engine.GraphEngine._prepare, []

    def prepare(engine):
        plain(engine)
        with monkeypatch.context() as patch:
            outputs = engine.outputs

            def fail(segments):
                outputs(segments)
                made.append(engine.sizes_made.captured)
                if len(made) == 2:
                    raise RuntimeError("no kernel image is available")

            patch.setattr(engine, "outputs", fail)
            with pytest.raises(RuntimeError, match="kernel image"):
                engine._pass_seconds()
        assert made == [1, 1] and not engine.sizes_made.captured and engine.passes == 0

    monkeypatch.setattr(graph_engine.GraphEngine, "_prepare", prepare)
    engine = make_engine(make_model("llama", 1), slots=2, longest=128, kind="graphs")
    assert engine.kind == "graphs" and made, engine.fallbacks


def test_short_memory_gives_back_all_graphs(pooled, monkeypatch):
    """They share memory, so that none comes back while one is left."""
    engine = make_engine(make_model("llama", 1), slots=2, longest=128, kind="graphs")
    engine.measure()
    forward, left = fixed_sizes.FixedSize.forward, []

    def fail(self):
        forward(self)
        left.append(engine.sizes_made.captured)
        if self.shape.tokens > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fixed_sizes.FixedSize, "forward", fail)
    assert len(engine.run([Segment(0, 0, [5] * 30, 1, 1)])[0]) == 1 and engine.most == 8
    assert left[0] > 2 and 0 in left


@pytest.mark.parametrize("engine_fails", [RuntimeError("no kernel image is available\nand more"), None])
def test_an_engine_that_is_given_up_keeps_no_memory(pooled, monkeypatch, engine_fails):
    """Cyclic references keep it till Python looks for them, and packed passes need the memory before."""
    made, make_cache = [], graph_engine.GraphEngine.make_cache
    monkeypatch.setattr(
        graph_engine.GraphEngine, "make_cache", lambda *asked: made.append(make_cache(*asked)) or made[-1]
    )
    tensors = []

    def record(work, pool, device):
        tensors.extend(weakref.ref(x) for pair in made[0].layers.values() for x in pair)
        raise RuntimeError("no captures here")

    monkeypatch.setattr(fixed_sizes, "record_graph", record)
    if engine_fails:

        def fail(self, expected):
            tensors.extend(weakref.ref(x) for pair in made[0].layers.values() for x in pair)
            raise engine_fails

        monkeypatch.setattr(graph_engine.Room, "begin", fail)
        monkeypatch.setattr(engines, "is_ours", lambda error: False)
    gc.disable()
    try:
        model = KINDS["llama"](1)
        engine = make_engine(model, slots=2, longest=128, kind="graphs")
        assert engine.kind == "packed" and tensors and all(ref() is None for ref in tensors)
    finally:
        gc.enable()
    (line,) = engine.fallbacks
    reason = "passes of fixed sizes fail (no kernel image is available)" if engine_fails else "no captures here"
    assert reason in line and "packed passes compute it" in line


def test_what_stands_behind_a_fallback_is_told(monkeypatch):
    """A fault of ours that comes on a GPU alone, say."""

    def fail(engine):
        raise AttributeError("no such thing")

    monkeypatch.setattr(graph_engine.GraphEngine, "_prepare", fail)
    engine = make_engine(make_model("llama", 1), slots=1, longest=64, kind="graphs")
    assert engine.kind == "packed" and "by itself (AttributeError: no such thing); packed" in engine.fallbacks[0]
    monkeypatch.setattr(graph_engine.GraphEngine, "_prepare", lambda engine: None)
    monkeypatch.setattr(graph_engine.GraphEngine, "_in_pieces", _short_of_memory)
    engine = make_engine(make_model("llama", 1), slots=1, longest=64, kind="graphs")
    assert engine.kind == "packed" and "fixed sizes fail (a forward pass of" in engine.fallbacks[0]


def _short_of_memory(engine, tokens):
    raise ModelError("a forward pass of LlamaForCausalLM failed (CUDA out of memory)")
