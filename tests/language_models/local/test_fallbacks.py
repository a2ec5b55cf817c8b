"""Passes of fixed sizes where something fails: what runs instead, who is told, and that nobody else's text changes."""

import functools
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import needs
import pytest

torch = needs.module("torch")

from fixed_engines import NO_MEMORY, answer, expected, on_cpu  # noqa: E402
from local_models import BYTE_LEVEL, PROMPT, local  # noqa: E402
from tiny_models import make_model  # noqa: E402

from command.unexpected import is_ours  # noqa: E402
from experiment import sample  # noqa: E402
from language_models.interface import DeviceLostError, ModelError, SamplingParams  # noqa: E402
from language_models.local import captures, engines, faults, fixed_sizes, graph_engine  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402
from language_models.local.worker import _answer, _Request  # noqa: E402


class Graph:
    """Stands for a CUDA graph: what it replays is the work itself."""

    def __init__(self, work):
        self.replay = work


@pytest.fixture
def capturing(monkeypatch):
    """Engines that capture, as on a CUDA device; `fails` says of the n-th capture what it raises."""

    class Captures:
        count, fails = 0, staticmethod(lambda n: None)

    def record(work, pool, device):
        captured.count += 1
        if error := captured.fails(captured.count):
            raise error
        work()
        return Graph(work)

    captured = Captures()
    plain = captures.FixedSizes.__init__
    monkeypatch.setattr(fixed_sizes, "record_graph", record)
    monkeypatch.setattr(
        captures.FixedSizes, "__init__", lambda self, engine, wanted, tell: plain(self, engine, True, tell)
    )
    return captured


@pytest.fixture
def with_kernels(monkeypatch):
    """Passes without graphs count as good ones, as where there are the Triton kernels."""
    plain = graph_engine.GraphEngine._prepare

    def prepare(engine):
        plain(engine)
        engine.kernels = True
        engine.computed = functools.partial(_by_torch, engine, engine.computed)

    monkeypatch.setattr(graph_engine.GraphEngine, "_prepare", prepare)


def _by_torch(engine, plain, ids, positions, packed, kept):
    packed.kernels = False
    return plain(ids, positions, packed, kept)


def test_captures_and_replays(capturing):
    """Graphs that grow with the cache: the old ones are gone before there are new tensors."""
    model = local("llama", 1, samples=2, engine="graphs")
    engine, graphs = model.engine, model.engine.report["graphs"]
    assert graphs and capturing.count >= graphs and engine.report["captured"] and not engine.fallbacks
    assert answer(model) == expected(1)
    engine.longest = engine.cache.longest = 2048
    made, make_room = [], engine.cache.make_room
    engine.cache.make_room = lambda *asked: made.append(engine.report["graphs"]) or make_room(*asked)
    engine.run([Segment(1, 0, [5] * 600, 1, 1)])
    assert made == [0] and engine.report["cache_grown"] == 1 and engine.report["graphs"] == 1
    assert answer(model) == expected(1) and engine.report["graphs"] > 1


def test_a_size_that_cannot_be_captured_runs_without(capturing, with_kernels):
    capturing.fails = lambda n: RuntimeError("operation not permitted\nwhen capturing") if n == 3 else None
    model = local("llama", 2, samples=2, engine="graphs")
    assert answer(model) == expected(2) == answer(model)
    report = model.engine.report
    assert list(report["uncaptured"].values()) == ["RuntimeError: operation not permitted"] and report["captured"]
    (line,) = report["fallbacks"]
    assert (
        "LlamaForCausalLM: passes of" in line and "run without a CUDA graph (RuntimeError: operation not perm" in line
    )


@pytest.mark.parametrize("error", [RuntimeError("no captures here"), torch.OutOfMemoryError(NO_MEMORY)])
def test_where_no_size_can_be_captured_no_more_are_tried(capturing, with_kernels, error):
    capturing.fails = lambda n: error
    model = local("llama", 2, samples=2, engine="graphs")
    assert answer(model) == expected(2) and capturing.count == captures.TRIES
    report = model.engine.report
    assert report["kind"] == "graphs" and not report["captured"] and len(report["uncaptured"]) == captures.TRIES
    assert len(report["fallbacks"]) == 2 and "no CUDA graph can be captured" in report["fallbacks"][1]


def test_without_graphs_and_kernels_a_model_gets_packed_passes(capturing):
    capturing.fails = lambda n: RuntimeError("no captures here")
    model = local("llama", 2, engine="graphs")
    report = model.engine.report
    assert report["kind"] == "packed" and answer(model) == expected(2)
    assert report["fallbacks"] == [
        "LlamaForCausalLM: no CUDA graph can be captured, and there are no Triton kernels (RuntimeError: no captures here); "
        "packed passes compute it"
    ]


def test_what_a_failing_capture_has_made_is_not_read(capturing, with_kernels):
    """Its tensors lie in the memory of a graph that is none."""
    model = local("llama", 3, engine="graphs")
    engine = model.engine
    engine.sizes_made.drop()

    def record(work, pool, device):
        work()
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")

    fixed = fixed_sizes.FixedSize(engine, fixed_sizes.Shape(8, 8, 256))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(fixed_sizes, "record_graph", record)
        fixed.warm_up()
        assert fixed.logits is not None
        with pytest.raises(RuntimeError, match="Invalidated"):
            fixed.capture()
    assert fixed.graph is fixed.logits is None


class CUDAGraph:
    """torch's graph with calls that are noted; some fail."""

    calls, failing = [], ()

    def __getattr__(self, name):
        def call(**_):
            self.calls.append(name)
            if name in self.failing:
                raise RuntimeError(f"{name} failed")

        return call


@pytest.mark.parametrize(
    "failing, work_fails, raised, calls",
    [
        ((), False, None, ["capture_begin", "capture_end"]),
        ((), True, "the work", ["capture_begin", "capture_end", "left"]),
        (("capture_end",), True, "the work", ["capture_begin", "capture_end", "left"]),
        (("capture_end",), False, "capture_end", ["capture_begin", "capture_end", "left"]),
        (("capture_begin",), False, "capture_begin", ["capture_begin", "left"]),
    ],
)
def test_a_capture_ends_whatever_happens(monkeypatch, failing, work_fails, raised, calls):
    """And says why it failed by the first error, not by the one of its end."""
    monkeypatch.setattr(CUDAGraph, "calls", [])
    monkeypatch.setattr(CUDAGraph, "failing", failing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "current_stream", mock.Mock())
    leave = lambda device, pool: CUDAGraph.calls.append("left")  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", leave, raising=False)

    def work():
        if work_fails:
            raise RuntimeError("the work failed")

    if raised:
        with pytest.raises(RuntimeError, match=f"{raised} failed"):
            fixed_sizes.record_graph(work, "pool", torch.device("cuda", 1))
    else:
        fixed_sizes.record_graph(work, "pool", torch.device("cuda", 1))
    assert CUDAGraph.calls == calls and not fixed_sizes._capturing.locked()


def test_a_model_that_fixed_sizes_do_not_compute_gets_packed_passes(monkeypatch):
    plain = graph_engine.GraphEngine.logits
    monkeypatch.setattr(graph_engine.GraphEngine, "logits", lambda *args: [x + 1 for x in plain(*args)])
    model = local("llama", 6, engine="graphs")
    report = model.engine.report
    assert report["kind"] == "packed" and answer(model) == expected(6)
    assert report["fallbacks"] == [
        "passes of fixed sizes do not compute what LlamaForCausalLM computes by itself "
        "(the logits differ by 1); packed passes compute it"
    ]
    monkeypatch.setattr(engines.PackedEngine, "logits", lambda *args: [x + 1 for x in plain(*args)])
    with pytest.raises(ModelError, match="LlamaForCausalLM cannot be run by run_api.py itself; serve the model"):
        local("llama", 6, engine="graphs")


def test_layers_on_several_devices_get_packed_passes(monkeypatch):
    monkeypatch.setattr(engines, "devices_of", lambda model: [torch.device("cuda", 0), torch.device("cuda", 1)])
    engine = on_cpu(make_model("llama", 1), slots=1, longest=64)
    assert engine.kind == "packed" and engine.fallbacks == [
        "LlamaForCausalLM is on 2 devices; packed passes compute it"
    ]


def test_a_device_that_has_stopped_ends_all(monkeypatch):
    """An illegal memory access, say: whatever comes after it fails too."""
    model = local("llama", 7, samples=3, engine="graphs")
    calls = []

    def run(segments):
        calls.append(len(segments))
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(model.engine, "run", run)
    monkeypatch.setattr(faults, "is_lost", lambda device: True)
    batch = [_Request(model.engine, Segment(slot, 0, [1], 1)) for slot in range(3)]
    _answer(batch)
    assert calls == [3]  # not again for each of them
    for request in batch:
        told = str(request.error)
        assert isinstance(request.error, DeviceLostError) and "\n" not in told
        assert (
            "cpu has stopped computing" in told
            and "illegal memory access" in told
            and "start the command again" in told
        )

    monkeypatch.setattr(sample, "sample_prompts", lambda *_: {})
    monkeypatch.setattr(sample, "decode", lambda *_: (_ for _ in ()).throw(batch[0].error))
    example = type("Example", (), {"id": "1", "question": "", "context": "", "gold": ""})
    data_set = type("Data", (), {"question_prefix": "", "is_own": False})
    settings = type("Settings", (), {"answers": 1, "seed": None})
    with pytest.raises(DeviceLostError):
        sample.answer_one(settings, data_set, 0, example, {}, {}, "published")


def test_a_model_is_alive_until_its_device_has_stopped(monkeypatch):
    """A pass that fails for another reason says nothing of the next one; a device that is lost ends all its models."""
    model, other = local("llama", 7), local("llama", 8)
    monkeypatch.setattr(model.slots.worker, "lost", None)  # the worker is that of all models on the processor

    def fail(segments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as failing:
        failing.setattr(model.engine, "run", fail)
        for lost in (False, True):
            failing.setattr(faults, "is_lost", lambda device, lost=lost: lost)
            model.check_alive(1.0)
            with pytest.raises(ModelError):
                model.complete(PROMPT, SamplingParams(1))
    for one in (model, other, model.shared("base")):
        with pytest.raises(ModelError, match="^cpu has stopped computing"):
            one.check_alive(1.0)


def test_whether_a_device_has_stopped(monkeypatch):
    """One error concerns one call; one that comes again and again, everything."""
    assert not faults.is_lost(torch.device("cpu"))
    left = [0]

    def synchronize(device):
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch, "ones", lambda n, device: torch.tensor([1.0]))
    for errors, lost in ((0, False), (1, False), (2, True), (9, True)):
        left[0] = errors
        assert faults.is_lost(torch.device("cuda", 0)) == lost


def test_a_capture_that_ends_the_device_is_no_fallback(capturing, monkeypatch):
    capturing.fails = lambda n: RuntimeError("CUDA error: an illegal memory access was encountered")
    for module in (captures, faults):
        monkeypatch.setattr(module, "is_lost", lambda device: True)
    with pytest.raises(DeviceLostError, match="stopped computing"):
        on_cpu(make_model("llama", 1), slots=1, longest=64)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(NO_MEMORY), MemoryError()])
def test_no_memory_is_no_fault_of_the_program(error):
    told = faults.failure_of("Model", torch.device("cpu"), error)
    assert not told.traceback and "lower --num_threads" in str(told) and not is_ours(error)


def test_samples_side_by_side_where_one_fails(monkeypatch):
    model = local("llama", 8, samples=2, engine="graphs")
    launch = model.engine._launch

    def fail(part, graph=True):
        if any(7 in piece.segment.tokens for piece in part):
            raise RuntimeError("an odd token")
        return launch(part, graph)

    monkeypatch.setattr(model.engine, "_launch", fail)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(answer, model, 8, p) for p in (PROMPT, PROMPT + BYTE_LEVEL.decode([7, 7, 7]))]
    assert found[0].result() == expected(8)
    with pytest.raises(ModelError, match="an odd token"):
        found[1].result()
