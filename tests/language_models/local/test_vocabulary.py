"""The text that tokens add, by tokenizers that write it in different ways."""

import needs
import pytest

needs.module("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_models import BEGIN, END_OF_TEXT, byte_fallback_tokenizer, make_tokenizer  # noqa: E402
from tokenizers import decoders, normalizers  # noqa: E402

from language_models.local.vocabulary import GrowingText, Vocabulary  # noqa: E402

BYTE_LEVEL, GEMMA_LIKE = make_tokenizer(), byte_fallback_tokenizer()
# Llama 2's: a space before the first word, which decoding takes away again.
LLAMA_LIKE = byte_fallback_tokenizer()
LLAMA_LIKE.backend_tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
)
LLAMA_LIKE.backend_tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
TOKENIZERS = pytest.mark.parametrize(
    "tokenizer", [BYTE_LEVEL, GEMMA_LIKE, LLAMA_LIKE], ids=["byte_level", "gemma_like", "llama_like"]
)
TEXTS = (
    " Use a pan with a lid",
    "  two spaces\n\n and lines",
    " 日本の首都は東京",
    "😀🎉 and 👨‍👩‍👧‍👦",
    " naïve café «Über»",
    "x",
)


@TOKENIZERS
@pytest.mark.parametrize("prompt", ["How do I bake bread?", "A dog 😀", "日本", " ", "Line\n"])
def test_the_pieces_are_the_text(tokenizer, prompt):
    vocabulary = Vocabulary(tokenizer, frozenset({tokenizer.eos_token_id}))
    before = vocabulary.encode(prompt)
    for text in TEXTS:
        ids = vocabulary.encode(prompt + text)
        if ids[: len(before)] != before:
            continue
        growing = GrowingText(vocabulary, before)
        pieces = [growing.add(token) for token in ids[len(before) :]]
        assert "".join(pieces) == text
        # A character belongs to the last of its tokens, so that no piece but a part's is empty.
        for i, piece in enumerate(pieces):
            assert piece or "\ufffd" in tokenizer.decode(ids[len(before) : len(before) + i + 1])


@TOKENIZERS
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["How do I bake bread?", "A dog 😀", " ", "Line\n", "�"]),
    st.lists(st.lists(st.one_of(st.integers(3, 599), st.integers(3, 258)), min_size=1, max_size=5), max_size=6),
)
def test_text_does_not_depend_on_how_many_tokens_come_at_once(tokenizer, prompt, groups):
    """Bytes that are no text among them: of those in a row some decoders lose all."""
    vocabulary = Vocabulary(tokenizer, frozenset())
    at_once, single = (GrowingText(vocabulary, vocabulary.encode(prompt)) for _ in range(2))
    for group in groups:
        assert at_once.add(*group) == "".join(single.add(token) for token in group)


@TOKENIZERS
def test_half_a_character_is_no_text(tokenizer):
    vocabulary = Vocabulary(tokenizer, frozenset())
    before, ids = vocabulary.encode("A"), vocabulary.encode("A🎉")
    growing = GrowingText(vocabulary, before)
    assert [growing.add(token) for token in ids[len(before) : -1]] == [""] * (len(ids) - len(before) - 1)
    assert growing.add(ids[-1]) == "🎉"


@TOKENIZERS
def test_ends_and_special_tokens_are_no_text(tokenizer):
    vocabulary = Vocabulary(tokenizer, frozenset({tokenizer.eos_token_id}))
    growing = GrowingText(vocabulary, vocabulary.encode("Bread"))
    assert growing.add(tokenizer.eos_token_id) == growing.add(tokenizer.bos_token_id) == ""
    assert vocabulary.text_of(tokenizer.eos_token_id) == ""
    # In a list of what could have been written, only the end is nothing.
    assert vocabulary.text_of(tokenizer.bos_token_id) == BEGIN
    assert END_OF_TEXT not in vocabulary.decode([*vocabulary.encode("Bread"), tokenizer.eos_token_id])


@TOKENIZERS
def test_texts_of_single_tokens(tokenizer):
    vocabulary = Vocabulary(tokenizer, frozenset())
    ids = vocabulary.encode("The user asks for advice")
    texts = [vocabulary.text_of(token) for token in ids[1:]]
    assert "".join(texts).removeprefix(" ") == "The user asks for advice"
    assert vocabulary.encode("x") != vocabulary.encode("x", special=False)
