"""The nudging model's next-token distribution at any place of an answer, which a base model's token can be held against."""

from language_models.interface import END_OF_SEQUENCE, LanguageModel, SamplingParams, Token
from language_models.readers import READERS, Reader, Writer, reader_at

PLACES_KEPT = 64


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
        self._seen: dict[str, tuple[Token, bool]] = {}  # where a loop reads tokens again that it has put back

    def after(self, text: str) -> Token:
        """The model's own next token after an answer text, with the most probable ones.

        Raises:
            ContextLengthError, ModelError: see Reader.
        """
        return self._look(text)[0]

    def ends_after(self, text: str) -> bool:
        """Whether that token is the end of sequence. Raises what `after` does."""
        return self._look(text)[1]

    def _look(self, text: str) -> tuple[Token, bool]:
        if text not in self._seen:
            self._reader = reader_at(text, self._reader, self._read, lambda text: self._kind(self._writer, text))
            self._read = []
            self._reader.begin_call()
            token = self._reader.read()
            self._read = [] if token is None else [token]
            self._seen[text] = (END_OF_SEQUENCE, True) if token is None else (token, self._reader.ended)
            while len(self._seen) > PLACES_KEPT:
                del self._seen[next(iter(self._seen))]
        return self._seen[text]

    def close(self) -> None:
        """End the writing."""
        if self._reader is not None:
            self._reader.close()
