"""Passes over packed tokens compute what transformers computes for each whole text, for every architecture."""

import functools

import needs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = needs.module("torch")

from local_models import ARCHITECTURES  # noqa: E402

from language_models.local.engines import ENGINES, make_engine  # noqa: E402
from language_models.local.kernel_check import kinds_of  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402

LENGTH = 40
TEXTS = torch.randint(600, (3, LENGTH), generator=torch.Generator().manual_seed(2)).tolist()


@functools.cache
def expected(architecture: str) -> tuple[list[list[int]], torch.Tensor]:
    """The best token after each one of the texts, and its log-probability."""
    with torch.inference_mode():
        best = (
            ARCHITECTURES[architecture](1)(torch.tensor(TEXTS), use_cache=False).logits.float().log_softmax(-1).max(-1)
        )
    return best.indices.tolist(), best.values


@functools.cache
def engine(architecture: str, kind: str):
    return make_engine(ARCHITECTURES[architecture](1), slots=3, longest=64, kind=kind)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=2)
@given(data=st.data())
def test_texts_in_pieces_beside_others(architecture, kind, data):
    tokens, logprobs = expected(architecture)
    made, done = engine(architecture, kind), [0, 0, 0]
    while min(done) < LENGTH:
        least = data.draw(st.lists(st.sampled_from((0, 1, 2, 9, 33)), min_size=3, max_size=3))
        news = [min(new, LENGTH - at) for new, at in zip(least, done, strict=True)]
        if not any(news):
            news = [LENGTH - at for at in done]
        segments = [
            Segment(slot, done[slot], TEXTS[slot][done[slot] :][:new], new, 1) for slot, new in enumerate(news) if new
        ]
        for segment, found in zip(segments, made.run(segments), strict=True):
            rows = slice(segment.start, segment.end)
            assert [next_token.token for next_token in found] == tokens[segment.slot][rows]
            found = torch.tensor([next_token.top[0][1] for next_token in found])
            assert (found - logprobs[segment.slot][rows]).abs().max() < 1e-4
        done = [at + new for at, new in zip(done, news, strict=True)]


@pytest.mark.parametrize(
    ("architecture", "windows", "cap", "size"),
    [
        ("llama", {None}, None, 16),
        ("gemma", {None, 8}, None, 32),
        ("gemma2", {None, 8}, 1.0, 16),
        ("mistral", {8}, None, 12),
    ],
)
def test_the_kinds_of_attention_of_a_model_are_told_by_its_layers(architecture, windows, cap, size):
    kinds = kinds_of(engine(architecture, "packed").model)
    assert {kind.window for kind in kinds} == windows
    assert {(kind.cap, kind.size, kind.heads, kind.dtype) for kind in kinds} == {(cap, size, 4, torch.float32)}
