"""The tokenizer of a model in this process, for whoever asks for ids and texts of it."""

from collections.abc import Sequence

from language_models.interface import ModelError
from language_models.local.vocabulary import Vocabulary

SPECIAL_TOKENS = ("eos_token", "bos_token", "pad_token")


class OwnTokenizer:
    """A TextTokenizer over a model's vocabulary; safe to use from many threads. `name` is the model's."""

    def __init__(self, name: str, vocabulary: Vocabulary):
        self.name, self._vocabulary = name, vocabulary

    @property
    def special_tokens(self) -> dict[str, str]:
        """See TextTokenizer."""
        tokenizer = self._vocabulary.tokenizer
        return {name: token for name in SPECIAL_TOKENS if (token := getattr(tokenizer, name, None))}

    @property
    def chat_template(self) -> str | None:
        """See TextTokenizer; of several the one that is used by default."""
        try:
            return self._vocabulary.tokenizer.get_chat_template()
        except ValueError:
            return None

    def encode(self, text: str, special: bool = False) -> list[int]:
        """See TextTokenizer."""
        return list(self._vocabulary.encode(text, special=special))

    def decode(self, ids: Sequence[int]) -> str:
        """See TextTokenizer; special tokens by their names.

        Raises:
            ModelError: the tokenizer has no such ids.
        """
        size = len(self._vocabulary.tokenizer)
        if wrong := [token for token in ids if not 0 <= token < size]:
            raise ModelError(f"the tokenizer of {self.name} has no token {wrong[0]}, only those from 0 to {size - 1}")
        return self._vocabulary.decode(list(ids), names=True)

    def count(self, text: str) -> int:
        """See TextTokenizer."""
        return len(self.encode(text))
