"""Scores of texts by models of this process, against one pass without any cache, and against asking place by place."""

import pytest
import torch
from local_models import BYTE_FALLBACK, BYTE_LEVEL, DRAFT, KINDS, OTHER, PROMPT, local

from language_models.interface import ContextLengthError
from language_models.local import text_scores
from language_models.local.text_scores import LocalScorer
from language_models.scored_text import place_by_place

TEXT = DRAFT + " It is 12.5 °C — «fein», 日本\n\nDone."


@pytest.fixture(scope="module")
def reference():
    """For a kind of model: the log-probabilities [tokens, vocabulary] of a text, by transformers alone."""

    def compute(kind, ids):
        with torch.inference_mode():
            return KINDS[kind](1)(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    return compute


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
def test_scores_are_those_of_one_plain_pass(kind, tokenizer, reference, monkeypatch):
    monkeypatch.setattr(text_scores, "PLACES", 7)  # several passes
    model = local(kind, tokenizer=tokenizer)
    found = LocalScorer(model).score(PROMPT, TEXT, 4)
    ids = model.vocabulary.encode(PROMPT + TEXT)
    expected = reference(kind, ids)
    assert "".join(token.text for token in found) == TEXT[found[0].start :]
    assert [t.start for t in found] == [
        TEXT.index(TEXT[found[0].start :]) + sum(len(u.text) for u in found[:n]) for n, t in enumerate(found)
    ]
    for number, token in enumerate(found, len(ids) - len(found)):
        row = expected[number - 1]
        assert token.logprob == pytest.approx(row[ids[number]].item(), abs=2e-3)
        best = row.topk(4).values.tolist()
        assert token.top[0][1] == pytest.approx(best[0], abs=2e-3)
        assert all(any(abs(p - value) < 2e-3 for value in best) for _, p in token.top)
        if int(row.argmax()) == ids[number] and token.text:
            assert token.top[0][0] == token.text


def test_place_by_place_says_the_same(monkeypatch):
    model = local()
    text = " Use a pan with a lid, and turn the loaf."
    found = LocalScorer(model).score(PROMPT, text, 3)
    asked = place_by_place(model, PROMPT, [(t.start, t.text) for t in found], text, 3)
    for one, other in zip(found, asked, strict=True):
        ends = model.vocabulary.encode(PROMPT + text[: one.start])
        if model.vocabulary.encode(PROMPT + text)[: len(ends)] != ends:
            continue  # the text up to there is cut in another way by itself
        assert [t for t, _ in one.top] == [t for t, _ in other.top]
        assert [p for _, p in one.top] == pytest.approx([p for _, p in other.top], abs=2e-3)
    assert model.slots.taken <= 1


def test_a_token_in_prompt_and_text_is_no_place():
    model = local()
    words = "How do I bake bread"
    cut = next(
        n
        for n in range(1, len(words))
        if len(model.vocabulary.encode(words))
        < len(model.vocabulary.encode(words[:n])) + len(model.vocabulary.encode(words[n:], special=False))
    )
    found = LocalScorer(model).score(words[:cut], words[cut:], 2)
    assert found[0].start > 0
    assert "".join(token.text for token in found) == words[cut:][found[0].start :]


def test_another_tokenizer_has_other_places():
    starts = [{t.start for t in LocalScorer(local(tokenizer=t)).score(PROMPT, TEXT, 1)} for t in (BYTE_LEVEL, OTHER)]
    assert starts[0] != starts[1] and len(starts[0] & starts[1]) > 3


def test_a_text_that_is_too_long_is_told_and_leaves_the_slot():
    model = local(context_length=40)
    scorer = LocalScorer(model)
    with pytest.raises(ContextLengthError, match="context window of 40 tokens"):
        scorer.score(PROMPT, TEXT * 3, 1)
    assert scorer.score("How do", " I bake", 1)
    assert not model.slots.taken
