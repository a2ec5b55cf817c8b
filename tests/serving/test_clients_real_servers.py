"""serve_nudged.py over real vLLM servers, asked by the openai client."""

import json
import urllib.request

import openai
import pytest
from real_servers import MARKS
from served_pair import as_a_command
from waiting import HANG

pytestmark = MARKS

QUESTION = [{"role": "user", "content": "How many days are in two weeks? 😀"}]
ASKED = {"model": "pair", "messages": QUESTION, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(hosts):
    options = (*hosts.base_options, *hosts.nudging_options, "--top_prob_thres", 0.4)
    with as_a_command(*options) as (served, _), openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        yield client


def counted(hosts, text: str, special: bool) -> int:
    """How many tokens vLLM counts in a text for the base model."""
    body = {"model": "demo-base", "prompt": text, "add_special_tokens": special}
    url, head = hosts.base.removesuffix("/v1") + "/tokenize", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head), timeout=HANG) as reply:
        return json.load(reply)["count"]


def test_a_streamed_chat_and_its_usage(hosts, client):
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    usage = chunks[-1].usage
    assert text.strip() and len(chunks) > 5
    assert usage.prompt_tokens == counted(hosts, f"{QUESTION[0]['content']}\n", special=True)
    assert usage.completion_tokens == counted(hosts, text, special=False) <= 24
    pieces = [piece for chunk in chunks for piece in getattr(chunk, "nudging", {}).get("pieces", [])]
    assert "".join(piece["text"] for piece in pieces) == text
    assert {piece["by"] for piece in pieces} == {"base", "nudging"}


def test_a_stop_sequence(client):
    whole = client.chat.completions.create(**ASKED).choices[0].message.content
    stop = whole[len(whole) // 2 :][:4]
    choice = client.chat.completions.create(**ASKED, stop=["nowhere", stop]).choices[0]
    assert choice.message.content == whole[: whole.index(stop)] and choice.finish_reason == "stop"


def test_seeds(client):
    def drawn(seed: int) -> str:
        asked = ASKED | {"max_tokens": 10}
        return client.chat.completions.create(**asked, temperature=1.0, seed=seed).choices[0].message.content

    first = drawn(7)
    assert drawn(7) == first and len({first, drawn(8), drawn(9)}) > 1


def test_ids_are_those_of_the_base_model(hosts, client):
    prompt, url = "The capital of France is", str(client.base_url).removesuffix("/v1/")
    body = json.dumps({"prompt": prompt, "add_special_tokens": False}).encode()
    request = urllib.request.Request(f"{url}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HANG) as reply:
        ids = json.load(reply)["tokens"]
    assert len(ids) == counted(hosts, prompt, special=False)
    asked = {"model": "pair", "max_tokens": 8}
    texts = [client.completions.create(**asked, prompt=one).choices[0].text for one in (prompt, ids)]
    assert texts[0] == texts[1]
