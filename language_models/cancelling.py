"""Answers that are no longer wanted: whatever is waited for on their behalf ends at once, in whichever thread it is waited for.

`Cancellation.wrap` puts a model's calls under a cancellation, which is that of the thread for as long as they last: the rooms below
ask for it by `current`. What has no cancellation, as in a run of experiments, waits as ever.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from language_models.interface import (
    Completion,
    LanguageModel,
    ModelAround,
    ModelError,
    SamplingParams,
    StreamAround,
    Token,
    TokenStream,
)

LOOK_SECONDS = 0.2  # between two looks of those that wait for something that nobody can end for them


class Cancelled(Exception):
    """An answer was cancelled while it was being written. No fault of the model, and nothing to ask again for."""

    def __init__(self):
        super().__init__("the answer was cancelled")


class _OfThread(threading.local):
    cancellation: "Cancellation | None" = None


_HERE = _OfThread()


class Cancellation:
    """Says, from any thread, that an answer is no longer wanted; one for each answer."""

    def __init__(self):
        self._event = threading.Event()
        self._lock = threading.RLock()
        self._ends: dict[int, Callable[[], None]] = {}
        self._keys = itertools.count()

    @property
    def cancelled(self) -> bool:
        """Whether it has been said."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Say so; once more changes nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            for end in self._ends.values():
                end()
            self._ends.clear()

    def check(self) -> None:
        """Raise Cancelled where it has been said."""
        if self._event.is_set():
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            Cancelled: it is said, before the time is over.
        """
        if self._event.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise Cancelled

    def when_cancelled(self, end: Callable[[], None]) -> int:
        """Have a function called by `cancel`, which must neither fail nor wait; returns the key for `forget`.

        Raises:
            Cancelled: it has been said already.
        """
        with self._lock:
            self.check()
            key = next(self._keys)
            self._ends[key] = end
            return key

    def forget(self, key: int) -> None:
        """Have a function not called any more: it is over, too, if it is being called."""
        with self._lock:
            self._ends.pop(key, None)

    def wrap(self, model: LanguageModel) -> LanguageModel:
        """The same model, for this answer: it writes the same, and raises Cancelled from any call that goes on after `cancel`."""
        return _CancellableModel(model, self)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Have what is done here be under this cancellation.

        Raises:
            Cancelled: it has been said, or is said meanwhile; instead of the failure that may have come of it.
        """
        self.check()
        before, _HERE.cancellation = _HERE.cancellation, self
        try:
            yield
        except ModelError:
            self.check()
            raise
        finally:
            _HERE.cancellation = before
        self.check()


def current() -> Cancellation | None:
    """The cancellation of what this thread does; None where it has none."""
    return _HERE.cancellation


def check() -> None:
    """Raise Cancelled where what this thread does has been cancelled."""
    if _HERE.cancellation is not None:
        _HERE.cancellation.check()


def pause(seconds: float, sleep: Callable[[float], None]) -> None:
    """Sleep, until what this thread does is cancelled.

    Args:
        sleep: does it where there is no cancellation.

    Raises:
        Cancelled: it is.
    """
    if _HERE.cancellation is None:
        sleep(seconds)
    else:
        _HERE.cancellation.pause(seconds)


class _CancellableModel(ModelAround):
    """A language model under a cancellation."""

    def __init__(self, model: LanguageModel, cancellation: Cancellation):
        self.model, self._cancellation = model, cancellation

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        with self._cancellation.guard():
            return self.model.complete(prompt, params)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> "_CancellableStream":
        stream = None
        try:
            with self._cancellation.guard():
                stream = self.model.stream(prompt, params, draft)
        except Cancelled:
            if stream is not None:
                stream.close()
            raise
        return _CancellableStream(stream, self._cancellation)


class _CancellableStream(StreamAround):
    """A token stream under a cancellation, which closes it."""

    def __init__(self, stream: TokenStream, cancellation: Cancellation):
        super().__init__(stream)
        self._cancellation = cancellation

    def __next__(self) -> Token:
        cancellation = self._cancellation
        # By hand what `guard` does: this is once for each token.
        before, _HERE.cancellation = _HERE.cancellation, cancellation
        try:
            cancellation.check()
            token = next(self.stream)
            cancellation.check()
            return token
        except (Cancelled, ModelError, StopIteration):
            if not cancellation.cancelled:
                raise
            self.stream.close()
            raise Cancelled from None
        finally:
            _HERE.cancellation = before

    def close(self) -> None:
        self.stream.close()
