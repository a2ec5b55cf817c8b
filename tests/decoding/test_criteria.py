"""Each criterion against a slow, direct implementation over whole distributions, in all ways of asking."""

import math

import pytest
from complete_models import CHARACTERS, END, MIXED, Complete, pairs, slow_nudging
from hypothesis import given
from hypothesis import strategies as st

from decoding.criteria import CRITERIA, ENTROPY_LOGPROBS, Criterion, Place, drawn, entropy, margin, number_of
from language_models.interface import ProbabilityError, Token
from nudging import NudgingSettings, nudge

WAYS = [("published", True, True), ("streamed", True, True), ("streamed", False, True), ("streamed", False, False)]
COUNT = 36


def probability(model: Complete, text: str, word: str) -> float:
    return dict(model.distribution(text))[word]


def highest(model: Complete, text: str) -> float:
    return model.distribution(text)[0][1]


def entropy_of(model: Complete, text: str) -> float:
    probs = [p for _, p in model.distribution(text)]
    probs = [*probs[:20], sum(probs[20:])]
    return sum(p * math.log(1 / p) for p in probs if p > 0)


def margin_of(model: Complete, text: str) -> float:
    first, second = sorted((p for _, p in model.distribution(text)), reverse=True)[:2]
    return first - second


def in_a_word(model: Complete, text: str) -> bool:
    own = model.own(text)
    return own == END or not (own[0] in " \n" or text[-1:] in (" ", "\n", ""))


# By the criterion's name: whether the base model's own token after an answer text is accepted, of whole distributions.
DIRECT = {
    "top_prob": lambda base, chat, text, x, seed: highest(base, "B:" + text) >= x,
    "token_prob": lambda base, chat, text, x, seed: probability(base, "B:" + text, base.own("B:" + text)) >= x,
    "confidence_bet": lambda base, chat, text, x, seed: (
        probability(base, "B:" + text, base.own("B:" + text)) >= highest(chat, "N:" + text) - x
    ),
    "entropy": lambda base, chat, text, x, seed: entropy_of(base, "B:" + text) <= x,
    "margin": lambda base, chat, text, x, seed: margin_of(base, "B:" + text) >= x,
    "random": lambda base, chat, text, x, seed: in_a_word(base, "B:" + text) or drawn(seed, "B:" + text, "random") >= x,
}


def test_every_criterion_is_tested_and_says_what_it_is():
    assert set(DIRECT) | {"always", "never"} == set(CRITERIA)
    for criterion in CRITERIA.values():
        assert criterion.paper and criterion.rejects and criterion.cost
        assert (criterion.threshold is None) == (not criterion.grid) == (not criterion.quantity)
        assert all(criterion.lowest <= x <= criterion.highest for x in (*criterion.grid, criterion.threshold or 0))


@pytest.mark.parametrize("name", DIRECT)
def test_against_whole_distributions(name):
    rule, reasons, rejected = CRITERIA[name], set(), 0
    for seed, make in pairs(COUNT):
        number = rule.grid[seed % len(rule.grid)]
        calls, most, drawn_by = ((1, 2), (16, 16), (4, 8))[seed % 3], (40, 12)[seed % 2], (None, 7)[seed % 2]
        base, chat = make()

        def certain(text, base=base, chat=chat, number=number, drawn_by=drawn_by):
            return DIRECT[name](base, chat, text, number, drawn_by)

        words, pieces, reason = slow_nudging(base, chat, certain, rule.agreement, calls, most)
        settings = NudgingSettings(
            threshold=number,
            completion_token_num=calls[0],
            completion_token_num_nudging=calls[1],
            max_token_total=most,
            seed=drawn_by,
        )
        for mode, *ahead in WAYS:
            mine = make()
            for model, runs_ahead in zip(mine, ahead, strict=True):
                model.runs_ahead = runs_ahead
            result = nudge(*mine, "B:", "N:", settings, request_mode=mode, criterion=name)
            assert (result.nudging_words, result.pieces, result.stop_reason) == (words, pieces, reason), (seed, mode)
            assert not any(model.left_open for model in mine)
        reasons.add(reason)
        rejected += len(words) > 1
    assert {"nudging_model_stop", "length"} <= reasons and rejected > COUNT / 3


@pytest.mark.parametrize("name", DIRECT)
def test_no_more_log_probabilities_are_asked_for_than_the_table_says(name):
    for _, make in pairs(8):
        base, chat = make()
        nudge(base, chat, "B:", "N:", NudgingSettings(max_token_total=20), criterion=name)
        assert {logprobs for *_, logprobs in base.asked} <= {CRITERIA[name].logprobs}
        assert {logprobs for *_, logprobs in chat.asked} <= {None, CRITERIA[name].nudging_logprobs}


def test_a_bet_that_cannot_be_lost_asks_nobody():
    place = Place(Token(" a", ((" a", math.log(0.7)),)), ask_nudging=lambda: pytest.fail("asked"))
    assert CRITERIA["confidence_bet"].certain(place, 0.3 + 1e-12)
    asked = []
    sure = Token(" b", ((" b", math.log(0.95)),))
    place = Place(place.token, ask_nudging=lambda: asked.append(1) or sure)
    assert not CRITERIA["confidence_bet"].certain(place, 0.2) and asked == [1]


def test_bets_in_published_calls_ask_one_token_each():
    found = []
    for _, make in pairs(8):
        base, chat = make()
        nudge(base, chat, "B:", "N:", NudgingSettings(threshold=0.1, max_token_total=20), criterion="confidence_bet")
        looks = [asked for asked in chat.asked if asked[2]]
        assert len(looks) == len(set(looks))  # no place is looked at twice
        found += looks
    assert len(found) > 50 and {tokens for _, tokens, _ in found} == {1}


@pytest.mark.parametrize("words", [MIXED, CHARACTERS])
@pytest.mark.parametrize("way", WAYS)
def test_the_base_model_alone(words, way):
    mode, *ahead = way
    for seed in range(20):
        base, chat = Complete("base", seed, words, drawing=True), Complete("chat", seed, MIXED)
        base.runs_ahead, chat.runs_ahead = ahead
        result = nudge(
            base, chat, "B:", "N:", NudgingSettings(max_token_total=30), request_mode=mode, criterion="never"
        )
        assert not chat.asked and not base.left_open and set(result.nudging_words) == {""}
        expected, tokens = "", []
        while len(tokens) % 16 or not tokens or len(expected) < len(result.text):
            tokens.append(base.own("B:" + expected))
            expected += tokens[-1]
            if tokens[-1] == END:
                break
        assert result.text == expected
        ends = tokens[-1] == END or result.stop_reason != "length"  # an end may be all that a call has
        assert (base.own("B:" + expected) == END) >= ends
        assert result.stop_reason == ("base_model_stop" if ends else "length")


@pytest.mark.parametrize("way", WAYS)
def test_the_nudging_model_alone(way):
    mode, *ahead = way
    for seed in range(20):
        base, chat = Complete("base", seed, MIXED), Complete("chat", seed, MIXED)
        base.runs_ahead, chat.runs_ahead = ahead
        result = nudge(
            base, chat, "B:", "N:", NudgingSettings(max_token_total=30), request_mode=mode, criterion="always"
        )
        assert not base.asked and result.nudging_words == result.pieces and not result.base_tokens
        expected = ""
        while len(expected) < len(result.text):
            expected += chat.own("N:" + expected) or "END"
        assert expected.startswith(result.text)


def test_the_share_of_random_words_is_the_number():
    """Of the words after an answer's first one, the nudging model writes as many as the number says."""
    base, chat = Complete("base", 3, (" a", " b", " c", " d")), Complete("chat", 4, (" e", " f", " g"))
    base.number = chat.number = lambda *what: Complete.number(base, *what) if "end" not in what else 0.0
    nudged = words = 0
    for seed in range(60):
        settings = NudgingSettings(threshold=0.25, max_token_total=60, seed=seed)
        result = nudge(base, chat, "B:", "N:", settings, criterion="random")
        text = result.text.split(" ")[2:]
        words += len(text)
        nudged += sum(word in ("e", "f", "g") for word in text)
    assert words > 2000 and abs(nudged / words - 0.25) < 4 * math.sqrt(0.25 * 0.75 / words) + 0.02


tops = st.lists(st.floats(1e-6, 1), min_size=1, max_size=30).map(
    lambda found: tuple((str(i), math.log(p / sum(found))) for i, p in enumerate(sorted(found, reverse=True)))
)


@given(tops)
def test_entropy_and_margin_of_whole_lists(top):
    probs = [math.exp(logprob) for _, logprob in top]
    kept = probs[:ENTROPY_LOGPROBS]
    rest = 1 - sum(kept)
    expected = -sum(p * math.log(p) for p in kept) - (rest * math.log(rest) if rest > 1e-12 else 0)
    assert entropy(top) == pytest.approx(expected, abs=1e-6)
    assert entropy((*top[:ENTROPY_LOGPROBS], *(("own", -20.0),) * (len(top) > ENTROPY_LOGPROBS))) == entropy(top)
    assert margin(top) == pytest.approx(probs[0] - (probs[1] if len(probs) > 1 else 0))
    assert 0 <= margin(top) <= 1 and 0 <= entropy(top) <= math.log(ENTROPY_LOGPROBS + 1) + 1e-9


def test_a_token_without_a_probability_is_refused():
    with pytest.raises(ProbabilityError, match="no log-probability for its own token ' b'"):
        _ = Place(Token(" b", ((" a", -0.1),))).prob
    assert Place(Token("", (("", 0.0),))).prob == 1


def test_the_number_of_a_criterion():
    own = Criterion(lambda place, number: True, 1, "mine")
    assert number_of("top_prob", None, 0.45) == 0.45 and number_of(own, None, 0.45) == 0.45
    assert number_of("entropy", None, 0.45) == CRITERIA["entropy"].threshold and number_of("entropy", 1.0, 0.45) == 1.0
