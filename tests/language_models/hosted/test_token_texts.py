"""What servers print for tokens, and the slices of the text that the tokens are."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from language_models.hosted.logprobs import FaultyLogprobs
from language_models.hosted.token_texts import (
    TokenReader,
    UnreadableReply,
    align,
    byte_level_text,
    byte_slices,
    offset_slices,
    printed_pieces,
    sentencepiece_text,
    token_slices,
)
from language_models.interface import END_OF_SEQUENCE, Token

# Texts with emoji of several code points, combining marks, CJK, right-to-left, control characters, spaces and newlines.
TEXTS = st.text(
    alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n👩‍🚀é한न▁Ġ")), max_size=40
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(i % (len(data) + 1) for i in at)})
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@given(TEXTS, st.lists(st.integers(0, 1000), max_size=12))
def test_bytes_of_tokens_join_to_the_text_and_a_character_belongs_to_its_last_token(text, at):
    pieces = cut(text.encode(), at)
    slices = byte_slices(pieces)
    assert "".join(slices) == text
    for i in range(len(pieces)):
        # What has been given out so far is every character that is complete so far, and no more.
        assert "".join(slices[: i + 1]) == b"".join(pieces[: i + 1]).decode("utf-8", "ignore")


@given(TEXTS, st.lists(st.integers(0, 1000), max_size=12), st.booleans(), st.sampled_from(["replaced", "empty"]))
def test_slices_join_to_the_text_however_parts_of_characters_are_printed(text, at, ended, how):
    pieces = cut(text.encode(), at)
    # "empty" is vLLM's way: a token that completes no character is "", the one that does carries it whole.
    shown = byte_slices(pieces) if how == "empty" else [piece.decode("utf-8", "replace") for piece in pieces]
    slices = token_slices([*shown, "</s>"] if ended else shown, text, ended=ended)
    assert "".join(slices) == text
    assert len(slices) == len(shown) + ended


@given(st.lists(st.sampled_from(["▁the", "▁cat", "s", "▁", "<0x0A>", ".", "▁▁two"]), min_size=1, max_size=12))
def test_sentencepiece_pieces_with_and_without_their_spaces(pieces):
    text = "".join(map(sentencepiece_text, pieces))
    assert token_slices(pieces, text, ended=False) == [sentencepiece_text(piece) for piece in pieces]
    dropped = [sentencepiece_text(piece).removeprefix(" ") for piece in pieces]
    slices = token_slices(dropped, text, ended=False)
    assert "".join(slices) == text and len(slices) == len(pieces)


@given(st.lists(st.sampled_from(["Ġthe", "Ġcat", "s", "Ċ", "ĠâĤ¬", "."]), min_size=1, max_size=12))
def test_byte_level_pieces(pieces):
    text = "".join(byte_level_text(piece) for piece in pieces)
    assert token_slices(pieces, text, ended=False) == [byte_level_text(piece) for piece in pieces]


def test_dropped_spaces_of_a_llama_2_tokenizer():
    assert align(["Once", "upon", "a", "time", ",", "L", "ily"], " Once upon a time, Lily") == [
        *(" Once", " upon", " a", " time", ",", " L", "ily")
    ]


def test_a_character_over_three_tokens_is_the_last_ones():
    assert align(["�", "�", "�", "!"], "한!") == ["", "", "한", "!"]
    assert align([" �", "�", "."], " é.") == [" ", "é", "."]


@pytest.mark.parametrize("name", ["</s>", "<|im_end|>", "<|endoftext|>", "<an_unheard_of_end>", ""])
def test_the_name_of_the_end_is_no_text(name):
    assert token_slices(["It", " ends", name], "It ends", ended=True) == ["It", " ends", ""]


def test_a_name_that_the_model_wrote_as_text_stays():
    assert token_slices(["<", "/s>", "</s>"], "</s>", ended=True) == ["<", "/s>", ""]
    assert token_slices(["</s>"], "</s>", ended=False) == ["</s>"]
    assert token_slices(["</s>"], "</s>", ended=True) == ["</s>"]


def test_a_special_token_in_the_middle_that_the_text_leaves_out():
    assert align(["a", "<|im_start|>", "b"], "ab") == ["a", "", "b"]


def test_offsets_where_the_strings_do_not_fit():
    assert token_slices(["token_id:5", "token_id:6"], "a b", ended=False, offsets=[10, 11]) == ["a", " b"]
    assert token_slices([" do", " n't", " ."], " don't.", ended=False, offsets=[0, 3, 6]) == [" do", "n't", "."]
    assert offset_slices([0, 3, 2], "abcd") is None
    with pytest.raises(UnreadableReply, match="do not fit"):
        token_slices(["x", "y"], "abc", ended=False)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_offsets_do_not_hide_a_missing_token(missing):
    tokens, offsets = [" a", " b", " c"], [0, 2, 4]
    del tokens[missing], offsets[missing]
    with pytest.raises(UnreadableReply, match="do not fit"):
        token_slices(tokens, " a b c", ended=False, offsets=offsets)


def reply(tokens, tops=None, own=None):
    return {"tokens": tokens, "token_logprobs": own or [-0.5] * len(tokens), "top_logprobs": tops}


@pytest.mark.parametrize("end", [None, "", "</s>", "<|im_end|>"])
def test_three_forms_of_the_end(end):
    tokens = ["Yes", "."] + ([] if end is None else [end])
    tops = [{token: -0.5, "No": -1.5} for token in tokens]
    read = TokenReader().read("Yes.", reply(tokens, tops), "stop")
    assert [token.text for token in read] == ["Yes", ".", ""]
    expected = 1.0 if end is None else math.exp(-0.5)
    assert read[-1].top_prob == pytest.approx(expected)


@pytest.mark.parametrize("own", [None, 0.0])
@pytest.mark.parametrize("name", ["", "</s>", "<an_unheard_of_end>"])
def test_an_end_without_a_probability_is_as_one_that_is_left_out(name, own):
    reader = TokenReader(lists_top=True)
    completions = {
        "tokens": [" a", name],
        "token_logprobs": [-0.5, own],
        "top_logprobs": [{" a": -0.5}, None],
    }
    chat = {
        "content": [
            {"token": " a", "logprob": -0.5, "top_logprobs": [{"token": " a", "logprob": -0.5}]},
            {"token": name, "logprob": own, "top_logprobs": []},
        ]
    }
    for shape in (completions, chat):
        assert reader.read(" a", shape, "stop") == (Token(" a", ((" a", -0.5),)), END_OF_SEQUENCE)
        if name:  # as a text its probability is needed
            with pytest.raises(FaultyLogprobs):
                reader.read(f" a{name}", shape, "length")


def test_no_token_at_all_is_an_end():
    assert TokenReader().read("", reply([]), "stop") == (END_OF_SEQUENCE,)
    assert TokenReader().read("", reply([]), "length") == (END_OF_SEQUENCE,)


def test_keys_of_the_top_list_by_what_the_probe_knows():
    tops = [{"Ġthe": -0.1, "<|im_end|>": -2.0, "Ċ": -3.0}]
    (token,) = TokenReader(pieces="byte_level").read(" the", reply(["Ġthe"], tops), "length")
    assert token.top == ((" the", -0.1), ("", -2.0), ("\n", -3.0))
    tops = [{"▁the": -0.1, "<custom>": -2.0}]
    reader = TokenReader(frozenset({"<custom>"}), "sentencepiece")
    assert reader.read(" the", reply(["▁the"], tops), "length")[0].top == ((" the", -0.1), ("", -2.0))


def test_a_key_that_several_tokens_share_does_not_hide_the_chosen_one():
    # vLLM writes every incomplete character under the key "", and the last one's log-probability stays.
    (token,) = TokenReader().read("", reply([""], [{"": -4.81, "a": -3.0}], own=[-0.184]), "length")
    assert token.top_prob == pytest.approx(math.exp(-0.184))


def test_the_chat_apis_shape():
    def entry(text, logprob, **more):
        return {"id": 1, "token": text, "bytes": list(text.encode()), "logprob": logprob, "top_logprobs": [], **more}

    content = [
        entry("\ufffd", -0.1, bytes=[0xC3]),
        entry("\ufffd", -0.2, bytes=[0xA9]),
        entry("", -0.3, top_logprobs=[{"token": "", "logprob": -0.3}, {"token": " so", "logprob": -1.5}]),
    ]
    read = TokenReader().read("é", {"content": content}, "stop")
    assert [token.text for token in read] == ["", "é", ""]
    assert read[2].top == (("", -0.3), (" so", -1.5))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"tokens": ["a"], "top_logprobs": [{"a": None}]},
        reply(["a"], [{"a": math.nan}]),
        reply(["b"], [{"b": -1.0}]),
    ],
)
def test_unreadable_log_probabilities(logprobs):
    with pytest.raises(UnreadableReply):
        TokenReader().read("a", logprobs, "length")


def test_minus_infinity_is_a_probability_of_0():
    (token,) = TokenReader().read("a", reply(["a"], [{"a": -0.1, "b": -math.inf}]), "length")
    assert token.top[-1] == ("b", -math.inf)


@pytest.mark.parametrize(
    ("shown", "text", "kind"),
    [
        (["Ġa", "Ġb"], " a b", "byte_level"),
        (["▁a", "Ċ"], " aĊ", "sentencepiece"),
        ([" a", " b"], " a b", "text"),
        (["Ġ"], "Ġ", "text"),
    ],
)
def test_how_a_server_prints_tokens(shown, text, kind):
    assert printed_pieces(shown, text) == kind
