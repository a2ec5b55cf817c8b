"""What Open WebUI sends: its models, a chat, and at the same time its requests for a title, follow-ups and tags."""

import json

import pytest
from runs import REPOSITORY
from served_pair import in_this_process, read_events, settings_over
from waiting import in_threads

SENT = json.loads((REPOSITORY / "tests/fixtures/open_webui/requests.json").read_text())
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def for_open_webui(server):
    """A server that leaves tools unused."""
    with in_this_process(settings_over(server.host, ignore_tools=True)) as served:
        served.http.headers.update(SENT["headers"])
        yield served


def text_of(events: list[dict]) -> str:
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def test_models(for_open_webui):
    listed = for_open_webui.http.get("/v1/models").json()
    assert listed["object"] == "list" and {"pair", "pair@0.3", "pair@base"} <= {one["id"] for one in listed["data"]}


def test_a_chat_with_the_requests_beside_it(for_open_webui):
    found = {}

    def ask(name: str, body: dict) -> None:
        found[name] = for_open_webui.post(CHAT, body)

    asked = {"chat": SENT["chat"] | {"tools": SENT["tools"]}} | SENT["beside"]
    in_threads([lambda one=one: ask(*one) for one in asked.items()])
    assert {reply.status_code for reply in found.values()} == {200}
    events = read_events(found["chat"].text)
    whole = for_open_webui.post(CHAT, {name: SENT["chat"][name] for name in ("model", "messages")}).json()
    assert text_of(events) == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
    for name, body in SENT["beside"].items():
        alone = for_open_webui.post(CHAT, body).json()["choices"]
        assert [one["message"] for one in found[name].json()["choices"]] == [one["message"] for one in alone]


def test_tools_are_refused_without_the_option_that_it_names(served):
    body = SENT["chat"] | {"tools": SENT["tools"]}
    reply = served.post(CHAT, body, headers=SENT["headers"])
    error = reply.json()["error"]
    assert reply.status_code == 400 and reply.headers["content-type"] == "application/json"
    assert error["param"] == "tools" and "--ignore_tools" in error["message"]
    assert served.post(CHAT, SENT["chat"], headers=SENT["headers"]).status_code == 200
