"""Which samples share a pass."""

import contextlib
import functools
import gc
import threading
import time
import weakref
from collections import Counter

import needs
import pytest
from waiting import in_threads, wait_until

torch = needs.module("torch")

from language_models.interface import ModelError  # noqa: E402
from language_models.local import worker as worker_module  # noqa: E402
from language_models.local.segments import NextToken, Segment  # noqa: E402
from language_models.local.worker import Worker, _answer, _Request  # noqa: E402


class Model:
    """Takes some time for a pass; `batches` are the rows of each."""

    name, device = "Model", torch.device("cpu")

    def __init__(self, seconds: float, fails: frozenset[int] = frozenset()):
        self.seconds, self.fails, self.batches = seconds, fails, []

    def request_cost(self, segments: list[Segment]) -> float:
        return self.seconds

    def run(self, segments: list[Segment]) -> list[int]:
        rows = [segment.slot for segment in segments]
        self.batches.append(rows)
        time.sleep(self.seconds)
        if self.fails & set(rows):
            raise RuntimeError("out of memory\nand more")
        return rows


def run_all(worker: Worker, jobs: list[list[tuple[Model, int]]]) -> list:
    """Each job asks for its passes one after another, all jobs at a time; what each got last."""
    found: list = [None] * len(jobs)

    def work(i: int) -> None:
        try:
            for model, row in jobs[i]:
                found[i] = worker.run(model, Segment(row, 0, [1], 1))
        except ModelError as error:
            found[i] = error

    in_threads([functools.partial(work, i) for i in range(len(jobs))])
    return found


def test_all_that_wait_share_a_pass():
    """Those that are not in a pass are waiting when it ends, so two passes in a row answer everyone."""
    worker, jobs, each = Worker(), 4, 6
    answered = Counter()

    class Slow(Model):
        def run(self, segments: list[Segment]) -> list[int]:
            rows = super().run(segments)
            answered.update(rows)
            others = [row for row in range(jobs) if row not in rows and answered[row] < each]
            wait_until(lambda: len(worker._waiting.get(self, ())) == len(others), "the others wait")
            return rows

    model = Slow(0.01)
    assert run_all(worker, [[(model, row)] * each for row in range(jobs)]) == list(range(jobs))
    assert sum(map(len, model.batches)) == jobs * each and len(model.batches) <= 2 * each + 1


@pytest.mark.parametrize("small, large, chosen", [(1, 4, "small"), (1, 12, "large"), (0, 1, "large"), (3, 20, "small")])
def test_few_samples_of_a_large_model_wait_for_more(small, large, chosen):
    """The large model's pass costs ten times as much; it runs where that answers more samples per second."""
    worker, models = Worker(), {"small": Model(0.01), "large": Model(0.1)}
    for name, count in (("small", small), ("large", large)):
        requests = [_Request(models[name], Segment(row, 0, [1], 1)) for row in range(count)]
        if requests:
            worker._waiting[models[name]] = requests
    batch = []
    worker._next_batch(batch)
    assert len(batch) == {"small": small, "large": large}[chosen]
    assert all(request.engine is models[chosen] for request in batch)


def test_a_sample_alone_is_not_kept_waiting():
    """Nobody else comes, so it must not wait for others before each of its passes: a wait for ever would hang."""
    model, worker = Model(0.01), Worker()
    run_all(worker, [[(model, 0)] * 50])
    assert len(model.batches) == 50


def test_a_failure_is_that_of_its_sample():
    model = Model(0.05, frozenset({2}))
    found = run_all(Worker(), [[(model, row)] for row in range(4)])
    assert found[:2] + found[3:] == [0, 1, 3]
    assert "out of memory" in str(found[2]) and "and more" not in str(found[2])


def test_a_batch_that_fails_lets_go_of_its_tensors_before_its_requests_run_alone():
    class Tensor:
        pass

    alive: list[weakref.ref] = []

    class Full(Model):
        def run(self, segments):
            left = sum(ref() is not None for ref in alive)
            tensor = Tensor()
            alive.append(weakref.ref(tensor))
            if len(segments) > 1 or left:
                raise RuntimeError("out of memory")
            return super().run(segments)

    batch = [_Request(Full(0.0), Segment(row, 0, [1], 1)) for row in range(3)]
    _answer(batch)
    assert [request.found for request in batch] == [0, 1, 2]


class Panics(Model):
    """Fails at one place in a way that is no Exception."""

    def __init__(self, at: str):
        super().__init__(0.01)
        self.at = at

    def request_cost(self, segments) -> float:
        if self.at == "cost":
            raise BaseException("a panic")
        return super().request_cost(segments)

    def run(self, segments):
        if self.at == "run":
            raise BaseException("a panic")
        return super().run(segments)


@pytest.mark.parametrize("at", ["run", "cost"])
def test_nobody_waits_for_ever_whatever_happens_on_the_thread_of_the_passes(at):
    worker = Worker()
    found = run_all(worker, [[(Panics(at), row)] for row in range(3)])
    assert all("a panic" in str(error) for error in found)
    assert run_all(worker, [[(Model(0.01), 3)]]) == [3]


def test_what_is_called_runs_on_the_thread_of_the_passes():
    worker, threads = Worker(), []

    class Noting(Model):
        def run(self, segments: list[Segment]) -> list[int]:
            threads.append(threading.current_thread())
            return super().run(segments)

    model = Noting(0.01)
    first = worker.call(threading.current_thread)
    assert first is not threading.current_thread()
    assert run_all(worker, [[(model, row)] * 3 for row in range(2)]) == [0, 1]
    assert {first, worker.call(threading.current_thread)} == set(threads)


@pytest.mark.parametrize("error", [ModelError("no such model"), SystemExit("no such model")])
def test_what_is_called_may_fail(error):
    def fail() -> None:
        raise error

    worker = Worker()
    with pytest.raises(type(error), match="no such model"):
        worker.call(fail)
    assert run_all(worker, [[(Model(0.01), 3)]]) == [3]


def test_what_is_called_may_call():
    worker = Worker()
    assert worker.call(lambda: worker.call(lambda: 3)) == 3


def test_the_thread_keeps_nothing_of_what_was_called():
    class Large:
        pass

    worker, made = Worker(), []

    def make() -> Large:
        made.append(weakref.ref(large := Large()))
        return large

    def fail() -> None:
        make_and_keep = make()
        raise ModelError(f"no memory for {type(make_and_keep).__name__}")

    worker.call(make)
    with contextlib.suppress(ModelError):
        worker.call(fail)
    gc.collect()
    # The thread lets go a moment after it has answered.
    wait_until(lambda: [large() for large in made] == [None, None], "the thread lets go")


class Writer:
    """Writes the numbers that follow a text's length, two at a time."""

    name, device, slice = "Writer", torch.device("cpu"), 2

    def __init__(self):
        self.passes = 0

    def request_cost(self, segments: list[Segment]) -> float:
        return 0.0

    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        self.passes += 1
        return [[NextToken(n, ()) for n in range(s.end, s.end + 1 + s.ahead)] for s in segments]


@pytest.mark.parametrize("place", ["_next_batch", "_failure", "after the answers"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_written_before_is_kept_whatever_happens_to_the_thread_that_leads(place, error, monkeypatch):
    """A long continuation is written in slices: one of them alone would be a wrong text."""
    worker, writer = Worker(own_thread=False), Writer()
    leader, found, others_wait = threading.current_thread(), [], threading.Event()
    at = {"next": Worker._next_batch, "failure": worker_module._failure, "all": worker_module._answer_with_riders}

    def strike() -> None:
        if threading.current_thread() is leader and writer.passes >= 3:
            raise error

    def run(segments):
        if threading.current_thread() is leader:
            others_wait.wait(10)
        return Writer.run(writer, segments)

    def then_strikes(do):
        def done(*given):
            result = do(*given)
            strike()
            return result

        return done

    writer.run = run
    if place == "_next_batch":
        monkeypatch.setattr(Worker, "_next_batch", then_strikes(at["next"]))
    elif place == "_failure":
        monkeypatch.setattr(worker_module, "_failure", then_strikes(at["failure"]))
    else:
        monkeypatch.setattr(worker_module, "_answer_with_riders", then_strikes(at["all"]))
    request = Segment(1, 0, [0], 1, ahead=15)

    def other() -> None:
        with contextlib.suppress(ModelError):
            found.append([token.token for token in worker.run(writer, request)])

    thread = threading.Thread(target=other)
    own = threading.Thread(
        target=lambda: (
            wait_until(lambda: any(len(waiting) for waiting in worker._waiting.values()), "the other one waits"),
            others_wait.set(),
        )
    )
    starts = threading.Thread(target=lambda: (wait_until(lambda: worker._led, "a thread leads"), thread.start()))
    starts.start()
    own.start()
    mine = None
    with contextlib.suppress(KeyboardInterrupt, ModelError):
        mine = [token.token for token in worker.run(writer, Segment(0, 0, [0], 1, ahead=31))]
    starts.join(10)
    thread.join(10)
    own.join(10)
    assert not thread.is_alive() and not worker._led and not worker._waiting
    whole = [list(range(1, 17))]
    assert found == whole if error is KeyboardInterrupt else found in ([], whole)
    assert mine is None or mine == list(range(1, 33))
