"""What tokenizers say of texts."""

from typing import Protocol


class TextTokenizer(Protocol):
    """A tokenizer. Its methods raise ModelError where its server does not answer."""

    name: str
    chat_template: str | None
    special_tokens: dict[str, str]

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text; `special`: with the beginning of sequence where the tokenizer adds it."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        ...

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        ...
