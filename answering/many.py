"""The answers to several questions, written side by side."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

from answering.answer import Answer
from command.errors import UserError


class AnswersError(UserError):
    """Some of several questions could not be answered; `answers` has None in their places, `errors` what happened, by index."""

    def __init__(self, answers: list[Answer | None], errors: dict[int, UserError]):
        index, first = min(errors.items())
        super().__init__(
            f"{len(errors)} of {len(answers)} questions were not answered; the first: question {index}: {first}"
        )
        self.answers, self.errors = answers, errors


class Stream(Protocol):
    """An answer while it is written."""

    answer: Answer

    def __iter__(self) -> Iterator: ...

    def cancel(self) -> None:
        """End the writing, from any thread."""
        ...

    def close(self) -> None:
        """End the writing, from the thread that reads."""
        ...


class _Streams:
    """The answers that are being written, to be ended at once."""

    def __init__(self):
        self._lock = threading.Lock()
        self._open: set[Stream] = set()
        self._ended = False

    def read(self, stream: Stream) -> None:
        with self._lock:
            self._open.add(stream)
            if self._ended:
                stream.cancel()
        try:
            with closing(stream):
                for _ in stream:
                    pass
        finally:
            with self._lock:
                self._open.discard(stream)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for stream in self._open:
                stream.cancel()


def answers_side_by_side(number: int, stream: Callable[[int], Stream], num_threads: int) -> list[Answer]:
    """The answers to several questions, in their order; Ctrl-C ends what is being written at once.

    Args:
        number: of questions.
        stream: begins the answer to one, by its index.
        num_threads: how many are answered at once.

    Raises:
        AnswersError: some could not be answered; it has the answers to the others.
    """
    errors: dict[int, UserError] = {}
    streams = _Streams()

    def one(index: int) -> Answer | None:
        try:
            begun = stream(index)
            streams.read(begun)
            return begun.answer
        except UserError as error:
            errors[index] = error
            return None

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            found = list(pool.map(one, range(number)))
        except BaseException:  # Ctrl-C among them: the pool waits for its threads
            streams.end()
            raise
    if errors:
        raise AnswersError(found, errors)
    return found
