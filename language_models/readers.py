"""What a model writes after a text, as a decoding loop reads it: token by token, in calls of a fixed number of tokens.

The loops follow the published program, whose requests (calls) ask for a fixed number of tokens each. There are two request modes
with one interface: `CallReader` sends those very requests; `StreamReader` brings the same tokens, in the same calls, from streams
that go on for as long as what a loop accepts is what the model has written.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from language_models.interface import (
    CHARACTER_TOKENS,
    Completion,
    ContextLengthError,
    LanguageModel,
    SamplingParams,
    Token,
    TokenStream,
)
from utils import count_tokens


@dataclass
class Writer:
    """One model as one sample's loop reads it.

    `params` are those of one call; `max_token_total` is the length of the answer in cl100k_base tokens. `most_calls`: for how
    many calls' tokens the server has room in one stream. `seconds_per_token` is measured.
    """

    model: LanguageModel
    prompt: str
    params: SamplingParams
    max_token_total: int
    most_calls: float = math.inf
    seconds_per_token: float = 0.0

    @property
    def call_tokens(self) -> int:
        """How many tokens a call asks for, in the model's own."""
        return self.params.max_tokens

    def call(self, text: str) -> Completion:
        """One call's tokens after the answer so far; those of a first character where they are less than that.

        Raises:
            ContextLengthError: they do not fit.
            ModelError: the model did not answer, after all retries.
        """
        return whole_character(self.model, self.prompt + text, self.params.after(text))

    def open(self, text: str, draft: str) -> tuple[TokenStream, int]:
        """A stream of the rest of the answer, and how many tokens it was asked for.

        Raises:
            ContextLengthError: not even a call's tokens fit.
            ModelError: the model did not answer, after all retries.
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

    def open_for_character(self, text: str) -> TokenStream:
        """A stream of as many tokens as a character may have; see `open`."""
        return self._stream(text, CHARACTER_TOKENS, "")[0]

    def _stream(self, text: str, tokens: int, draft: str) -> tuple[TokenStream, int]:
        params = replace(self.params.after(text), max_tokens=tokens)
        return self.model.stream(self.prompt + text, params, draft), tokens


def whole_character(model: LanguageModel, prompt: str, params: SamplingParams) -> Completion:
    """A completion, of CHARACTER_TOKENS where fewer have brought no text: the text would never go on beyond half a character.

    Raises:
        ContextLengthError, ModelError: see LanguageModel.
    """
    completion = model.complete(prompt, params)
    if completion.text or completion.finish_reason != "length" or params.max_tokens >= CHARACTER_TOKENS:
        return completion
    return model.complete(prompt, replace(params, max_tokens=CHARACTER_TOKENS))


class Reader(ABC):
    """The tokens that a model writes after an answer text, call by call; `text` is the answer up to the next token that is read.

    Reading and beginning a call raise ContextLengthError where the context window has no room for a call's tokens, and ModelError
    where the model does not answer after all retries.
    """

    def __init__(self, writer: Writer, text: str, draft: str = ""):
        """
        Args:
            writer: the model.
            text: the answer so far, without the prompt.
            draft: what the model may well go on with (see LanguageModel.stream), where the request mode can make use of it.
        """
        self.writer = writer
        self.text = text
        self._pending: deque[Token] = deque()

    @abstractmethod
    def begin_call(self) -> None:
        """Have the tokens of the next call come; what is left of the last one is no part of it."""

    @abstractmethod
    def read(self) -> Token | None:
        """The next token of the call; None where the call is over."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the last token that was read is the end of sequence."""

    @abstractmethod
    def follow(self, text: str) -> bool:
        """Whether the tokens that come next lead to a longer text, without another request; they are read then."""

    @abstractmethod
    def close(self) -> None:
        """End the writing; what was put back stays."""

    @property
    def at_hand(self) -> str:
        """The text of the tokens that were put back."""
        return "".join(token.text for token in self._pending)

    def put_back(self, tokens: list[Token]) -> None:
        """Have the last tokens that were read be read again."""
        self._pending.extendleft(reversed(tokens))
        self.text = self.text[: len(self.text) - sum(len(token.text) for token in tokens)]


class CallReader(Reader):
    """By the published program's requests: each call is a request, and nothing of it is of use to a later one."""

    _finish_reason: str | None = None

    def begin_call(self) -> None:
        completion = self.writer.call(self.text)
        self._pending, self._finish_reason = deque(completion.tokens), completion.finish_reason

    def read(self) -> Token | None:
        if not self._pending:
            return None
        token = self._pending.popleft()
        self.text += token.text
        return token

    @property
    def ended(self) -> bool:
        return not self._pending and self._finish_reason == "stop"

    def follow(self, text: str) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open between two calls."""


class StreamReader(Reader):
    """By streams: one brings as many calls as it can, and each token is read when it is needed."""

    def __init__(self, writer: Writer, text: str, draft: str = ""):
        super().__init__(writer, text, draft)
        self._draft = draft
        self._stream: TokenStream | None = None
        self._left = 0  # of the tokens that the stream was asked for
        self._read: list[Token] = []  # of the present call
        self._most = writer.call_tokens  # that the present call has
        self._call_begun = False  # whether a token of the present call has been read, put back or not
        self._first_at, self._arrived = 0.0, 0

    def begin_call(self) -> None:
        # A call after half a character or the end of sequence begins with a text that does not show it.
        unseen = self.ended or (self._read and not self._read[-1].text)
        if unseen or len(self._pending) + self._left < self.writer.call_tokens:
            self.close()
            self._pending.clear()
        if self._stream is None and not self._pending:
            self._open(self._draft)
            self._draft = ""
        self._read = []
        self._most = self.writer.call_tokens
        self._call_begun = False

    def read(self) -> Token | None:
        token = self._read_within()
        if token or self._most >= CHARACTER_TOKENS or self.ended or any(token.text for token in self._read):
            return token
        # See `whole_character`.
        self._most = CHARACTER_TOKENS
        if self._used + sum(token.count for token in self._pending) + self._left < CHARACTER_TOKENS:
            self.close()
            self._stream = self.writer.open_for_character(self.text)
            self._pending = deque(list(self._stream)[len(self._read) :])
        return self._read_within()

    @property
    def _used(self) -> int:
        """How many of the model's own tokens the present call has had."""
        return sum(token.count for token in self._read)

    def _read_within(self) -> Token | None:
        """The next token of the call, if it is whole within the call's limit: the next call has the model write it again."""
        used = self._used
        if used >= self._most:
            return None
        token = self._read_on()
        if token is not None and used + token.count > self._most:
            self.put_back([token])
            return None
        return token

    @property
    def ended(self) -> bool:
        return not self._pending and self._stream is not None and self._stream.finish_reason == "stop"

    def put_back(self, tokens: list[Token]) -> None:
        super().put_back(tokens)
        self._read = self._read[: max(0, len(self._read) - len(tokens))]

    def follow(self, text: str) -> bool:
        while self.text != text:
            if not text.startswith(self.text) or self._read_on() is None:
                return False
        return True

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream, self._left = None, 0

    def _open(self, draft: str) -> None:
        self._stream, self._left = self.writer.open(self.text, draft)
        self._arrived = 0

    def _read_on(self) -> Token | None:
        """The next token, whichever call it belongs to; None after the end of sequence, and where there is none on its way."""
        token = self._pending.popleft() if self._pending else self._next()
        if token is not None:
            self.text += token.text
            self._read.append(token)
            self._call_begun = True
        return token

    def _next(self) -> Token | None:
        if self._stream is None:
            return None
        token = self._take()
        if token is None and self._stream.finish_reason == "length" and self._left:
            # A server that writes less than it was asked for, though as much as the published calls ask for.
            self.close()
            if self._arrived >= self.writer.call_tokens:
                self.writer.most_calls = self._arrived // self.writer.call_tokens
                try:
                    self._open("")
                except ContextLengthError:
                    if not self._call_begun:
                        raise
                    return None  # the call ends where the context window does
                return self._after_half_a_character()
            self.writer.most_calls = 1
        return token

    def _after_half_a_character(self) -> Token | None:
        """The next token of a stream that was opened within a call: the text did not show half a character, which comes again."""
        again = 0
        while again < len(self._read) and not self._read[-1 - again].text:
            again += 1
        token = self._take()
        while again and token is not None and not token.text and self._stream.finish_reason != "stop":
            token, again = self._take(), again - 1
        return token

    def _take(self) -> Token | None:
        """The stream's next token."""
        token = next(self._stream, None)
        if token is not None:
            self._left -= token.count
            self._measure(token.count)
        return token

    def _measure(self, tokens: int) -> None:
        now = time.monotonic()
        if self._arrived:
            self.writer.seconds_per_token = (now - self._first_at) / self._arrived
        else:
            self._first_at = now
        self._arrived += tokens


def reader_at(text: str, reader: Reader | None, read: list[Token], anew: Callable[[str], Reader]) -> Reader:
    """A reader of what follows a text: the one before where the text is what its model has written, which goes on; else a new one.

    Args:
        text: the answer so far, without the prompt.
        reader: the one before, which is closed where it cannot go on.
        read: the tokens that were read of it since its call began; they are put back.
        anew: makes a reader after a text.

    Raises:
        ContextLengthError, ModelError: see Reader.
    """
    if reader is not None:
        reader.put_back(read)
        if reader.follow(text):
            return reader
        reader.close()
    return anew(text)


# By the names of the request modes.
READERS: dict[str, type[Reader]] = {"published": CallReader, "streamed": StreamReader}
