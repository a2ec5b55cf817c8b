"""Tests of command/pool.py: every item comes back once, whatever the work does."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import HANG

from command.pool import as_finished, leaving
from command.stopping import StopSignals

ODD_ENDS = (ValueError, OSError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError)


@given(st.lists(st.sampled_from([None, *ODD_ENDS]), max_size=12), st.integers(1, 5))
def test_every_item_comes_back_with_its_value_or_its_exception(ends, num_threads):
    def work(i: int) -> int:
        if ends[i] is not None:
            raise ends[i](i)
        return i * i

    found = dict(as_finished(work, range(len(ends)), num_threads))
    assert sorted(found) == list(range(len(ends)))
    for i, end in enumerate(ends):
        assert found[i] == i * i if end is None else type(found[i]) is end and found[i].args == (i,)


def test_what_is_finished_first_comes_first():
    first_may_end = threading.Event()

    def work(i: int) -> int:
        if i == 0:
            assert first_may_end.wait(HANG)
        return i

    results = as_finished(work, [0, 1, 2], 2)
    assert {next(results)[0], next(results)[0]} == {1, 2}
    first_may_end.set()
    assert list(results) == [(0, 0)]


def test_closing_waits_for_nothing_in_flight_and_begins_nothing():
    hang, begun = threading.Event(), []

    def work(i: int) -> None:
        begun.append(i)
        if i:
            hang.wait(HANG)

    try:
        with contextlib.closing(as_finished(work, range(50), 2)) as results:
            assert next(results) == (0, None)
        assert len(begun) <= 4
    finally:
        hang.set()


def test_a_pool_is_left_at_once_where_an_exception_ends_it_and_else_waited_for():
    hang, over = threading.Event(), []

    def work() -> None:
        hang.wait(HANG)
        over.append(1)

    with pytest.raises(KeyboardInterrupt), leaving(ThreadPoolExecutor(1)) as pool:
        pool.submit(work)
        unbegun = pool.submit(work)
        raise KeyboardInterrupt
    assert not over and unbegun.cancelled()
    hang.set()
    with leaving(ThreadPoolExecutor(1)) as pool:
        pool.submit(work)
    assert over


@pytest.mark.parametrize("overdue", [False, True])
def test_a_stop_leaves_out_what_has_not_begun_and_then_what_is_in_flight(overdue):
    stop, go_on, in_flight = StopSignals(lambda _: None), threading.Event(), threading.Barrier(3)

    def work(i: int) -> int:
        in_flight.wait(HANG)
        assert go_on.wait(HANG)
        return i

    idle = []

    def nothing_finished() -> None:
        if stop.requested:  # else work would begin that waits for ever
            idle.append(go_on.set())

    results = as_finished(work, range(20), 2, stop=stop, idle=nothing_finished)
    finished: list = []
    reader = threading.Thread(target=lambda: finished.extend(results))
    reader.start()
    in_flight.wait(HANG)  # two are in flight
    if overdue:
        stop._deadline = 0.0
    stop._stop.set()
    reader.join(HANG)
    go_on.set()
    assert not reader.is_alive()
    assert finished == [] if overdue else sorted(finished) == [(0, 0), (1, 1)] and idle
