"""Waiting for a probe: not in silence, and not for ever."""

import threading
import time

import pytest
from waiting import HANG, wait_until

from language_models.hosted import probe_requests
from language_models.hosted.background import begin
from language_models.hosted.probe_requests import ProbeWait
from language_models.interface import ModelError, TransientError


def waited(monkeypatch, work, *, limit=300.0, say_after=0.0, silence=0.0):
    """What comes of waiting for some work as for a probe, and what is said meanwhile."""
    said: list[str] = []
    for name, value in (("SAY_AFTER", say_after), ("SILENCE_SECONDS", silence), ("POLL_SECONDS", 0.01)):
        monkeypatch.setattr(probe_requests, name, value)
    wait = ProbeWait("lm at here", limit, 600.0, 8, said.append)
    return lambda: wait.until_done(begin(lambda: work(wait.progress))), said


def test_what_is_waited_for_is_said(monkeypatch):
    over = threading.Event()

    def work(progress):
        progress.trouble = "lm at here: status 429: slow down"
        over.wait(HANG)
        return "found"

    wait, said = waited(monkeypatch, work)
    threading.Thread(target=lambda: (wait_until(lambda: said), over.set()), daemon=True).start()
    assert wait() == "found"
    (line,) = said
    assert line.startswith("waiting for lm at here to answer a request for its list of models (lm at here: status 429")
    for told in ("at most 300 s in all (--max_outage)", "600 s for one answer (--request_timeout)", "8 tries after"):
        assert told in line


def test_it_ends_when_max_outage_is_over(monkeypatch):
    over = threading.Event()
    wait, said = waited(monkeypatch, lambda progress: over.wait(HANG), limit=0.05, say_after=HANG)
    with pytest.raises(
        TransientError, match=r"no answer to a request for its list of models; waited for 0 s \(--max_outage"
    ):
        wait()
    over.set()
    assert said == []


def test_a_server_that_goes_on_answering_may_take_longer(monkeypatch):
    def work(progress):
        for _ in range(20):
            time.sleep(0.01)
            progress.answered()
        return "found"

    wait, _ = waited(monkeypatch, work, limit=0.0, say_after=HANG, silence=HANG)
    assert wait() == "found"


@pytest.mark.parametrize("error", [ModelError("no"), TimeoutError("its own")])
def test_what_a_probe_raises_is_raised(monkeypatch, error):
    def work(progress):
        raise error

    wait, _ = waited(monkeypatch, work)
    with pytest.raises(type(error), match=str(error)):
        wait()
