"""The walks of the baselines; the published program's text is tested in test_reference_cases.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_nudging import Scripted, completion

from baselines import (
    average_ensemble,
    ensemble_choice,
    proxy_tuning,
    proxy_tuning_choice,
    proxy_tuning_score,
    walk_ensemble,
    walk_proxy_tuning,
)
from language_models.interface import Completion, ContextLengthError, Token, Usage


def token(**probabilities: float) -> Token:
    """A token of its most probable text; `end` stands for the text ""."""
    pairs = sorted(
        ((("" if text == "end" else text), math.log(p)) for text, p in probabilities.items()), key=lambda pair: -pair[1]
    )
    return Token(pairs[0][0], tuple(pairs))


def told(*tokens: Token) -> tuple[Token, ...]:
    return tokens


def test_ensemble_choice_counts_what_is_absent_as_0():
    assert ensemble_choice(token(a=0.5, b=0.3), token(b=0.4, c=0.35)) == "b"
    assert ensemble_choice(token(a=0.8), token(b=0.7)) == "a"


def test_proxy_tuning_choice():
    # 0.5 * 0.2 / 0.4 = 0.25 against 0.3 * 0.6 / 0.2 = 0.9; c is not in all three lists
    assert proxy_tuning_choice(token(a=0.5, b=0.3), token(b=0.6, a=0.2), token(a=0.4, b=0.2, c=0.1)) == "b"
    assert proxy_tuning_choice(token(a=0.5), token(b=0.6), token(a=0.4)) is None


# What servers write for a token that a model excludes, and what is no number at all.
EXCLUDED = (-math.inf, -9999.0, -3.4028234663852886e38, -1e4, -746.0, math.nan)
LOGPROBS = st.floats(-40, 0)


@given(LOGPROBS, LOGPROBS, LOGPROBS)
def test_the_score_is_the_published_quotient(base, chat, proxy_base):
    assert proxy_tuning_score(base, chat, proxy_base) == math.exp(base) * math.exp(chat) / math.exp(proxy_base)


@pytest.mark.parametrize("excluded", EXCLUDED)
@given(base=st.sampled_from([*EXCLUDED, -0.1]), other=st.sampled_from([*EXCLUDED, -0.1]))
def test_no_score_where_a_small_model_excludes_the_token(excluded, base, other):
    assert proxy_tuning_score(base, excluded, other) is None
    assert proxy_tuning_score(base, other, excluded) is None


def test_a_quotient_that_is_no_number_is_no_score():
    assert proxy_tuning_score(0.0, 0.0, -740.0) is None  # 1 / 4e-322
    assert proxy_tuning_score(-9999.0, -1.0, -1.0) == 0
    assert proxy_tuning_score(math.nan, -1.0, -1.0) is None


@pytest.mark.parametrize("excluded", EXCLUDED[:-1])
@pytest.mark.parametrize("who", ["chat", "proxy_base"])
@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_proxy_tuning_ignores_tokens_that_a_small_model_excludes(calls, who, excluded):
    """Its quotient would be infinite, or pass any other's."""

    def first(*pairs: tuple[str, float]) -> Completion:
        return Completion(pairs[0][0], (Token(pairs[0][0], pairs),), "length", Usage())

    fine = first((" b", math.log(0.5)), (" a", math.log(0.25)))
    answers = dict.fromkeys(("base", "chat", "proxy_base"), fine) | {who: first((" b", -0.1), (" a", excluded))}
    base = first((" a", math.log(0.6)), (" b", math.log(0.3)))
    models = [Scripted("P:", {"": answers[role] if role != "base" else base}) for role in answers]
    result = proxy_tuning(*models, *["P:"] * 3, max_token_total=1, request_mode=calls)
    assert (result.text, result.stop_reason) == (" b", "length")


def test_where_every_shared_token_is_excluded_the_base_model_goes_on():
    excluded = Token("b", (("b", -0.1), ("a", -9999.0)))
    assert proxy_tuning_choice(token(a=0.9), token(a=0.9), excluded) is None
    assert walk_proxy_tuning(told(token(a=0.9), token(c=0.9)), told(token(a=0.9), token(c=0.9)), told(excluded)) == "a"


def test_walks_go_on_while_the_models_agree_and_stop_at_the_shortest():
    assert walk_ensemble(told(token(a=0.9), token(b=0.9), token(x=0.9)), told(token(a=0.9), token(b=0.5))) == "ab"
    assert walk_ensemble(told(token(a=0.9), token(b=0.6)), told(token(a=0.9), token(c=0.7), token(d=0.9))) == "ac"
    both = told(token(a=0.9), token(b=0.9))
    assert walk_proxy_tuning(both, both, told(token(a=0.9), token(c=0.5, b=0.4))) == "ab"
    assert walk_proxy_tuning(both, both, told(token(c=0.9))) == "a"  # nothing shared: the base model's token


@pytest.mark.parametrize("calls", ["published", "streamed"])
@pytest.mark.parametrize("loop", [average_ensemble, proxy_tuning])
def test_stop_reasons(loop, calls):
    count = 2 if loop is average_ensemble else 3

    def run(answers: dict, **options):
        return loop(*[Scripted("P:", answers)] * count, *["P:"] * count, request_mode=calls, **options)

    ended = run({"": completion(" a", " b"), " a b": completion(" c", "", stop=True)})
    assert (ended.text, ended.stop_reason) == (" a b c", "chat_model_stop")
    assert run({"": completion(" a", " b")}, max_token_total=2).stop_reason == "length"
    assert run({"": completion("")}).stop_reason == "no_new_text"
    full = run({"": completion(" a"), " a": ContextLengthError("full")})
    assert (full.text, full.stop_reason) == (" a", "context_length")


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_an_empty_choice_gives_way_to_the_first_text(calls):
    base, chat = completion(("", 0.9), " b"), completion((" c", 0.5))
    result = average_ensemble(
        Scripted("B:", {"": base, " b": completion("")}),
        Scripted("C:", {"": chat, " b": completion("")}),
        "B:",
        "C:",
        request_mode=calls,
    )
    assert (result.text, result.stop_reason) == (" b", "no_new_text")
