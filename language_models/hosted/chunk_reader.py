"""The chunks of a stream -> tokens, whichever way a server cuts texts and tokens into chunks."""

from language_models.hosted.logprobs import UnreadableReply, has_tokens, no_logprobs
from language_models.hosted.token_texts import TextMismatch, TokenReader, without_cut_character
from language_models.interface import END_OF_SEQUENCE, Token

# A character has four tokens at most, but servers hold a text back that may become a stop string or a combined character.
MOST_WAITING = 32


class ChunkReader:
    """Turns the choices of a stream's chunks into tokens.

    Where the text of a token comes later than the token itself, the token waits for it; without `reader`, a chunk's text is one
    token without log-probabilities.
    """

    def __init__(self, reader: TokenReader | None):
        self.reader = reader
        self._waiting: tuple[str, dict] | None = None
        self.last_text = "none yet"

    def end(self) -> None:
        """Raise TextMismatch where tokens still wait for their text."""
        if self._waiting:
            self.read({}, "", "length")

    def read(self, choice: dict, text: str, finish_reason: str | None) -> list[Token]:
        """The tokens that a chunk completes.

        Raises:
            FaultyLogprobs: they have no log-probabilities, or some that are none.
            UnreadableReply: they cannot be read; a text that does not fit its tokens only at the end.
        """
        logprobs = choice.get("logprobs") or {}
        if finish_reason:
            text = without_cut_character(text, logprobs, finish_reason)
        if self.reader is None:
            return [Token(text, ())] if text else []
        if not isinstance(logprobs, dict):
            raise UnreadableReply("its log-probabilities have an unknown shape")
        if self._waiting:
            text, logprobs = self._waiting[0] + text, _joined(self._waiting[1], logprobs)
        if not has_tokens(logprobs):
            if text:
                raise no_logprobs(text)
            ends = finish_reason == "stop" and self.last_text != ""
            return [END_OF_SEQUENCE] if ends else []
        try:
            tokens = self.reader.read(text, logprobs, finish_reason or "length")
        except TextMismatch:
            waiting = logprobs.get("content") or logprobs.get("tokens") or ()
            if finish_reason is not None or len(waiting) > MOST_WAITING:
                raise
            self._waiting = text, logprobs
            return []
        self._waiting, self.last_text = None, tokens[-1].text
        return list(tokens)


def _joined(first: dict, second: dict) -> dict:
    """The log-probabilities of two chunks in a row as those of one."""
    names = [name for name, value in (first | second).items() if isinstance(value, list)]
    return {name: (first.get(name) or []) + (second.get(name) or []) for name in names}
