"""Who runs the forward passes: one thread of a device at a time, which puts together what samples want of a model at one time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from language_models.cancelling import LOOK_SECONDS, Cancellation, Cancelled, check, current
from language_models.interface import DeviceLostError, ModelError
from language_models.local.engine import Engine
from language_models.local.faults import failure_of
from language_models.local.loading import reason_of
from language_models.local.segments import NextToken, Segment

T = TypeVar("T")


class Rider(Protocol):
    """A sample whose continuation nobody waits for yet: it is written in passes that are run anyway."""

    def board(self) -> Segment | None:
        """What it adds to the pass that is about to be run; None for nothing. Called by the thread that runs it, as `leave` is."""

    def leave(self, found: list[NextToken] | None) -> None:
        """The pass is over; `found` is None where it failed."""


@dataclass(eq=False)
class _Request:
    engine: Engine
    segment: Segment
    riders: Callable[[], list[Rider]] = list
    woken: threading.Event | None = None  # of one whose thread waits for another one to run the pass
    done: bool = False
    found: list[NextToken] | None = None
    error: ModelError | None = None
    before: list[NextToken] = field(default_factory=list)  # what has been written of a long continuation
    left: int = 0  # tokens of a continuation that are written later
    given_up: bool = False  # by its thread, which was interrupted
    cancelled: bool = False  # what is left of a continuation is not wanted

    @property
    def answered(self) -> bool:
        return self.found is not None or self.error is not None

    def cut(self, most: int) -> None:
        """Write that many tokens at most for now, and the rest later."""
        if self.segment.ahead >= most:
            self.left = self.segment.ahead - most + 1
            self.segment = replace(self.segment, ahead=most - 1)

    def goes_on(self) -> bool:
        """Whether something of a continuation is left; if so, that is what the request asks for now."""
        segment = self.segment
        # An engine that has written less than it was asked for has no room for more.
        if (
            self.error
            or self.cancelled
            or not self.left
            or (written := len(self.found) - segment.wanted) < segment.ahead
        ):
            if self.before and not self.error:
                self.found = self.before + self.found
            self.before, self.left = [], 0  # so that it may be asked again
            return False
        last = self.found[-1].token
        rest = Segment(segment.slot, segment.end + written, [last], 1, segment.top, None, self.left - 1)
        self.before, self.segment, self.left, self.found = self.before + self.found, rest, 0, None
        self.cut(self.engine.slice)
        return True


class Worker:
    """Runs the passes of all models of one device, one after another; what samples want of one model at one time is one pass.

    The pass that answers most samples per second comes first: few samples of a large model wait until more want it. Samples
    that were just answered are waited for a moment, so that they do not miss the pass by a hair.
    """

    # Of the time of the next pass, that samples are waited for: where a pass costs the same for one more, it is worth more.
    WAIT_SHARE, WAIT_SHARE_SHARED = 0.1, 0.5

    def __init__(self, own_thread: bool = True, on_device: Callable[[], AbstractContextManager] = nullcontext):
        """
        Args:
            own_thread: have a thread of its own compute, see `call`. Otherwise one of those that wait for a pass runs it, for all
                that wait: two changes of threads less for each pass, which count where a pass takes a few milliseconds.
            on_device: in which a thread computes that is not the worker's own.
        """
        self._on_device = on_device
        self._own_thread = own_thread
        self._wait_share = self.WAIT_SHARE if own_thread else self.WAIT_SHARE_SHARED
        self._changed = threading.Condition()
        self._waiting: dict[Engine, list[_Request]] = {}
        self._calls: list[tuple[Callable, Future]] = []
        self.lost: DeviceLostError | None = None  # why nothing can be computed any more
        self._expected = 0  # samples that were answered by the last pass and have not come back yet
        self._thread: threading.Thread | None = None
        self._led = False  # whether one of those that wait runs the passes
        self._device = threading.RLock()  # held by the one that computes

    def run(self, engine: Engine, segment: Segment, riders: Callable[[], list[Rider]] = list) -> list[NextToken]:
        """Take part in the next pass of a model; returns what `Engine.run` finds for the segment.

        Args:
            engine, segment: what is asked for.
            riders: says who may ride along in a pass of that model.

        Raises:
            ModelError: the pass failed, for lack of memory say.
            Cancelled: what this thread does was, before the pass.
        """
        cancellation = current()
        request = _Request(engine, segment, riders)
        if segment.ahead:
            request.cut(engine.slice)
        leads = False
        try:
            with self._changed:
                self._waiting.setdefault(engine, []).append(request)
                self._expected = max(0, self._expected - 1)  # who comes back
                leads = not self._own_thread and not self._led
                self._led = self._led or leads
                if not leads:
                    request.woken = threading.Event()
                    self._wake()
            while not request.done:
                if leads:
                    check()
                    self._run_batch(request)
                else:
                    if cancellation is None:
                        request.woken.wait()
                    else:
                        self._wait(request, cancellation)
                    leads = not request.done
        finally:
            if not self._own_thread:
                # Also where this thread was interrupted: nobody else may wait for ever.
                self._hand_over(request, leads)
        if request.error:
            raise request.error
        return request.found

    def _wait(self, request: _Request, cancellation: Cancellation) -> None:
        """Wait until a request is answered, or its thread leads.

        Raises:
            Cancelled: it waits no longer; the end of a pass that it takes part in is waited for, which writes to its slot.
        """
        while not request.woken.wait(LOOK_SECONDS):
            if cancellation.cancelled:
                request.cancelled = True
                with self._changed:
                    if self._withdraw(request):
                        raise Cancelled

    def _withdraw(self, request: _Request) -> bool:
        """Take a request out of those that wait for a pass, if it is one of them."""
        waiting = self._waiting.get(request.engine, [])
        if request not in waiting:
            return False
        waiting.remove(request)
        if not waiting:
            del self._waiting[request.engine]
        return True

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the thread of the passes, before the next one that is put together; returns or raises what it does.

        Whatever keeps torch busy on a CPU belongs there: OpenMP gives each thread that computes processor threads of its own,
        and where there are more of them than processors, they sleep between any two operations. A small model's pass takes
        half as long again so (benchmarks/cpu_passes.py).
        """
        if not self._own_thread:
            with self._device, self._on_device():
                return function()
        if threading.current_thread() is self._thread:
            return function()
        future: Future = Future()
        with self._changed:
            self._calls.append((function, future))
            self._wake()
        return future.result()

    def _wake(self) -> None:
        if self._own_thread and self._thread is None:
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
                self._run_batch(None)

    def _hand_over(self, request: _Request, leads: bool) -> None:
        """A request's thread goes on its way: if it led, another one that waits leads from now on."""
        with self._changed:
            request.given_up = not request.done
            if not request.done:
                self._withdraw(request)
            if leads or (request.woken and request.woken.is_set() and not request.done):
                heir = next((waiting[0] for waiting in self._waiting.values()), None)
                self._led = heir is not None
                if heir:  # while it cannot go on its way itself, interrupted
                    heir.woken.set()

    def _run_batch(self, own: _Request | None) -> None:
        batch: list[_Request] = []
        going_on: list[_Request] = []
        interrupted: KeyboardInterrupt | None = None
        try:
            self._next_batch(batch)
            if batch:
                with self._device, self._on_device():
                    _answer_with_riders(batch)
        except BaseException as error:  # whatever happens, nobody may wait for ever
            if own and isinstance(error, KeyboardInterrupt):
                # The other samples have nothing to do with what was said to this thread.
                interrupted = error
                going_on = [r for r in batch if r is not own and (not r.answered or r.goes_on())]
                batch = [request for request in batch if request.answered] + going_on
            else:
                if not batch:
                    with self._changed:
                        batch = [request for waiting in self._waiting.values() for request in waiting]
                        self._waiting.clear()
                _refuse(batch, error)
        self.lost = next((r.error for r in batch if isinstance(r.error, DeviceLostError)), self.lost)
        # Long continuations are written in slices, so that those of other samples join in.
        going_on += [request for request in batch if request.answered and request.goes_on()]
        with self._changed:
            for request in going_on:
                if request.given_up:
                    continue
                waiting = self._waiting.setdefault(request.engine, [])
                if request not in waiting:
                    waiting.append(request)
            batch = [request for request in batch if request not in going_on]
            self._expected = len(batch)
        for request in batch:
            request.done = True
            if request is not own:
                request.woken.set()
        if interrupted:
            raise interrupted

    def _next_batch(self, batch: list[_Request]) -> None:
        """Fill a list, which has them too where the thread is interrupted on the way back."""
        with self._changed:
            if not self._waiting:  # all have been withdrawn
                return
            longest = self._wait_share * self._cost(self._best())
            if self._expected:
                self._changed.wait_for(lambda: not self._expected, timeout=longest)
            if not self._waiting:
                return
            best = self._best()
            batch += self._waiting[best]
            del self._waiting[best]

    def _best(self) -> Engine:
        if len(self._waiting) == 1:
            return next(iter(self._waiting))
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
        if not request.answered:
            request.error = ModelError(
                f"no forward pass of {request.engine.name} can be put together ({reason_of(error)})"
            )


def _answer_with_riders(batch: list[_Request]) -> None:
    """Run a batch and those who ride along; where that fails, the batch without them."""
    aboard: list[tuple[Rider, _Request]] = []
    try:
        for rider in batch[0].riders():
            segment = rider.board()
            if segment is not None:
                aboard.append((rider, _Request(batch[0].engine, segment)))
        if not aboard or _failure(batch + [request for _, request in aboard]) is not None:
            for request in batch:
                request.found = None
            _answer(batch)
            for _, request in aboard:
                request.found = None
    finally:
        for rider, request in aboard:
            rider.leave(request.found)


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
    except KeyboardInterrupt:  # of a thread that runs passes for others
        raise
    except BaseException as error:  # whatever happens, nobody may wait for ever; Rust's panics are no Exceptions
        return failure_of(engine.name, engine.device, error)
    return None
