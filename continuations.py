"""What a model writes after a text, read from streams as far as a loop needs it."""

import math
import time
from collections import deque
from dataclasses import dataclass

from language_models import ContextLengthError, LanguageModel, Token, TokenStream
from utils import count_tokens


@dataclass
class Writer:
    """One model as one sample's loop streams it.

    `call_tokens` is what the published program asks for per call, `max_token_total` the length of the answer in cl100k_base tokens,
    `options` go to the model. `near_limit`: no more than a call's tokens fit into the context window. `seconds_per_token` is
    measured.
    """

    model: LanguageModel
    prompt: str
    call_tokens: int
    max_token_total: int
    options: dict
    near_limit: bool = False
    seconds_per_token: float = 0.0

    def open(self, text: str, draft: str) -> tuple[TokenStream, int]:
        """A stream of the rest of the answer, and how many tokens it was asked for.

        Raises:
            ContextLengthError: not even a call's tokens fit.
        """
        calls_left = 1 + max(0, math.ceil((self.max_token_total - count_tokens(text)) / self.call_tokens))
        if not self.near_limit:
            try:
                return self._stream(text, calls_left * self.call_tokens, draft)
            except ContextLengthError:
                self.near_limit = True
        return self._stream(text, self.call_tokens, draft)

    def _stream(self, text: str, tokens: int, draft: str) -> tuple[TokenStream, int]:
        return self.model.stream(self.prompt + text, max_tokens=tokens, draft=draft, **self.options), tokens


class Continuation:
    """The tokens that a model writes after an answer text.

    A stream is opened when its first token is asked for, and another where the first has brought all that it was asked for.
    """

    def __init__(self, writer: Writer, text: str, draft: str = ""):
        self.writer = writer
        self.text = text  # up to the next token that is read
        self._draft = draft
        self._pending: deque[Token] = deque()
        self._stream: TokenStream | None = None
        self._left = 0  # of the tokens that the stream was asked for
        self._first_at, self._arrived = 0.0, 0

    def open(self) -> None:
        """Have the model begin, where nothing is at hand."""
        if self._stream is None and not self._pending:
            self._stream, self._left = self.writer.open(self.text, self._draft)
            self._draft, self._arrived = "", 0

    @property
    def ended(self) -> bool:
        """Whether the last token that was read is the end of sequence."""
        return not self._pending and self._stream is not None and self._stream.finish_reason == "stop"

    @property
    def at_hand(self) -> str:
        """The text of the tokens that were put back."""
        return "".join(token.text for token in self._pending)

    def read(self, reopen: bool = True) -> Token | None:
        """The next token; None after the end of sequence, and where the model has no room for more.

        With `reopen` False also None where a request would be needed.
        """
        token = self._pending.popleft() if self._pending else self._next(reopen)
        if token is not None:
            self.text += token.text
        return token

    def _next(self, reopen: bool) -> Token | None:
        while True:
            if self._stream is None:
                if not reopen:
                    return None
                self.open()
            token = next(self._stream, None)
            if token is not None:
                self._left -= 1
                self._measure()
                return token
            if self._stream.finish_reason == "stop":
                return None
            self._stream = None
            if self._left:
                return None

    def _measure(self) -> None:
        now = time.monotonic()
        if self._arrived:
            self.writer.seconds_per_token = (now - self._first_at) / self._arrived
        else:
            self._first_at = now
        self._arrived += 1

    def put_back(self, tokens: list[Token]) -> None:
        """Have the last tokens that were read be read again."""
        self._pending.extendleft(reversed(tokens))
        self.text = self.text[: len(self.text) - sum(len(token.text) for token in tokens)]

    def follow(self, text: str) -> bool:
        """Whether the tokens that come next lead to a longer text, without another request; they are read then."""
        while self.text != text:
            if not text.startswith(self.text) or self.read(reopen=False) is None:
                return False
        return True

    def ask_again(self) -> None:
        """Have what follows be asked for anew, even after an end."""
        if not self._pending:
            self.close()

    def close(self) -> None:
        """End the writing; what was put back stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
