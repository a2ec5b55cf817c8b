"""Calls that end in the middle of a character: both request modes write the same text, without a mark of the cut."""

import itertools

import pytest
from byte_level_server import ByteModel, ByteServer
from doubles import ReplyServer
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import average_ensemble, ensemble_choice, walk_ensemble, walk_proxy_tuning
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
from language_models.hosted.token_texts import without_cut_character
from language_models.interface import REPLACEMENT, SamplingParams, Token
from nudging import NudgingSettings, nudge

LETTERS = st.sampled_from("a é中文🧬🦜 .")
FORMS = ("llama_cpp", "vllm")


@st.composite
def models(draw):
    """A text, and the same text in the tokens of two models."""
    text = draw(st.text(LETTERS, min_size=1, max_size=40))
    size = len(text.encode())
    ends = [0, *itertools.accumulate(len(character.encode()) for character in text)]
    finest = draw(st.booleans())  # every byte a token
    pair = []
    for seed in draw(st.tuples(st.integers(0, 9), st.integers(0, 9))):
        cuts = range(size) if finest else draw(st.sets(st.integers(1, size), max_size=size))
        # Of a character in several tokens the last ends with it, as in vocabularies: so it has four tokens at most.
        split = {end for begin, end in itertools.pairwise(ends) if any(begin < cut < end for cut in cuts)}
        pair.append(ByteModel(text, frozenset(cuts) | split, seed))
    return pair


@pytest.fixture(scope="module")
def servers():
    """A server of each form with its two endpoints."""
    found = {}
    for form in FORMS:
        scripted = ByteServer(form)
        server = ReplyServer(scripted)
        pair = [OpenAIEndpoint(name, server.host, retry_policy=RetryPolicy(0)) for name in ("base", "nudging")]
        for endpoint in pair:
            endpoint.counts_tokens = form == "llama_cpp"  # as its probe finds out
        found[form] = scripted, pair, server
    yield {form: (scripted, pair) for form, (scripted, pair, _) in found.items()}
    for *_, server in found.values():
        server.stop()


def adopt(servers, form: str, pair: list[ByteModel]) -> list[OpenAIEndpoint]:
    scripted, endpoints = servers[form]
    scripted.models = dict(zip(("base", "nudging"), pair, strict=True))
    return endpoints


@pytest.mark.parametrize("form", FORMS)
@given(pair=models(), sizes=st.tuples(st.integers(1, 16), st.integers(1, 16)), length=st.sampled_from([3, 20, 200]))
@settings(max_examples=60)
def test_nudging_writes_the_same_text_in_both_request_modes(form, pair, sizes, length, servers):
    base, nudging = adopt(servers, form, pair)
    asked = NudgingSettings(0.6, *sizes, max_token_total=length)
    found = [nudge(base, nudging, "Q A:", "Q A:", asked, request_mode=mode) for mode in ("published", "streamed")]
    assert found[0] == found[1]
    assert pair[0].text.startswith(found[0].text) and REPLACEMENT not in found[0].text
    assert found[0].text  # half a character is no end


@pytest.mark.parametrize("form", FORMS)
@given(pair=models(), length=st.sampled_from([3, 20, 200]))
@settings(max_examples=30)
def test_the_ensemble_writes_the_same_text_in_both_request_modes(form, pair, length, servers):
    found = [
        average_ensemble(*adopt(servers, form, pair), "Q A:", "Q A:", max_token_total=length, request_mode=mode)
        for mode in ("published", "streamed")
    ]
    assert found[0] == found[1]
    assert pair[0].text.startswith(found[0].text) and found[0].text


@pytest.mark.parametrize("form", FORMS)
@given(pair=models(), tokens=st.integers(1, 30))
@settings(max_examples=30)
def test_one_request_and_one_stream_write_the_same_text(form, pair, tokens, servers):
    base, _ = adopt(servers, form, pair)
    for logprobs in (None, 1):
        params = SamplingParams(tokens, logprobs=logprobs)
        whole = base.complete("Q A:", params).text
        assert whole == "".join(token.text for token in base.stream("Q A:", params))
        assert pair[0].text.startswith(whole)


def content(*pieces: bytes) -> dict:
    return {"content": [{"token": "", "bytes": list(piece)} for piece in pieces]}


@pytest.mark.parametrize(
    ("text", "logprobs", "reason", "whole"),
    [
        ("a\ufffd", None, "length", "a"),
        ("a\ufffd\ufffd\ufffd", None, "length", "a"),  # one for each byte of three
        ("a\ufffd\ufffd\ufffd\ufffd", None, "length", "a\ufffd"),  # no character has so many
        ("a\ufffd", None, "stop", "a\ufffd"),  # the model's own, as far as is known
        ("a\ufffd", content(b"a"), "stop", "a"),
        ("a\ufffd", content(b"a", b"\xf0\x9f"), "length", "a"),
        ("a\ufffd", content(b"a", "\ufffd".encode()), "length", "a\ufffd"),  # the model has written that very character
        ("\ufffda", None, "length", "\ufffda"),
        ("", None, "length", ""),
    ],
)
def test_a_cut_character_is_told_from_a_replacement_character(text, logprobs, reason, whole):
    assert without_cut_character(text, logprobs, reason) == whole


def test_a_part_of_a_character_is_never_chosen_as_text():
    base = Token(" a", ((f" {REPLACEMENT}", -0.1), (" a", -2.0)))
    chat = Token("b", ((f" {REPLACEMENT}", -0.1), ("b", -2.0)))
    assert ensemble_choice(base, chat) == f" {REPLACEMENT}"
    assert walk_ensemble([base], [chat]) == " "
    assert walk_proxy_tuning([base], [chat], [base]) == " "
    own = Token(REPLACEMENT, ((REPLACEMENT, -0.1),))  # which the base model writes itself
    assert walk_ensemble([own], [Token("b", ((REPLACEMENT, -0.1), ("b", -2.0)))]) == REPLACEMENT
