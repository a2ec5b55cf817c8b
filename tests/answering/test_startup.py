"""Waiting for servers that are started at the same time as what asks them."""

import threading
import time

import pytest
from doubles import ScriptedServer, free_port

from answering.settings import LoadSettings
from answering.startup import refuses, wait_for_servers
from command.errors import UserError
from nudged_pair import NudgedPair

AWAY = "http://127.0.0.1:{}/v1"


def test_a_server_that_starts_later_is_waited_for():
    later = ScriptedServer("--seed", "2")
    said = []
    timer = threading.Timer(1.5, later.start)
    timer.start()
    try:
        names = {"base": "base-lm", "nudging": "llama-2-chat", "base_host": later.host, "nudging_host": later.host}
        with NudgedPair.load(**names, startup_timeout=60.0, say=said.append) as pair:
            assert pair.answer("How many days are in a week?", max_tokens=5).text
    finally:
        timer.join()
        later.stop()
    assert (
        said[0].startswith(f"waiting for base-lm: nothing listens at {later.host}; ") and "(startup_timeout)" in said[0]
    )


def test_no_longer_than_it_may_take():
    host, began, said = AWAY.format(free_port()), time.monotonic(), []
    settings = LoadSettings("base-lm", "llama-2-chat", host, host, startup_timeout=1.0)
    wait_for_servers(settings, said.append)
    assert 1.0 <= time.monotonic() - began and len(said) == 1
    with pytest.raises(UserError, match="no server answers there"):
        NudgedPair.open(LoadSettings("base-lm", "llama-2-chat", host, host, max_outage=0.0), "top_prob", said.append)
    assert len(said) == 1


def test_one_replica_is_enough(server):
    hosts = f"{AWAY.format(free_port())},{server.host}"
    wait_for_servers(LoadSettings("base-lm", "llama-2-chat", hosts, hosts, startup_timeout=1000.0), pytest.fail)


@pytest.mark.parametrize("host", ["http://no-such-host.invalid/v1", "https://127.0.0.1:{port}/v1"])
def test_what_waiting_does_not_mend_is_not_waited_for(server, host):
    assert not refuses(host.format(port=server.port))


def test_a_port_of_nobody():
    assert refuses(AWAY.format(free_port()))
