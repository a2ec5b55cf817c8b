"""Completions that are read token by token while a server writes them: server-sent events -> tokens, going on over failures."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import httpx2
import openai

from language_models.hosted.choices import LONGEST_TOKEN, chunk_choice, too_many_tokens, unsaid_reason
from language_models.hosted.chunk_reader import ChunkReader
from language_models.hosted.deadlines import DEADLINES
from language_models.hosted.events import DONE, SilentServer, events
from language_models.hosted.http import json_object, plain_errors
from language_models.hosted.logprobs import FaultyReply, UnreadableReply
from language_models.hosted.server_errors import ServerFailure, error_in
from language_models.hosted.token_texts import TokenReader
from language_models.interface import END_OF_SEQUENCE, Token, TransientError, Usage

# llama.cpp closes a kept connection after a stream without a word, which would fail the next request on it.
CLOSES_AFTER_STREAMS = "llama.cpp"
# What comes behind the finish reason (usage, [DONE], the end of the body) is on its way with it.
LAST_WORDS_SECONDS = 2.0


@dataclass
class Manners:
    """What streams have shown of their server: `ends` whether it ends them when it has said everything."""

    ends: bool = True


class EventStream:
    """The tokens of one streamed request, a TokenStream; failures are not mended (see ResumedStream).

    `usage` has the prompt's tokens where the server reports them, and the tokens written as far as they were read.
    """

    def __init__(
        self,
        respond: Callable[[], httpx2.Response],
        reader: TokenReader | None,
        max_tokens: int,
        *,
        silence: float,
        manners: Manners,
        where: str,
        client: openai.OpenAI,
        count: Callable[[Usage], None],
    ):
        """Send the request, and wait until the server accepts it.

        Args:
            respond: sends it; returns the response, of which nothing has been read.
            reader: None where no log-probabilities were asked for.
            max_tokens: as asked for.
            silence: seconds that a token is waited for.
            manners: what is known of the server, and is learnt here.
            where, client: see http.request.
            count: is told the usage once the stream is over.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request.
        """
        self.usage = Usage()
        self._tell: Callable[[Usage], None] | None = count
        self.where, self.client = where, client
        self._chunks = ChunkReader(reader)
        self._max_tokens, self._silence, self._manners = max_tokens, silence, manners
        self._ready: deque[Token] = deque()
        self._finish: str | None = None
        self._over = False
        self._received, self._characters = 0, 0
        self._written = 0  # tokens up to here, where llama.cpp tells it with each chunk
        self._told: int | None = None  # tokens up to here by the server's last word
        self.gives_reason = True  # False once it has ended without a finish reason
        self.is_full = (
            False  # whether as many tokens as asked for have come, the last of them surely no end of sequence
        )
        self._waited = 0.0  # seconds for the next token, not those in which nobody read
        with plain_errors(where, client):
            self._response = respond()
            self._events = events(self._response.iter_bytes(), silence)
            self.usage.requests += 1

    @property
    def finish_reason(self) -> str | None:
        """ "stop" or "length" once the last token has been read; None before."""
        return None if self._ready else self._finish

    @property
    def tokens_read(self) -> int | None:
        """How many tokens have come; None where a chunk may be several, and the server does not count."""
        if self._chunks.reader is not None or not self._received:
            return self._received
        return self._told if self._is_counted else None

    @property
    def _is_counted(self) -> bool:
        """Whether the server's count can be right: a chunk has a token at least (some count each by itself, or write 0 always)."""
        return self._told is not None and self._told >= self._received

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
        try:
            with plain_errors(self.where, self.client):
                self._read_one()
        except SilentServer:
            raise TransientError(f"{self.where}: no token in {self._silence:g} s, though the server sends") from None

    def _read_one(self) -> None:
        began = time.monotonic()
        event = next(self._events, None)
        self._waited += time.monotonic() - began
        if event is None:
            raise TransientError(f"{self.where}: the stream was cut before its end", unreachable=True)
        if event == DONE:
            self._end_without_reason()
            return
        if self._waited > self._silence:
            raise SilentServer
        text, finish_reason, choice = self._choice(event) or ("", None, {})
        if not choice:
            return
        tokens = self._chunks.read(choice, text, finish_reason)
        self._check_length(tokens, text)
        self.usage.completion_tokens = max(self.usage.completion_tokens, self._received)
        self._ready.extend(tokens)
        if finish_reason:
            self._finish = finish_reason
            self._read_last_words()

    def _choice(self, event: bytes) -> tuple[str, str | None, dict] | None:
        """What an event says of the choice, None where it says nothing of it; its usage is taken.

        Raises:
            UnreadableReply, ServerFailure: it cannot be read, or is an error.
        """
        body = json_object(event)
        if error := error_in(body):
            raise ServerFailure(error, "the server broke the stream off")
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(count := usage.get(name), int):
                setattr(self.usage, name, max(count, getattr(self.usage, name)))
        if body.get("choices") or usage:
            # Of the tokens up to here; the next chunk may come without.
            self._told = count if isinstance(count := usage.get("completion_tokens"), int) else None
        timings = body.get("timings")  # llama.cpp's
        written = timings.get("predicted_n") if isinstance(timings, dict) else None
        self._written = written if isinstance(written, int) else 0
        if self._written:
            self._told = self._written
            self.usage.completion_tokens = max(self.usage.completion_tokens, self._written)
        return chunk_choice(body) if body.get("choices") else None

    def _check_length(self, tokens: list[Token], text: str) -> None:
        """Count what has come; it must not be more than was asked for."""
        if not tokens:
            return
        self._waited = 0.0
        self._received += len(tokens)
        self._characters += len(text)
        # llama.cpp waits with the tokens of a character until it is whole, and then shows them as one.
        if self._written > self._received:
            tokens[-1] = replace(tokens[-1], count=1 + self._written - self._received)
            self._received = self._written
        self.is_full = tokens[-1].text != "" and (self.tokens_read or self._received) >= self._max_tokens
        # An end of sequence may come on top of them.
        too_many = self._received - (not tokens[-1].text) > self._max_tokens
        if self._chunks.reader is None:
            too_many = (self._told or 0) > self._max_tokens + 1 or self._characters > LONGEST_TOKEN * self._max_tokens
        if too_many:
            raise too_many_tokens(self._max_tokens)

    def _end_without_reason(self) -> None:
        """Find out why a stream has ended that says [DONE] and no more."""
        self.gives_reason = False
        self._chunks.end()
        if not self._received:
            raise TransientError(f"{self.where}: the stream has no tokens and no finish reason")
        if self._chunks.reader is not None:
            told, last_is_text = self._received, self._chunks.last_text != ""
        else:  # a chunk may be several tokens, and only the server's count has an end of sequence
            last_is_text = self._received >= self._max_tokens
            told = self._told if self._is_counted else self._received if last_is_text else None
        self._finish = unsaid_reason(told, last_is_text, self._max_tokens)
        if self._finish == "stop" and self._chunks.reader is not None and last_is_text:
            self._ready.append(END_OF_SEQUENCE)
        self.close()

    def _read_last_words(self) -> None:
        """Read what follows the finish reason, so that the connection can be used again; what goes wrong there is no failure.

        Raises:
            FaultyReply: the text goes on.
        """
        if not self._manners.ends:
            self.close()
            return
        stream = self._response.extensions.get("network_stream")
        cut = DEADLINES.cut_after(LAST_WORDS_SECONDS, stream)
        more = None
        try:
            for event in self._events:
                if event == DONE and self._response.headers.get("server") == CLOSES_AFTER_STREAMS:
                    break
                if event != DONE and (more := self._choice(event)) and more[0]:
                    break
        except (httpx2.HTTPError, httpx2.StreamError, SilentServer, ServerFailure, UnreadableReply):
            more = None
        finally:
            if DEADLINES.is_over(cut):
                self._manners.ends = False
            self.close()
        if more and more[0]:
            raise FaultyReply(f"it writes on behind its finish reason: {more[0][:30]!r}")
