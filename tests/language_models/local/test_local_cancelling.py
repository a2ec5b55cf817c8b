"""Answers of models in this process that are cancelled: what waits in line for a pass, or for a slot, waits no longer."""

import threading
import time

import needs
import pytest
from waiting import in_threads, wait_until

torch = needs.module("torch")

from local_models import PROMPT, local  # noqa: E402
from test_worker import Model  # noqa: E402

from language_models.cancelling import Cancellation, Cancelled  # noqa: E402
from language_models.interface import SamplingParams, rides_along  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402
from language_models.local.worker import Worker  # noqa: E402

SOON = 1.5  # seconds, on a machine that is busy


class Slow(Model):
    """Passes last until they are let go; several tokens are written in slices of one."""

    slice = 1

    def __init__(self):
        super().__init__(0.0)
        self.go = threading.Event()

    def run(self, segments):
        self.batches.append([segment.slot for segment in segments])
        self.go.wait(60)
        return [[segment.slot] for segment in segments]


def segment(slot: int, ahead: int = 0) -> Segment:
    return Segment(slot, 0, [1], 1, 0, None, ahead)


@pytest.mark.parametrize("own_thread", [True, False])
def test_who_waits_for_a_pass_waits_no_longer(own_thread):
    """The one whose pass is running waits for its end; what the others ask for is not computed, and nobody else suffers."""
    worker, model, ended, found = Worker(own_thread), Slow(), {}, {}
    cancellations = {n: Cancellation() for n in range(4)}

    def ask(n):
        try:
            with cancellations[n].guard():
                found[n] = worker.run(model, segment(n))
        except Cancelled:
            ended[n] = time.monotonic()

    def ask_in_turn():
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        threads[0].start()
        wait_until(lambda: model.batches, "the first pass runs")
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(worker._waiting.get(model, [])) == 3, "the others wait")
        began = time.monotonic()
        for n in (0, 1, 2):
            cancellations[n].cancel()
        wait_until(lambda: {1, 2} <= ended.keys(), "they wait no longer", limit=60)
        assert max(ended.values()) - began < SOON and 0 not in ended
        model.go.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)

    ask_in_turn()
    assert ended.keys() == {0, 1, 2} and found[3] == [3] and not worker._waiting
    assert model.batches == [[0], [3]]
    assert worker.run(model, segment(5)) == [5]


@pytest.mark.parametrize("own_thread", [True, False])
def test_all_that_wait_are_cancelled(own_thread):
    """Also where nothing is left for the thread of the passes when it comes back."""
    worker, model = Worker(own_thread), Model(0.005)
    for round_ in range(30):
        cancellations = [Cancellation() for _ in range(6)]

        def ask(n, cancellations=cancellations):
            try:
                with cancellations[n].guard():
                    for _ in range(20):
                        worker.run(model, segment(n))
            except Cancelled:
                return

        timers = [threading.Timer(0.002 * n, one.cancel) for n, one in enumerate(cancellations)]
        for timer in timers:
            timer.start()
        in_threads([lambda n=n: ask(n) for n in range(6)])
        assert not worker._waiting and not worker._led, round_
    assert worker.run(model, segment(1)) == 1


@pytest.mark.parametrize("own_thread", [True, False])
def test_a_long_continuation_ends_at_its_next_slice(own_thread):
    worker, model, cancellation = Worker(own_thread), Slow(), Cancellation()
    began, ended = [], []

    class Token:
        token = 7

    def run(segments):
        model.batches.append(len(segments))
        time.sleep(0.02)
        return [[Token()] * (1 + segment.ahead) for segment in segments]

    model.run = run

    def ask():
        try:
            with cancellation.guard():
                worker.run(model, segment(0, ahead=5000))
        except Cancelled:
            ended.append(time.monotonic())

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: len(model.batches) > 3, "it is being written")
    began.append(time.monotonic())
    cancellation.cancel()
    thread.join(60)
    assert ended and ended[0] - began[0] < SOON and len(model.batches) < 2500


@pytest.mark.parametrize("engine", ["packed", "graphs"])
def test_cancelled_answers_leave_the_model_as_it_was(engine):
    """Answers that go on beside them, and those that follow, have the text that they have alone."""
    model = local(engine=engine, samples=3, riders=2)
    params = SamplingParams(40)
    alone = [model.for_sample(n).complete(PROMPT * n, params).text for n in (1, 2, 3)]
    found: dict[int, str] = {}

    def stay(n):
        found[n] = Cancellation().wrap(model.for_sample(n)).complete(PROMPT * n, params).text

    def leave(n):
        cancellation = Cancellation()
        view = cancellation.wrap(model.for_sample(10 + n))
        assert rides_along(view, params) == rides_along(model.for_sample(0), params)
        stream = view.stream(PROMPT * n, params)
        next(stream)
        cancellation.cancel()
        with pytest.raises(Cancelled):
            next(stream)
        with pytest.raises(Cancelled):
            view.complete(PROMPT, params)

    in_threads([lambda n=n: stay(n) for n in (1, 2, 3)] + [lambda n=n: leave(n) for n in (1, 2, 3)])
    assert [found[n] for n in (1, 2, 3)] == alone
    assert [model.for_sample(n).complete(PROMPT * n, params).text for n in (1, 2, 3)] == alone


def test_who_waits_for_a_slot_waits_no_longer():
    model = local(samples=1)
    holder = model.for_sample("a")
    holder.complete(PROMPT, SamplingParams(2))
    model.slots.keep(holder.sample)  # as while its pass runs
    cancellation, ended = Cancellation(), []

    def ask():
        with pytest.raises(Cancelled):
            cancellation.wrap(model.for_sample("b")).complete(PROMPT, SamplingParams(2))
        ended.append(time.monotonic())

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    assert not ended
    began = time.monotonic()
    cancellation.cancel()
    thread.join(60)
    assert ended[0] - began < SOON
    model.slots.put_down(holder.sample)
    assert model.for_sample("b").complete(PROMPT, SamplingParams(2)).text
