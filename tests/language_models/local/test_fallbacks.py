"""Passes of fixed sizes where something fails: what runs instead, who is told, and that nobody else's text changes."""

import functools
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import needs
import pytest

torch = needs.module("torch")

from local_models import BYTE_LEVEL, KINDS, PROMPT, TokenByToken, greedy, ids_of, local  # noqa: E402
from tiny_models import make_model  # noqa: E402

from command.unexpected import is_ours  # noqa: E402
from experiment import sample  # noqa: E402
from language_models.interface import DeviceLostError, ModelError  # noqa: E402
from language_models.local import captures, engines, faults, fixed_sizes, graph_engine, room  # noqa: E402
from language_models.local.engines import make_engine  # noqa: E402
from language_models.local.segments import Sampling, Segment  # noqa: E402
from language_models.local.slot_cache import SlotCache  # noqa: E402
from language_models.local.worker import _answer, _Request  # noqa: E402

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB.\nand more"
on_cpu = functools.partial(make_engine, kind="graphs")


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


def answer(model, n=8, prompt=PROMPT):
    stream = greedy(model.for_sample(prompt), prompt, n)
    list(stream)
    return ids_of(stream)


def expected(seed, n=8, prompt=PROMPT):
    return TokenByToken(KINDS["llama"](seed), BYTE_LEVEL).ids(prompt, n)


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


def short_of_memory(monkeypatch, tokens, error=None):
    """Have passes over more tokens fail."""
    error = error or torch.OutOfMemoryError(NO_MEMORY)
    forward = fixed_sizes.FixedSize.forward

    def fail(self):
        forward(self)  # so that what it writes into the cache is there, and must do no harm
        if self.shape.tokens > tokens:
            raise error

    monkeypatch.setattr(fixed_sizes.FixedSize, "forward", fail)


@pytest.mark.parametrize(
    "most, error",
    [
        (1, torch.OutOfMemoryError(NO_MEMORY)),
        (8, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")),
        (32, torch.OutOfMemoryError(NO_MEMORY)),
    ],
)
def test_where_memory_is_short_passes_are_smaller(monkeypatch, most, error):
    model = local("llama", 4, samples=2, engine="graphs")
    text = PROMPT * 4
    short_of_memory(monkeypatch, most, error)
    other = greedy(model.for_sample(1), PROMPT, 8, logprobs=1)
    next(other)
    assert answer(model, prompt=text) == expected(4, prompt=text)
    list(other)
    assert ids_of(other) == expected(4)
    assert model.engine.most == most and len(model.engine.report["fallbacks"]) <= 3
    assert f"memory is short, so passes are over at most {most} tokens" in model.engine.report["fallbacks"][-1]


def test_where_not_even_one_token_can_be_computed_the_sample_ends_with_a_line(monkeypatch):
    model = local("llama", 4, samples=2, engine="graphs")
    with monkeypatch.context() as patch:
        short_of_memory(patch, 0)
        with pytest.raises(
            ModelError, match=r"failed \(CUDA out of memory. Tried .*GiB.\); if memory is short, lower --num"
        ) as told:
            answer(model)
    assert "\n" not in str(told.value) and not told.value.traceback and model.engine.most == 1024
    assert answer(model) == expected(4)


def test_an_error_in_a_pass_makes_no_pass_smaller(monkeypatch):
    model = local("llama", 4, engine="graphs")
    short_of_memory(monkeypatch, 8, RuntimeError("an index is out of range"))
    with pytest.raises(ModelError, match="an index is out of range"):
        answer(model)
    assert model.engine.most == 1024


def test_what_is_drawn_does_not_depend_on_the_passes_that_failed(monkeypatch):
    found = []
    for fails in (False, True):
        engine = on_cpu(KINDS["llama"](1), slots=2, longest=64)
        chance = Sampling(1.5, 0.9, torch.Generator().manual_seed(1))
        with monkeypatch.context() as patch:
            plain, left = graph_engine.Choices.finish, [2] if fails else [0]

            def finish(self, plain=plain, left=left):
                tokens = plain(self)
                left[0] -= 1
                if left[0] >= 0:
                    raise torch.OutOfMemoryError(NO_MEMORY)
                return tokens

            patch.setattr(graph_engine.Choices, "finish", finish)
            segments = [Segment(0, 0, [5] * 40, 3, 2, chance), Segment(1, 0, [6], 1, 1)]
            found.append([[t.token for t in one] for one in engine.run(segments)])
            found[-1] += [[t.token for t in one] for one in engine.run([Segment(0, 40, [7], 1, 1, chance)])]
    assert found[0] == found[1]


@pytest.mark.parametrize("after", [0, 1])
def test_no_memory_for_a_larger_cache(monkeypatch, after):
    """The sample that needs it ends with a line, at once the next time; the others, and the cache, are as before."""
    model = local("llama", 5, samples=2, engine="graphs")
    engine = model.engine
    engine.longest = engine.cache.longest = 1024
    begun, capacity, tries = greedy(model.for_sample(0), PROMPT, 9, logprobs=1), engine.capacity, []
    next(begun)
    new_zeros = torch.Tensor.new_zeros

    def short(self, *sizes, **how):
        if len(sizes) == 4 and sizes[2] > capacity:
            tries.append(sizes)
            if len(tries) > 2 * after:  # some layers have grown already
                raise torch.OutOfMemoryError(NO_MEMORY)
        return new_zeros(self, *sizes, **how)

    monkeypatch.setattr(torch.Tensor, "new_zeros", short)
    requests = [_Request(engine, Segment(1, 0, [5] * 600, 1, 1))]
    _answer(requests)
    told = str(requests[0].error)
    assert "no memory on cpu for the cache of a text of 600 tokens" in told and "lower --num_threads" in told
    assert "--dtype" in told and "\n" not in told and not requests[0].error.traceback
    assert engine.capacity == capacity and not engine.fallbacks
    tried = len(tries)
    with pytest.raises(ModelError, match="700 tokens"):
        engine.run([Segment(1, 0, [5] * 700, 1, 1)])
    assert len(tries) == tried
    list(begun)
    assert ids_of(begun) == expected(5, 9)
    assert answer(model, prompt=PROMPT + " Why") == expected(5, prompt=PROMPT + " Why")
    monkeypatch.undo()
    (found,) = engine.run([Segment(1, 0, [5] * 590, 1, 1)])  # shorter ones are tried again
    assert found and engine.capacity >= 590


def test_a_cache_that_cannot_double_grows_by_what_is_needed(monkeypatch):
    engine = on_cpu(make_model("llama", 1), slots=2, longest=1024)
    make_room = SlotCache.make_room

    def short(self, length, exactly=False):
        if not exactly:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return make_room(self, length, exactly)

    monkeypatch.setattr(SlotCache, "make_room", short)
    engine.run([Segment(0, 0, [5] * 600, 1, 1)])
    assert engine.capacity == 640


def on_a_gpu(monkeypatch, free):
    """An engine's cache as on a CUDA device with some free memory."""
    engine = on_cpu(make_model("llama", 1), slots=2, longest=100_000)
    each = engine.cache.bytes // engine.capacity
    engine.device = torch.device("cuda", 0)
    monkeypatch.setattr(room, "free_memory", lambda device: free * each)
    return engine


@pytest.mark.parametrize(
    "expected, free, first", [(None, 1 << 20, 4096), (2000, 1 << 20, 2048), (None, 5000, 1024), (3000, 0, 512)]
)
def test_the_first_size_of_the_cache_is_what_free_memory_plainly_allows(monkeypatch, expected, free, first):
    engine = on_a_gpu(monkeypatch, free)
    engine.room.begin(expected)
    assert engine.capacity == first


def test_no_graph_is_thrown_away_for_room_that_plainly_is_not_there(monkeypatch):
    engine = on_a_gpu(monkeypatch, 300)
    monkeypatch.setattr(engine.sizes_made, "drop", lambda: pytest.fail("graphs were thrown away"))
    with pytest.raises(ModelError, match="no memory on cuda:0 for the cache of a text of 4000 tokens"):
        engine.room.make(4000)


def test_a_cache_that_begins_small(monkeypatch):
    make_room = SlotCache.make_room

    def short(self, length, exactly=False):
        if exactly:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return make_room(self, length, exactly)

    monkeypatch.setattr(SlotCache, "make_room", short)
    model = local("llama", 1, engine="graphs")
    assert model.engine.capacity == 256 and answer(model) == expected(1)
    assert "memory is short, so the cache begins small (CUDA out of memory" in model.engine.fallbacks[0]


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
    with pytest.raises(DeviceLostError):
        sample.answer_one(None, type("Data", (), {"question_prefix": ""}), 0, example, {}, {}, "published")


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
