"""A pair that is closed while it writes: who reads hears of it at once, in a sentence."""

import threading

import pytest
from served_pair import BASE, NUDGING
from waiting import in_threads

from answering.closing import PairClosedError
from nudged_pair import NudgedPair


def a_pair(server) -> NudgedPair:
    hosts = {"base_host": server.host, "nudging_host": server.host}
    return NudgedPair.load(BASE, NUDGING, **hosts, max_retries=0, max_outage=0.0, say=lambda words: None)


def test_a_pair_that_is_closed_ends_what_it_writes(start_server):
    pair, begun = a_pair(start_server("--seed", "2", "--latency_ms", "50")), threading.Barrier(4)

    def read() -> None:
        stream = pair.stream("How many days are in two weeks?")
        next(stream)
        begun.wait()
        with pytest.raises(PairClosedError, match="the pair was closed"):
            list(stream)

    in_threads([read, read, read, lambda: (begun.wait(), pair.close())])


def test_a_closed_pair_answers_nothing(server):
    pair = a_pair(server)
    pair.close()
    pair.close()
    for ask in (pair.answer, lambda question: list(pair.stream(question))):
        with pytest.raises(PairClosedError, match="load it again"):
            ask("How many days are in two weeks?")
