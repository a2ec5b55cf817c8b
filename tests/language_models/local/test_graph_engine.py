"""Passes of fixed sizes: whatever is computed together, in whatever order and sizes, is what the model computes by itself."""

import functools
import random
from unittest import mock

import needs
import pytest

torch = needs.module("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from local_models import BYTE_LEVEL, KINDS, PROMPT, TokenByToken, greedy, ids_of, local  # noqa: E402
from tiny_models import make_model  # noqa: E402

from language_models.interface import ContextLengthError  # noqa: E402
from language_models.local.choices import drawn_token  # noqa: E402
from language_models.local.engines import make_engine  # noqa: E402
from language_models.local.fixed_sizes import STEPS, Shape  # noqa: E402
from language_models.local.segments import Sampling, Segment  # noqa: E402
from language_models.local.worker import Worker  # noqa: E402

VOCABULARY, SLOTS, LONGEST = 600, 3, 192
on_cpu = functools.partial(make_engine, kind="graphs")


@functools.cache
def plain(kind="llama"):
    return KINDS[kind](1)


@functools.cache
def shared_engine(kind="llama"):
    return on_cpu(KINDS[kind](1), slots=SLOTS, longest=LONGEST)


@torch.inference_mode()
def logits_of(tokens, kind="llama"):
    return plain(kind)(torch.tensor([tokens]), use_cache=False).logits[0].float()


def text(seed: int, n: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=n)


def sampling(seed: int) -> Sampling:
    return Sampling(1.3, 0.8, torch.Generator().manual_seed(seed))


WANTS = st.sampled_from(["top 0", "top 1", "top 3", "sampled", "sampled, top 2"])
ROUND = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 70), st.integers(0, 9), WANTS), max_size=SLOTS)


@settings(max_examples=7, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(ROUND, min_size=1, max_size=5), st.sampled_from([1, 8, 32, 64, 1024]), st.integers(0, 9))
def test_any_partition_into_segments_passes_and_sizes(rounds, most, seed):
    """Texts are cut back at random too, as where a sample goes on in another way."""
    engine, texts = shared_engine(), {slot: [] for slot in range(SLOTS)}
    with mock.patch.object(engine, "most", most):
        for number, asked in enumerate(rounds):
            segments, kept = [], {}
            for slot, n, wanted, how in asked:
                if slot in kept:
                    continue
                start = (17 * number * (seed + 1)) % (len(texts[slot]) + 1)
                start = start if number % 2 else len(texts[slot])
                new = text(100 * seed + 10 * number + slot, min(n, LONGEST - start))
                kept[slot] = texts[slot] = texts[slot][:start] + new
                drawn = sampling(seed + number) if "sampled" in how else None
                top = int(how[-1]) if "top" in how else 0
                segments.append(Segment(slot, start, new, min(wanted, len(new)), top, drawn))
            found = engine.run(segments)
            assert len(found) == len(segments)
            for segment, tokens in zip(segments, found, strict=True):
                check_tokens(segment, tokens, kept[segment.slot], seed + number)


def check_tokens(segment, tokens, whole, seed):
    assert len(tokens) == segment.wanted
    if not tokens:
        return
    again = sampling(seed)
    for token, logits in zip(tokens, logits_of(whole)[-len(tokens) :], strict=True):
        logprobs = logits.log_softmax(-1)
        if segment.sampling:
            expected = drawn_token(logits, logits.logsumexp(-1), Segment(0, 0, [], 0, segment.top, again))
            assert token.token == expected.token
            assert dict(token.top) == pytest.approx(dict(expected.top), abs=1e-4)
            continue
        assert token.token == int(logits.argmax())
        best = logprobs.topk(max(1, segment.top))
        n = segment.top or len(token.top)
        assert [i for i, _ in token.top[:n]] == best.indices.tolist()[:n] and len(token.top) >= segment.top
        assert [x for _, x in token.top[:n]] == pytest.approx(best.values.tolist()[:n], abs=1e-4)


def test_what_is_drawn_is_what_packed_passes_draw():
    found = {}
    for kind in ("graphs", "packed"):
        engine = make_engine(KINDS["llama"](1), slots=2, longest=64, kind=kind)
        chance, tokens, found[kind] = sampling(5), text(3, 8), []
        for _ in range(30):
            segments = [Segment(1, 0, tokens, 1, 2, chance), Segment(0, 0, tokens[:3], 1, 1)]
            found[kind].append([[(t.token, [i for i, _ in t.top]) for t in one] for one in engine.run(segments)])
    assert found["graphs"] == found["packed"]
    assert len({one[0][0][0] for one in found["graphs"]}) > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [8, 64])
def test_outputs_are_the_models_own_logits(kind, most):
    engine = on_cpu(KINDS[kind](1), slots=SLOTS, longest=LONGEST)
    engine.most, engine.grown = most, 0
    texts = [text(n, n) for n in (70, 1, 9)]
    found = engine.outputs([Segment(i, 0, tokens, min(len(tokens), 5 * i + 4)) for i, tokens in enumerate(texts)])
    kept = [one.clone() for one in found]
    more = engine.outputs([Segment(1, 1, [7, 8], 0), Segment(0, 70, [5], 1)])
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True)) or most == 64
    for tokens, rows in zip(texts, kept, strict=True):
        assert rows.shape == (min(len(tokens), len(rows)), VOCABULARY) and len(rows)
        assert (rows - logits_of(tokens, kind)[-len(rows) :]).abs().max() < 1e-3
    assert more[0].shape == (0, VOCABULARY)
    assert (more[1] - logits_of([*texts[0], 5], kind)[-1:]).abs().max() < 1e-3
    assert engine.passes == {8: 10 + 1, 64: 2 + 1}[most] and engine.sample_passes >= 5 and engine.tokens == 83


def test_outputs_of_a_model_without_a_head():
    model = make_model("llama", 1)
    engine = on_cpu(make_model("llama", 1).model, slots=2, longest=64)
    engine.measure()
    tokens = text(4, 40)
    with torch.inference_mode():
        expected = model.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
    for most in (8, 1024):
        engine.most = most
        (found,) = engine.outputs([Segment(1, 0, tokens, 40)])
        assert (found - expected).abs().max() < 1e-4
    assert engine.cost(8) > 0 and engine.outputs([Segment(0, 0, [], 0)])[0].shape == (0, expected.shape[1])
    with pytest.raises(ValueError, match="LlamaModel has no language-modelling head"):
        engine.run([Segment(0, 0, [1], 1)])


@st.composite
def trees(draw):
    parents = []
    for n in range(draw(st.integers(1, 20))):
        parents.append(draw(st.integers(-1, n - 1)))
    return parents


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(trees(), min_size=1, max_size=2), st.integers(1, 30), st.sampled_from([8, 32, 1024]))
def test_tokens_that_branch(two, cached, most):
    engine = shared_engine("gemma")
    before = text(cached, cached)
    engine.run([Segment(slot, 0, before, 0) for slot in range(len(two))])
    segments = [
        Segment(s, cached, text(s, len(parents)), len(parents), 1, parents=parents) for s, parents in enumerate(two)
    ]
    with mock.patch.object(engine, "most", most):
        found = engine.outputs([*segments, Segment(2, 0, before, 1)])
    for segment, rows in zip(segments, found, strict=False):
        for n in set(range(len(rows))) - set(segment.parents):  # of a leaf the line holds all that it comes from
            line = [n]
            while segment.parents[line[0]] >= 0:
                line.insert(0, segment.parents[line[0]])
            expected = logits_of(before + [segment.tokens[at] for at in line], "gemma")[-len(line) :]
            assert (rows[line] - expected).abs().max() < 1e-3
    assert (found[-1] - logits_of(before, "gemma")[-1:]).abs().max() < 1e-3


def test_passes_are_counted_one_by_one():
    engine = on_cpu(make_model("llama", 1), slots=2, longest=2600)
    engine.run([Segment(0, 0, text(1, 2500), 1, 1, ahead=5), Segment(1, 0, text(2, 3), 1, 1, ahead=2)])
    assert engine.passes == 3 + 5  # 1024, 1024 and 455 tokens, and then one by one
    assert engine.sample_passes == 2 + 1 + 1 + 5 + 2 and engine.tokens == 2503 + 7
    engine.reset_counts()
    engine.run([Segment(0, 2500, [1, 2], 1, 3), Segment(1, 3, [5], 1, 1, sampling(1), ahead=9)])
    assert (engine.passes, engine.sample_passes, engine.tokens) == (1, 2, 3)  # drawn tokens are not written ahead


def test_prompts_longer_than_the_largest_size():
    engine, tokens = on_cpu(make_model("llama", 1), slots=1, longest=2600), text(8, 2300)
    (found,) = engine.run([Segment(0, 0, tokens, 1100, 2)])
    expected = logits_of(tokens)[-1100:].log_softmax(-1).topk(2)
    assert [t.token for t in found] == expected.indices[:, 0].tolist()
    assert [x for t in found for _, x in t.top] == pytest.approx(expected.values.flatten().tolist(), abs=1e-3)
    assert engine.passes == 3 and engine.report["cache_tokens"] == 2624 and engine.report["cache_grown"] == 1


@pytest.mark.parametrize("ahead", [3, 10, 99])
def test_the_end_of_the_context_window(ahead):
    """Also in slices: what is written after one must begin inside of the window."""
    tokens = text(5, 58)
    ids = list(tokens)
    for _ in range(7):
        ids.append(int(logits_of(ids)[-1].argmax()))
    for slots in (1, 4):
        engine = on_cpu(make_model("llama", 1), slots=slots, longest=64)
        engine.measure()
        found = Worker().run(engine, Segment(slots - 1, 0, tokens, 1, 1, ahead=ahead))
        assert [t.token for t in found] == ids[58 : 58 + min(7, ahead + 1)]
    assert engine.run([Segment(0, 63, [5], 1, 1, ahead=9)])[0][1:] == []
    with pytest.raises(ContextLengthError, match="a text of 65 tokens does not fit into the context window of 64"):
        engine.run([Segment(0, 63, [5, 6], 1)])


def test_more_steps_than_one_pass_has():
    engine = on_cpu(make_model("llama", 1), slots=1, longest=128)
    (found,) = engine.run([Segment(0, 0, [5], 1, 1, ahead=100)])
    assert len(found) == 1 + STEPS


def test_empty_passes():
    engine = on_cpu(make_model("llama", 1), slots=2, longest=64)
    assert engine.run([]) == engine.outputs([]) == []
    assert engine.run([Segment(0, 0, [], 0), Segment(1, 0, [3], 0)]) == [[], []]
    assert engine.run([Segment(0, 0, [], 0)]) == [[]] and engine.outputs([Segment(0, 0, [], 0)])[0].shape == (0, 600)


@pytest.mark.parametrize(
    "segments, fault",
    [
        ([Segment(0, 0, [1], 1), Segment(0, 1, [2], 1)], "two segments of one slot"),
        ([Segment(2, 0, [1], 1)], "slot 2"),
        ([Segment(0, 0, [1], 2)], "1 tokens"),
        ([Segment(0, -1, [1], 1)], "start -1"),
        ([Segment(0, 0, [1, 2], 0, 1, None, 3)], "a place that is not looked at"),
        ([Segment(0, 0, [600], 1)], "the 600 that have an embedding"),
        ([Segment(0, 0, [-1], 1)], "the 600 that have an embedding"),
        ([Segment(0, 0, [1, 2], 1, parents=[-1])], "2 tokens, 1 parents"),
        ([Segment(0, 0, [1, 2], 1, parents=[1, -1])], "before their parents"),
        ([Segment(0, 0, [1] * 64, 1, parents=range(-1, 63))], "64 tokens"),
    ],
)
def test_what_cannot_be_computed_together_is_told(segments, fault):
    engine = on_cpu(make_model("llama", 1), slots=2, longest=128)
    with pytest.raises(ValueError, match=fault):
        engine.run(segments)


def test_a_cache_that_grows_keeps_what_it_has():
    model = local("llama", 4, samples=2, engine="graphs")
    begun, engine = greedy(model.for_sample(1), PROMPT, 12, logprobs=1), model.engine
    for _ in range(4):
        next(begun)
    assert engine.capacity == 512 and engine.report["cache_grown"] == 0
    engine.longest, engine.cache.longest = 2048, 2048
    engine.run([Segment(1, 0, text(1, 600), 1, 1)])  # the first sample has the slot 0
    list(begun)
    assert ids_of(begun) == TokenByToken(KINDS["llama"](4), BYTE_LEVEL).ids(PROMPT, 12)
    assert engine.capacity == 1024 and engine.report["cache_grown"] == 1


def test_the_shapes_by_their_names():
    assert str(Shape(64, 20, 512, 0)) == "64 new tokens, at most 20 of a sample behind 512"
    assert str(Shape(1, 1, 0)) == "1 new token" and str(Shape(8, 1, 0, step=True)) == "one more token of 8 samples"


def test_the_report_of_passes_without_graphs():
    report = shared_engine().report
    assert report["kind"] == "graphs" and not report["captured"] and report["graphs"] == 0 == report["capture_seconds"]
    assert report["uncaptured"] == {} and report["fallbacks"] == [] and "CUDA device" in report["why_no_kernels"]
    packed = make_engine(make_model("llama", 1), slots=1, longest=64).report
    assert packed["kind"] == "packed" and packed.keys() == report.keys()
