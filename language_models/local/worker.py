"""Who runs the forward passes: one thread per device, which puts together what the samples want of a model at one time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TypeVar

from language_models.interface import DeviceLostError, ModelError
from language_models.local.engine import Engine
from language_models.local.faults import failure_of
from language_models.local.loading import reason_of
from language_models.local.segments import NextToken, Segment

T = TypeVar("T")


@dataclass(eq=False)
class _Request:
    engine: Engine
    segment: Segment
    answered: threading.Event = field(default_factory=threading.Event)
    found: list[NextToken] | None = None
    error: ModelError | None = None
    before: list[NextToken] = field(default_factory=list)  # what has been written of a long continuation
    left: int = 0  # tokens of a continuation that are written later

    def cut(self, most: int) -> None:
        """Write that many tokens at most for now, and the rest later."""
        if self.segment.ahead >= most:
            self.left = self.segment.ahead - most + 1
            self.segment = replace(self.segment, ahead=most - 1)

    def goes_on(self) -> bool:
        """Whether something of a continuation is left; if so, that is what the request asks for now."""
        segment = self.segment
        # An engine that has written less than it was asked for has no room for more.
        written = 0 if self.error else len(self.found) - segment.wanted
        if self.error or not self.left or written < segment.ahead:
            if self.before and not self.error:
                self.found = self.before + self.found
            return False
        self.before += self.found
        last = self.found[-1].token
        self.segment = Segment(segment.slot, segment.end + written, [last], 1, segment.top, None, self.left - 1)
        self.left = 0
        self.found = None
        self.cut(self.engine.slice)
        return True


class Worker:
    """Runs the passes of all models of one device, one after another; what samples want of one model at one time is one pass.

    The pass that answers most samples per second comes first: few samples of a large model wait until more want it. Samples
    that were just answered are waited for a moment, so that they do not miss the pass by a hair.
    """

    WAIT_SHARE = 0.1  # of the time of the next pass, that samples are waited for

    def __init__(self):
        self._changed = threading.Condition()
        self._waiting: dict[Engine, list[_Request]] = {}
        self._calls: list[tuple[Callable, Future]] = []
        self._expected = 0  # samples that were answered by the last pass and have not come back yet
        self._thread: threading.Thread | None = None

    def run(self, engine: Engine, segment: Segment) -> list[NextToken]:
        """Take part in the next pass of a model; returns what `Engine.run` finds for the segment.

        Raises:
            ModelError: the pass failed, for lack of memory say.
        """
        request = _Request(engine, segment)
        if segment.ahead:
            request.cut(engine.slice)
        with self._changed:
            self._waiting.setdefault(engine, []).append(request)
            self._expected = max(0, self._expected - 1)
            self._wake()
        request.answered.wait()
        if request.error:
            raise request.error
        return request.found

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the thread of the passes, before the next one that is put together; returns or raises what it does.

        Whatever keeps torch busy on a CPU belongs there: OpenMP gives each thread that computes processor threads of its own,
        and where there are more of them than processors, they sleep between any two operations. A small model's pass takes
        half as long again so (benchmarks/cpu_passes.py).
        """
        if threading.current_thread() is self._thread:
            return function()
        future: Future = Future()
        with self._changed:
            self._calls.append((function, future))
            self._wake()
        return future.result()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="forward passes", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._waiting)
            if self._calls:
                _do(self._calls.pop(0))
            else:
                self._run_batch()

    def _run_batch(self) -> None:
        batch: list[_Request] = []
        going_on: list[_Request] = []
        try:
            batch = self._next_batch()
            _answer(batch)
            # Long continuations are written in slices, so that those of other samples join in.
            going_on = [request for request in batch if request.goes_on()]
        except BaseException as error:  # whatever happens, nobody may wait for ever
            if not batch:
                with self._changed:
                    batch = [request for waiting in self._waiting.values() for request in waiting]
                    self._waiting.clear()
            _refuse(batch, error)
        with self._changed:
            for request in going_on:
                self._waiting.setdefault(request.engine, []).append(request)
            batch = [request for request in batch if request not in going_on]
            self._expected = len(batch)
        for request in batch:
            request.answered.set()

    def _next_batch(self) -> list[_Request]:
        with self._changed:
            longest = self.WAIT_SHARE * self._cost(self._best())
            self._changed.wait_for(lambda: not self._expected, timeout=longest)
            return self._waiting.pop(self._best())

    def _best(self) -> Engine:
        return max(self._waiting, key=lambda engine: len(self._waiting[engine]) / self._cost(engine))

    def _cost(self, engine: Engine) -> float:
        return engine.request_cost([request.segment for request in self._waiting[engine]])


def _do(call: tuple[Callable, Future]) -> None:
    """Run what was called. By itself, so that nothing of it is kept by the thread: a result may be a whole model."""
    function, future = call
    try:
        future.set_result(function())
    except BaseException as error:  # whatever happens, nobody may wait for ever
        future.set_exception(error)


def _refuse(batch: list[_Request], error: BaseException) -> None:
    """Have those of a batch that are not answered yet fail."""
    for request in batch:
        if request.found is None and request.error is None:
            request.error = ModelError(
                f"no forward pass of {request.engine.name} can be put together ({reason_of(error)})"
            )


def _answer(batch: list[_Request]) -> None:
    """Run a batch, and each request by itself where the batch fails."""
    error = _failure(batch)
    if error is None:
        return
    if len(batch) == 1 or isinstance(error, DeviceLostError):
        for request in batch:
            request.error = error
        return
    for request in batch:
        _answer([request])


def _failure(batch: list[_Request]) -> ModelError | None:
    """Run a batch; returns why it failed. The exception is gone then, and with it the tensors that its frames hold."""
    engine = batch[0].engine
    try:
        found = engine.run([request.segment for request in batch])
        for request, tokens in zip(batch, found, strict=True):
            request.found = tokens
    except BaseException as error:  # whatever happens, nobody may wait for ever; Rust's panics are no Exceptions
        return failure_of(engine.name, engine.device, error)
    return None
