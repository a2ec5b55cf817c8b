"""The tokenizer of a model in this process as servers show theirs."""

import needs
import pytest

torch = needs.module("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from local_models import BYTE_FALLBACK, BYTE_LEVEL, PROMPT, local  # noqa: E402

from language_models.interface import ModelError  # noqa: E402
from language_models.local.text_tokenizer import OwnTokenizer  # noqa: E402
from language_models.local.vocabulary import Vocabulary  # noqa: E402

KINDS = {"byte_level": BYTE_LEVEL, "byte_fallback": BYTE_FALLBACK}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts(kind):
    own = OwnTokenizer("lm", Vocabulary(KINDS[kind], frozenset()))
    ids = own.encode(PROMPT)
    assert own.decode(ids) == PROMPT and own.count(PROMPT) == len(ids)
    assert own.encode(PROMPT, special=True) == KINDS[kind](PROMPT)["input_ids"]
    own.encode(PROMPT, special=True).clear()  # whoever asks may do with them what they like
    assert own.encode(PROMPT, special=True) == KINDS[kind](PROMPT)["input_ids"]
    for wrong in (-1, len(KINDS[kind]), 2**31):
        with pytest.raises(ModelError, match=f"has no token {wrong}, only those from 0 to "):
            own.decode([3, wrong])


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=30)
def test_any_text_comes_back(text):
    own = OwnTokenizer("lm", Vocabulary(BYTE_LEVEL, frozenset()))
    assert own.decode(own.encode(text)) == text


def test_of_a_model():
    model = local()
    own = model.tokenizer()
    assert own.name == model.name and model.context_length == 512
    assert own.special_tokens["bos_token"] == BYTE_LEVEL.bos_token and own.chat_template == BYTE_LEVEL.chat_template
    assert own.decode(own.encode("a", special=True)).startswith(BYTE_LEVEL.bos_token)
    without = OwnTokenizer("lm", Vocabulary(BYTE_FALLBACK, frozenset()))
    assert (without.chat_template is None) == (BYTE_FALLBACK.chat_template is None)
