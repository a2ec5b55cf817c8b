"""Several servers of one pair behind an ordinary load balancer, with replicas of the models behind them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx2
import pytest
from round_robin import RoundRobin
from served_pair import chat_body, in_this_process, read_events, settings_over

MOST = 40  # tokens of an answer
QUESTIONS = [f"How many days are in {number} weeks?" for number in range(12)]


@pytest.fixture
def behind_one(start_server):
    """Two servers of the pair over two replicas of the models, and what is in front of them."""
    hosts = ",".join(start_server("--seed", "2").host for _ in range(2))
    with ExitStack() as stack:
        servers = [stack.enter_context(in_this_process(settings_over(hosts, max_retries=2))) for _ in range(2)]
        balancer = RoundRobin([urlsplit(served.url).port for served in servers])
        stack.callback(balancer.close)
        yield balancer, servers


def ask(url: str, question: str) -> list[dict]:
    """The chunks of a stream, over a connection of its own."""
    with httpx2.Client(timeout=60.0, trust_env=False) as http:
        reply = http.post(f"{url}/v1/chat/completions", json=chat_body(question, stream=True, max_tokens=MOST))
        assert reply.status_code == 200, reply.text
        return read_events(reply.text)


def text_of(chunks: list[dict]) -> str:
    assert len({chunk["id"] for chunk in chunks}) == 1
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_streams_are_those_of_one_server(behind_one, served):
    balancer, servers = behind_one
    expected = [served.pair.answer(question, max_tokens=MOST).raw_text for question in QUESTIONS]
    assert len(set(expected)) == len(QUESTIONS)
    with ThreadPoolExecutor(8) as pool:
        streams = list(pool.map(lambda question: ask(balancer.url, question), QUESTIONS))
    assert [text_of(chunks) for chunks in streams] == expected
    assert sorted(balancer.taken.values()) == [6, 6]
    written = [served.http.get("/metrics").text for served in servers]
    assert all("\nnudged_answers_total{" in text for text in written)
