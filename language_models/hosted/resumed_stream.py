"""A stream that goes on over failures: where a request breaks off, another one asks for what is missing."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from language_models.cancelling import pause
from language_models.hosted.retries import seconds_to_wait
from language_models.hosted.streams import EventStream
from language_models.interface import ModelError, SamplingParams, Token, TransientError, Usage

# Of a failure that comes back after fewer tokens than a call of the loops has, it is not believed that it passes.
RECOVERED_TOKENS = 16
UNREADABLE_TRIES = 2  # what cannot be read is seldom a passing failure


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
            params: of the whole; a stream that breaks off after max_tokens is over, where the last has a text.
            retries: how often it may fail within RECOVERED_TOKENS; with what cannot be read UNREADABLE_TRIES times at most.
            failed: is told of each failure after the opening.

        Raises:
            ContextLengthError, ModelError: see LanguageModel.stream.
        """
        self._open_after, self._failed = open_after, failed
        self._params, self._retries = params, retries
        self._complete = False  # all tokens are there, and the server's last word is not
        self._text, self._read, self._breaks = "", 0, 0
        self._written = 0  # tokens of the requests before
        self._again = ""  # what the present request writes once more
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
                if self._stream.is_full and not self._again:
                    self._complete = True
                    self._stream.close()
                    raise StopIteration from None
                self._go_on(error)
                continue
            except ModelError:
                self._stream.close()
                raise
            except StopIteration:
                if self._again:
                    raise self._another_text() from None
                raise
            if self._again and not (token := self._new_part(token)).text:
                continue
            self._text += token.text
            self._read += token.count
            return token

    def _new_part(self, token: Token) -> Token:
        """What a token of a request that began anew adds to the text that was read before.

        Raises:
            ModelError: the model writes another text now.
        """
        shared = min(len(token.text), len(self._again))
        if token.text[:shared] != self._again[:shared]:
            self._stream.close()
            raise self._another_text()
        self._again = self._again[shared:]
        return replace(token, text=token.text[shared:])

    def _another_text(self) -> ModelError:
        return ModelError(
            f"{self._stream.where}: a stream broke off, and the second one has another text; the server does not tell how many "
            "tokens were written, so that it cannot be gone on from there"
        )

    def _go_on(self, error: TransientError) -> None:
        self._stream.close()
        told = self._stream.tokens_read
        self._before.add(self._stream.usage)
        self._before.retries += 1
        self._stream.usage = Usage()
        recovered = self._read - self._failed_at >= RECOVERED_TOKENS
        self._failures, self._failed_at = 1 if recovered else self._failures + 1, self._read
        self._failed(error)
        if self._failures > (min(UNREADABLE_TRIES, self._retries) if error.unreadable else self._retries):
            if error.unreadable:
                error.args = (f"{error}; if it comes back, use --calls published, which asks for whole replies",)
            raise error
        self._breaks += 1
        if self._breaks > 1:  # the first time it may be a server that has just gone, and another one is there
            pause(seconds_to_wait(error, self._breaks), time.sleep)
        if (
            told is None or self._again
        ):  # how many tokens are missing is not known: from the beginning, with the same seed
            self._written, self._again = 0, self._text
            self._stream = self._open_after("", self._params, self._before)
            return
        self._written += told
        # All may be there, and the last without a text: an end of sequence or half a character, which is written once more.
        missing = replace(self._params.after(self._text), max_tokens=max(1, self._params.max_tokens - self._written))
        self._stream = self._open_after(self._text, missing, self._before)

    def close(self) -> None:
        """See TokenStream."""
        self._stream.close()
