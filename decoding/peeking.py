"""The nudging model's next-token distribution at any place of an answer, which a base model's token can be held against."""

from language_models.interface import END_OF_SEQUENCE, LanguageModel, SamplingParams, Token
from language_models.readers import READERS, Reader, Writer


class Peek:
    """The most probable tokens of a model after an answer text.

    Published calls ask for one token after each text. A stream goes on for as long as the texts that are looked at are what the
    model has written itself; it is greedy, so that this is so where the two models agree.
    """

    def __init__(self, model: LanguageModel, prompt: str, logprobs: int, max_token_total: int, request_mode: str):
        """
        Args:
            model, prompt: the model, and its prompt before any answer text.
            logprobs: how many of the most probable tokens are needed.
            max_token_total: the length of the answer in cl100k_base tokens.
            request_mode: a key of READERS.
        """
        self._writer = Writer(model, prompt, SamplingParams(1, logprobs=logprobs), max_token_total)
        self._kind = READERS[request_mode]
        self._reader: Reader | None = None
        self._read: list[Token] = []
        self._text: str | None = None

    def after(self, text: str) -> Token:
        """The model's own next token after an answer text, with the most probable ones.

        Raises:
            ContextLengthError, ModelError: see Reader.
        """
        if text != self._text:
            self._go_to(text)
            self._reader.begin_call()
            token = self._reader.read()
            self._read = [] if token is None else [token]
            self._text = text
        return self._read[0] if self._read else END_OF_SEQUENCE

    def _go_to(self, text: str) -> None:
        self._text = None  # until it is known what comes after it
        if self._reader is not None:
            self._reader.put_back(self._read)
            if not self._reader.follow(text):
                self._reader.close()
                self._reader = None
        self._reader, self._read = self._reader or self._kind(self._writer, text), []

    @property
    def ended(self) -> bool:
        """Whether the model would end the text there."""
        return not self._read or self._reader.ended

    def close(self) -> None:
        """End the writing."""
        if self._reader is not None:
            self._reader.close()
