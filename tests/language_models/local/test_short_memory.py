"""Fixed-size passes where memory is short: for a pass, for a larger cache, and for the first one."""

import needs
import pytest

torch = needs.module("torch")

from fixed_engines import NO_MEMORY, answer, expected, on_cpu  # noqa: E402
from local_models import KINDS, PROMPT, greedy, ids_of, local  # noqa: E402
from tiny_models import make_model  # noqa: E402

from language_models.interface import ModelError  # noqa: E402
from language_models.local import fixed_sizes, graph_engine, room  # noqa: E402
from language_models.local.segments import Sampling, Segment  # noqa: E402
from language_models.local.slot_cache import SlotCache  # noqa: E402
from language_models.local.worker import _answer, _Request  # noqa: E402


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
