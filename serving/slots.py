"""Answers in the making: a bounded pool of threads that run the decoding loop, and a way from each to the event loop."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from answering.answer import Answer
from language_models.cancelling import Cancelled
from nudged_pair import AnswerStream, NudgedPair
from nudging import Piece
from serving.errors import RETRY_SECONDS, ApiError, api_error
from serving.metrics import Metrics
from serving.requests import Request


@dataclass(frozen=True, slots=True)
class Wrote:
    """A choice's next piece."""

    choice: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice is whole; its tokens, and those of its prompt with the first choice of it, are counted where they are asked for."""

    choice: int
    answer: Answer
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A choice has failed."""

    error: ApiError


Event = Wrote | Ended | Failed


# Each wake-up of the event loop costs all threads, as they share one interpreter: the more of them write, the more comes at one go.
PAUSE_PER_ANSWER = 0.0005  # seconds
LONGEST_PAUSE = 0.03


class Channel:
    """Events from threads to one reader in the event loop; those that come while it is busy are read at one go."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._events: deque[Event] = deque()
        self._there = asyncio.Event()
        self._told = False
        self._lock = threading.Lock()

    def put(self, event: Event) -> None:
        """Add an event, from any thread."""
        with self._lock:
            self._events.append(event)
            if self._told:
                return
            self._told = True
        try:
            self._loop.call_soon_threadsafe(self._there.set)
        except RuntimeError:  # the server has ended, and nobody reads
            pass

    async def read(self, pause: float = 0.0) -> list[Event]:
        """All events that have come since; waits for one.

        Args:
            pause: seconds that pass first, in which no thread wakes the event loop.
        """
        if pause:
            with self._lock:
                self._told = True
            await asyncio.sleep(pause)
        while not (events := self._taken()):
            await self._there.wait()
        return events

    def _taken(self) -> list[Event]:
        with self._lock:
            self._there.clear()
            self._told = False
            events = list(self._events)
            self._events.clear()
        return events


class Slots:
    """The pool: at most `most` answers are written at a time, and a request is taken only where one of these is free."""

    def __init__(self, pair: NudgedPair, most: int, metrics: Metrics):
        self.pair, self.most, self.metrics = pair, most, metrics
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="answer")
        self._lock = threading.Lock()
        self._answers = 0  # that are being written, or wait for it
        self.wrote_at = -math.inf  # when an answer of the pair went on the last time, on the monotonic clock

    @property
    def answers(self) -> int:
        """How many answers are being written or wait for it."""
        return self._answers

    def begin(self, request: Request, count: bool) -> "Answers":
        """Have a request answered.

        Args:
            count: whether the tokens of its answers are wanted.

        Raises:
            ApiError: there is no room (429).
        """
        number = request.n * len(request.prompts)
        with self._lock:
            if self._answers >= self.most:
                raise ApiError(
                    429,
                    f"{self.most} answers are being written already, and no more at a time (--max_concurrent); ask again later",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                )
            self._answers += number
        try:
            return Answers(self, request, count)
        except BaseException:
            self.done(number)
            raise

    def submit(self, work: Callable[[], None]) -> Future:
        """Do a piece of work in the pool."""
        return self._pool.submit(work)

    def done(self, answers: int = 1) -> None:
        """Count answers that are over."""
        with self._lock:
            self._answers -= answers

    def close(self) -> None:
        """Begin no more answers."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Answers:
    """The answers to one request, each in a thread of the pool; `channel` brings what they come to."""

    def __init__(self, slots: Slots, request: Request, count: bool):
        self._slots, self._request, self._count = slots, request, count
        self.channel = Channel(asyncio.get_running_loop())
        self._began = time.monotonic()
        self._streams = [
            AnswerStream(slots.pair, prompts, request.asked) for prompts in request.prompts for _ in range(request.n)
        ]
        self._futures = [
            slots.submit(lambda choice=choice: self._write(choice)) for choice in range(len(self._streams))
        ]

    @property
    def pause(self) -> float:
        """Seconds between two looks at the channel; none where one answer is written."""
        writing = self._slots.answers
        return min(LONGEST_PAUSE, PAUSE_PER_ANSWER * writing) if writing > 1 else 0.0

    def close(self) -> None:
        """End what is not over; nobody reads any more."""
        for stream, future in zip(self._streams, self._futures, strict=True):
            if future.cancel():
                self._slots.done()
            elif not future.done():
                stream.cancel()

    def _write(self, choice: int) -> None:
        stream, metrics = self._streams[choice], self._slots.metrics
        first = True
        try:
            with closing(stream):
                for piece in stream:
                    if first:
                        metrics.first_text(time.monotonic() - self._began)
                        first = False
                    if self._request.stream:
                        self.channel.put(Wrote(choice, piece))
                    if self._request.asked.by == "pair":
                        self._slots.wrote_at = time.monotonic()
            answer = stream.answer
            event = Ended(choice, answer, *self._tokens(choice, stream))
            metrics.answered(answer, self._request.asked.by, time.monotonic() - self._began)
        except Cancelled:
            metrics.left()
            event = Failed(ApiError(499, "nobody waits for the answer"))
        except BaseException as error:  # whatever it is, the client hears of it
            event = Failed(api_error(error, self._request.prompt_field))
            metrics.failed(event.error)
        finally:
            self._slots.done()
        self.channel.put(event)

    def _tokens(self, choice: int, stream: AnswerStream) -> tuple[int, int]:
        if not self._count:
            return 0, 0
        pair, by = self._slots.pair, self._request.asked.by
        prompt = 0 if choice % self._request.n else pair.prompt_tokens(stream.prompts, by)
        return prompt, pair.count(stream.answer.raw_text, by)
