"""The end of a pair: what it is still writing ends with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from command.errors import UserError
from language_models.cancelling import Cancellation


class PairClosedError(UserError):
    """The pair was closed, and answers nothing more."""

    def __init__(self):
        super().__init__("the pair was closed, and answers nothing more; load it again")


class OpenAnswers:
    """The answers that a pair is writing; safe to use from many threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._cancellations: set[Cancellation] = set()
        self._closed = False

    @contextmanager
    def writing(self, cancellation: Cancellation) -> Iterator[None]:
        """While an answer is written.

        Raises:
            PairClosedError: the pair is closed, or is closed meanwhile; instead of the failure that comes of it.
        """
        with self._lock:
            if self._closed:
                raise PairClosedError
            self._cancellations.add(cancellation)
        try:
            yield
        except Exception:
            if self._closed:
                raise PairClosedError from None
            raise
        finally:
            with self._lock:
                self._cancellations.discard(cancellation)

    def close(self) -> None:
        """End all of them, and let none begin."""
        with self._lock:
            self._closed = True
            left = list(self._cancellations)
        for cancellation in left:
            cancellation.cancel()
