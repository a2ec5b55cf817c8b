"""Work over a pool of threads."""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
POLL_SECONDS = 0.5  # a wait without a limit would keep signals from being handled


class Stop(Protocol):
    """Whether no new work shall begin, and whether what is in flight shall be waited for no longer; StopSignals is one."""

    @property
    def requested(self) -> bool: ...

    @property
    def overdue(self) -> bool: ...


@dataclass
class EarlyStop:
    """A stop for reasons that lie in the work itself."""

    requested: bool = False
    overdue: bool = False


@contextlib.contextmanager
def leaving(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """A pool for the length of the context, waited for at its end but not where an exception (Ctrl-C, say) ends it."""
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def as_finished(
    work: Callable[[Item], Value],
    items: Sequence[Item],
    num_threads: int,
    *,
    stop: Stop | None = None,
    idle: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Item, Value | BaseException]]:
    """Do some work for every item, `num_threads` at a time, and hand back what came of each as soon as it is finished.

    Every item comes back once, with the value of `work` or the exception that it raised, so that nobody waits for one for ever.
    Whoever closes the iterator waits for no work in flight.

    Args:
        stop: once it is requested, items that have not begun are left out; once it is overdue, those in flight too.
        idle: called now and then while nothing is finished.
    """
    finished: queue.SimpleQueue[tuple[Item, Value | BaseException] | None] = queue.SimpleQueue()

    def job(item: Item) -> None:
        if stop is not None and stop.requested:
            finished.put(None)
            return
        try:
            found = work(item)
        except BaseException as error:
            found = error
        finished.put((item, found))

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="work")
    try:
        for item in items:
            pool.submit(job, item)
        outstanding = len(items)
        while outstanding and not (stop is not None and stop.overdue):
            try:
                entry = finished.get(timeout=POLL_SECONDS)
            except queue.Empty:
                idle()
                continue
            outstanding -= 1
            if entry is not None:
                yield entry
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
