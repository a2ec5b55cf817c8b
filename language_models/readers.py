"""What a model writes after a text, read from streams as far as a loop needs it."""

import math
import time
from collections import deque
from dataclasses import dataclass

from language_models.interface import ContextLengthError, LanguageModel, Token, TokenStream
from utils import count_tokens


@dataclass
class Writer:
    """One model as one sample's loop streams it.

    `call_tokens` is what the published program asks for per call, `max_token_total` the length of the answer in cl100k_base tokens,
    `options` go to the model. `most_calls`: for how many calls' tokens the server has room. `seconds_per_token` is measured.
    """

    model: LanguageModel
    prompt: str
    call_tokens: int
    max_token_total: int
    options: dict
    most_calls: float = math.inf
    seconds_per_token: float = 0.0

    def open(self, text: str, draft: str) -> tuple[TokenStream, int]:
        """A stream of the rest of the answer, and how many tokens it was asked for.

        Raises:
            ContextLengthError: not even a call's tokens fit.
        """
        missing = self.max_token_total - count_tokens(text)
        calls = min(self.most_calls, 1 + max(0, math.ceil(missing / self.call_tokens)))
        if calls > 1:
            try:
                return self._stream(text, calls * self.call_tokens, draft)
            except ContextLengthError:
                # One call per stream from now on: the text may be cut into more tokens than were written, so that the window's end
                # is met where the published calls meet it only if each call is asked for by itself.
                self.most_calls = 1
        return self._stream(text, self.call_tokens, draft)

    def _stream(self, text: str, tokens: int, draft: str) -> tuple[TokenStream, int]:
        return self.model.stream(self.prompt + text, max_tokens=tokens, draft=draft, **self.options), tokens


class Continuation:
    """The tokens that a model writes after an answer text.

    One stream brings as many of the published program's calls as it can.
    """

    def __init__(self, writer: Writer, text: str, draft: str = ""):
        self.writer = writer
        self.text = text  # up to the next token that is read
        self._draft = draft
        self._pending: deque[Token] = deque()
        self._stream: TokenStream | None = None
        self._left = 0  # of the tokens that the stream was asked for
        self._call_begun = False  # whether a token of the present call has been read
        self._first_at, self._arrived = 0.0, 0

    def begin_call(self) -> None:
        """Have the tokens of one call of the published program come, with requests only where they are not coming already.

        Raises:
            ContextLengthError: there is no room for them in the context window.
        """
        if len(self._pending) + self._left < self.writer.call_tokens:
            self.ask_again()
        if self._stream is None and not self._pending:
            self._stream, self._left = self.writer.open(self.text, self._draft)
            self._draft, self._arrived = "", 0
        self._call_begun = False

    @property
    def ended(self) -> bool:
        """Whether the last token that was read is the end of sequence."""
        return not self._pending and self._stream is not None and self._stream.finish_reason == "stop"

    @property
    def at_hand(self) -> str:
        """The text of the tokens that were put back."""
        return "".join(token.text for token in self._pending)

    def read(self) -> Token | None:
        """The next token; None after the end of sequence, and where there are no more without another request."""
        token = self._pending.popleft() if self._pending else self._next()
        if token is not None:
            self.text += token.text
            self._call_begun = True
        return token

    def _next(self) -> Token | None:
        if self._stream is None:
            return None
        token = next(self._stream, None)
        if token is not None:
            self._left -= 1
            self._measure()
        elif self._stream.finish_reason == "length" and self._left:
            # A server that writes less than it was asked for, though as much as the published calls ask for.
            self.close()
            if self._arrived >= self.writer.call_tokens:
                self.writer.most_calls = self._arrived // self.writer.call_tokens
                try:
                    self._stream, self._left = self.writer.open(self.text, "")
                except ContextLengthError:
                    if not self._call_begun:
                        raise
                    return None  # the call ends where the context window does
                self._arrived = 0
                return self._next()
            self.writer.most_calls = 1
        return token

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
            if not text.startswith(self.text) or self.read() is None:
                return False
        return True

    def ask_again(self) -> None:
        """Have what follows be asked for anew."""
        self.close()
        self._pending.clear()

    def close(self) -> None:
        """End the writing; what was put back stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream, self._left = None, 0
