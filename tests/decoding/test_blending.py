"""BlendIn against a slow, direct implementation over whole distributions, and what its mixtures are."""

import math

import pytest
from complete_models import CHARACTERS, MIXED, Complete, pairs, slow_blend
from hypothesis import given
from hypothesis import strategies as st

from decoding.blending import blend, blend_weight, choose
from nudging import NudgingSettings, nudge

WAYS = [("published", True, True), ("streamed", True, True), ("streamed", False, True), ("streamed", False, False)]


@pytest.mark.parametrize("weight", ["auto", 0.0, 0.3, 0.5, 1.0])
def test_against_whole_distributions(weight):
    reasons, mixed = set(), 0
    for seed, make in pairs(16):
        base, chat = make()
        threshold, most = (0.3, 0.5, 0.8)[seed % 3], (30, 12)[seed % 2]
        certain = lambda text, base=base, threshold=threshold: base.distribution("B:" + text)[0][1] >= threshold  # noqa: E731
        text, reason = slow_blend(base, chat, certain, None if weight == "auto" else weight, most)
        settings = NudgingSettings(
            threshold, completion_token_num=(1, 4, 16)[seed % 3], max_token_total=most, blend=weight
        )
        for mode, *ahead in WAYS:
            mine = make()
            for model, runs_ahead in zip(mine, ahead, strict=True):
                model.runs_ahead = runs_ahead
            rounds = []
            result = nudge(*mine, "B:", "N:", settings, lambda *told, rounds=rounds: rounds.append(told), mode)
            assert (result.text, result.stop_reason) == (text, reason), (seed, mode)
            assert not any(model.left_open for model in mine)
            assert [piece for _, _, piece in rounds] == result.pieces
            assert [words for _, words, _ in rounds] == result.nudging_words
        reasons.add(reason)
        mixed += any(result.nudging_words)
    assert {"length", "base_model_stop"} <= reasons and (mixed > 4 or weight == 0.0)


def test_another_criterion_says_where():
    for seed, make in pairs(12):
        base, chat = make()
        text, reason = slow_blend(base, chat, lambda text: False, None, 12)
        settings = NudgingSettings(max_token_total=12, blend="auto")
        result = nudge(*make(), "B:", "N:", settings, criterion="always")
        assert (result.text, result.stop_reason) == (text, reason), seed
        own = slow_blend(base, chat, lambda text: True, None, 12)
        result = nudge(*make(), "B:", "N:", settings, criterion="never")
        assert (result.text, result.stop_reason) == own and not any(result.nudging_words)


def test_drawn_mixtures_are_the_same_with_a_seed_and_follow_the_mixture():
    base, chat = Complete("base", 1, MIXED), Complete("chat", 1, CHARACTERS)

    def drawn(seed):
        settings = NudgingSettings(1.0, base_temperature=1.0, max_token_total=2, blend=0.5, seed=seed)
        return nudge(base, chat, "B:", "N:", settings).text

    assert drawn(3) == drawn(3)
    firsts = [drawn(seed)[:1] for seed in range(400)]
    p, q = dict(base.distribution("B:")), dict(chat.distribution("N:"))
    mixture = blend(p, q, 0.5)
    for letter in set(firsts):
        share = sum(prob for word, prob in mixture.items() if word[:1] == letter)
        assert abs(firsts.count(letter) / 400 - share) < 5 * math.sqrt(0.25 / 400)


shares = st.dictionaries(st.sampled_from(["a", "b", "c", "d", ""]), st.floats(0, 1), max_size=5)


@given(shares, shares, st.floats(0, 1))
def test_weights_and_mixtures(p, q, weight):
    assert 0 <= blend_weight(p, q) <= 1
    mixture = blend(p, q, weight)
    assert set(mixture) == set(p) | set(q)
    for word, share in mixture.items():
        assert share == pytest.approx(weight * q.get(word, 0) + (1 - weight) * p.get(word, 0))
    chosen = choose(mixture, 0.0, lambda: 0.5)
    assert chosen is None if not any(mixture.values()) else mixture[chosen] == max(mixture.values())
    assert (choose(mixture, 1.0, lambda: 0.999999) is None) == (chosen is None)


def test_the_published_weight():
    assert blend_weight({"a": 0.2, "b": 0.1}, {"b": 0.6}) == pytest.approx(0.6 / 0.8 + 0.1 * 0.1)
    assert blend_weight({"a": 0.01}, {"a": 0.99}) == pytest.approx(0.99 + 0.001)
    assert blend_weight({}, {"a": 0.5}) == 1 and blend_weight({"a": 0.5}, {}) == 0
