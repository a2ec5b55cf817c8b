"""Completions that are read token by token while a server writes them: server-sent events -> tokens, going on over failures."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import httpx2
import openai

from language_models.hosted.http import json_object, plain_errors, seconds_to_wait
from language_models.hosted.logprobs import UnreadableReply, has_tokens, no_logprobs
from language_models.hosted.token_texts import TextMismatch, TokenReader, completion_choice, without_cut_character
from language_models.interface import END_OF_SEQUENCE, ModelError, SamplingParams, Token, TransientError, Usage

# llama.cpp closes a kept connection after a stream without a word, which would fail the next request on it.
CLOSES_AFTER_STREAMS = "llama.cpp"
# Of a failure that comes back after fewer tokens than a call of the loops has, it is not believed that it passes.
RECOVERED_TOKENS = 16


class ChunkReader:
    """Turns the choices of a stream's chunks into tokens.

    Where the text of a token comes later than the token itself, the token waits for it; without `reader`, a chunk's text is one
    token without log-probabilities.
    """

    def __init__(self, reader: TokenReader | None):
        self.reader = reader
        self._waiting: tuple[str, dict] | None = None
        self._last = "none yet"

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
            ends = finish_reason == "stop" and self._last != ""
            return [END_OF_SEQUENCE] if ends else []
        try:
            tokens = self.reader.read(text, logprobs, finish_reason or "length")
        except TextMismatch:
            if finish_reason is not None:
                raise
            self._waiting = text, logprobs
            return []
        self._waiting, self._last = None, tokens[-1].text
        return list(tokens)


def _joined(first: dict, second: dict) -> dict:
    """The log-probabilities of two chunks in a row as those of one."""
    names = [name for name, value in (first | second).items() if isinstance(value, list)]
    return {name: (first.get(name) or []) + (second.get(name) or []) for name in names}


def data_lines(content: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events, one per event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    rest = b""
    for part in content:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


class EventStream:
    """The tokens of one streamed request, a TokenStream; failures are not mended (see ResumedStream).

    `usage` has the prompt's tokens where the server reports them, and the tokens written as far as they were read.
    """

    def __init__(
        self,
        respond: Callable[[], httpx2.Response],
        reader: TokenReader | None,
        *,
        where: str,
        client: openai.OpenAI,
        count: Callable[[Usage], None],
    ):
        """Send the request, and wait until the server accepts it.

        Args:
            respond: sends it; returns the response, of which nothing has been read.
            reader: None where no log-probabilities were asked for.
            where, client: see http.request.
            count: is told the usage once the stream is over.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request.
        """
        self.usage = Usage()
        self._tell: Callable[[Usage], None] | None = count
        self.where, self.client = where, client
        self._chunks = ChunkReader(reader)
        self._ready: deque[Token] = deque()
        self._finish: str | None = None
        self._over = False
        self._received = 0
        with plain_errors(where, client):
            self._response = respond()
            self._events = data_lines(self._response.iter_bytes())
            self.usage.requests += 1

    @property
    def finish_reason(self) -> str | None:
        """ "stop" or "length" once the last token has been read; None before."""
        return None if self._ready else self._finish

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        while not self._ready:
            if self._over:
                raise StopIteration
            self._pull()
        token = self._ready.popleft()
        # What follows a token without text (an end of sequence, or half a character) tells whether it was the last.
        while not token.text and not self._ready and not self._over:
            self._pull()
        return token

    def close(self) -> None:
        """End the writing: the server notices that nobody listens."""
        self._over = True
        self._response.close()
        if self._tell:
            self._tell(self.usage)
            self._tell = None

    def _pull(self) -> None:
        """Read one event."""
        with plain_errors(self.where, self.client):
            event = next(self._events, None)
            if event is None or event == b"[DONE]":
                if self._finish is None and event is not None and self._received:
                    self._finish = "length"  # a server that gives no reason
                if self._finish is None:
                    raise TransientError(f"{self.where}: the stream was cut before its end", unreachable=event is None)
                if self._response.headers.get("server") != CLOSES_AFTER_STREAMS:
                    for _ in self._events:
                        pass  # a connection that is read to its end can be used again
                self.close()
                return
            self._read(json_object(event))

    def _read(self, event: dict) -> None:
        if error := event.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            raise UnreadableReply(f"the server broke the stream off: {message}")
        usage = event.get("usage")
        if isinstance(usage, dict):
            for name in ("prompt_tokens", "completion_tokens"):
                if isinstance(count := usage.get(name), int):
                    setattr(self.usage, name, max(count, getattr(self.usage, name)))
        if not event.get("choices"):
            return
        text, finish_reason, choice = completion_choice(event)
        if not choice.get("finish_reason"):
            finish_reason = None
        tokens = self._chunks.read(choice, text, finish_reason)
        if tokens:
            self._received += len(tokens)
            timings = event.get("timings")
            written = timings.get("predicted_n") if isinstance(timings, dict) else None
            # llama.cpp waits with the tokens of a character until it is whole, and then shows them as one.
            if isinstance(written, int) and written > self._received:
                tokens[-1] = replace(tokens[-1], count=1 + written - self._received)
                self._received = written
        self.usage.completion_tokens = max(self.usage.completion_tokens, self._received)
        self._ready.extend(tokens)
        if finish_reason:
            self._finish = finish_reason
            # What comes now is at hand.
            while not self._over:
                self._pull()


class ResumedStream:
    """A token stream that goes on where a request failed, by another request for what is still missing."""

    def __init__(
        self,
        open_after: Callable[[str, SamplingParams, Usage], EventStream],
        params: SamplingParams,
        retries: int,
        failed: Callable[[TransientError], None] = lambda error: None,
    ):
        """Open the stream.

        Args:
            open_after: opens a stream after a text that has been written, with the params of what is missing; tries again by
                itself, and counts the retries in the usage that it is given.
            params: of the whole; a stream that breaks off after max_tokens is over.
            retries: how often it may fail within RECOVERED_TOKENS.
            failed: is told of each failure after the opening.

        Raises:
            ContextLengthError, ModelError: see LanguageModel.stream.
        """
        self._open_after, self._failed = open_after, failed
        self._params, self._retries = params, retries
        self._complete = False  # all tokens are there, and the server's last word is not
        self._text, self._read, self._breaks = "", 0, 0
        self._failures, self._failed_at = 0, 0  # in a row, the last one after that many tokens
        self._before = Usage()
        self._stream = open_after("", params, self._before)

    @property
    def usage(self) -> Usage:
        """See TokenStream."""
        total = Usage()
        total.add(self._before)
        total.add(self._stream.usage)
        return total

    @property
    def finish_reason(self) -> str | None:
        """See TokenStream."""
        return "length" if self._complete else self._stream.finish_reason

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        while True:
            try:
                token = next(self._stream)
            except TransientError as error:
                if self._read >= self._params.max_tokens:
                    self._complete = True
                    self._stream.close()
                    raise StopIteration from None
                self._go_on(error)
                continue
            except ModelError:
                self._stream.close()
                raise
            self._text += token.text
            self._read += token.count
            return token

    def _go_on(self, error: TransientError) -> None:
        self._stream.close()
        self._before.add(self._stream.usage)
        self._before.retries += 1
        self._stream.usage = Usage()
        recovered = self._read - self._failed_at >= RECOVERED_TOKENS
        self._failures, self._failed_at = 1 if recovered else self._failures + 1, self._read
        self._failed(error)
        if self._failures > self._retries:
            raise error
        self._breaks += 1
        if self._breaks > 1:  # the first time it may be a server that has just gone, and another one is there
            time.sleep(seconds_to_wait(error, self._breaks))
        missing = replace(self._params, max_tokens=self._params.max_tokens - self._read)
        self._stream = self._open_after(self._text, missing, self._before)

    def close(self) -> None:
        """See TokenStream."""
        self._stream.close()
