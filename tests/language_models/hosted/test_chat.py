import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import HANG

from language_models.hosted.chat import HostedChatModel, read_chat
from language_models.hosted.logprobs import UnreadableReply
from language_models.interface import ChatReply, ModelError


@pytest.fixture
def server(judge_server):
    judge_server.replies = ["fine"]
    return judge_server


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def model(server, said):
    return HostedChatModel(
        "m", server.host, "a-key", num_threads=4, request_timeout=HANG, max_retries=2, say=said.append
    )


def picky(refused: set[str], names: dict[str, str] | None = None, status: int = 400):
    """A server that refuses fields of a request, telling one of them (or what `names` has for it) at a time."""

    def reply(body: dict):
        fields = {"response_format", "temperature"} & body.keys()
        if any(message["role"] == "system" for message in body["messages"]):
            fields.add("system role")
        for field in sorted(fields & refused):
            return status, {}, (names or {}).get(field, f"{field} is not supported")
        return "fine"

    return reply


def test_half_a_character_is_sent_as_a_replacement_character(model, server):
    model.ask("how \ud83d", "what \udc00 \U0001f9ec")
    (request,) = server.requests
    assert [message["content"] for message in request["messages"]] == ["how \ufffd", "what \ufffd \U0001f9ec"]


def test_what_is_asked(model, server, said):
    assert model.ask("how", "what") == ChatReply("fine") and said == []
    (request,) = server.requests
    assert (request["model"], request["temperature"], request["response_format"]) == ("m", 0, {"type": "json_object"})
    assert request["authorization"] == "Bearer a-key"
    assert request["messages"] == [{"role": "system", "content": "how"}, {"role": "user", "content": "what"}]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("names", [None, {"response_format": "no", "temperature": "no", "system role": "no"}])
@pytest.mark.parametrize(
    "refused",
    [
        {"response_format"},
        {"temperature"},
        {"system role"},
        {"response_format", "temperature"},
        {"response_format", "temperature", "system role"},
    ],
)
def test_what_a_server_refuses_is_left_out_and_told_once(model, server, said, refused, names, status):
    server.replies = [picky(refused, names, status)]
    assert model.ask("how", "what").text == "fine"
    (line,) = said
    assert all(name in line for name in refused) and server.host in line
    server.requests.clear()
    assert [model.ask("how", f"what {i}").text for i in range(3)] == ["fine"] * 3
    assert len(server.requests) == 3 and said == [line]
    kept = {"response_format", "temperature"} - refused
    assert all({"response_format", "temperature"} & request.keys() == kept for request in server.requests)
    if "system role" in refused:
        assert server.requests[0]["messages"] == [{"role": "user", "content": "how\n\nwhat 0"}]


@pytest.mark.parametrize(
    "status, field, message",
    [
        (501, "response_format", "no"),
        (500, "response_format", "response_format json_object is not supported"),
        (500, "system role", "System role not supported"),
        (404, "response_format", "No endpoints found that can handle the requested parameters"),
    ],
)
def test_what_a_server_refuses_with_another_status(model, server, said, status, field, message):
    server.replies = [picky({field}, {field: message}, status)]
    assert model.ask("how", "what").text == "fine" and field in said[0]
    assert len(server.requests) <= 8


@pytest.mark.parametrize("status, message, tries", [(404, "the model json-system does not exist", 1), (500, "oops", 3)])
def test_other_failures_are_no_refusals(server, said, status, message, tries):
    server.replies = [(status, {"retry-after": "0.01"}, message)]
    options = {"num_threads": 1, "request_timeout": HANG, "max_retries": 2, "say": said.append}
    model = HostedChatModel("unsupported-json-judge", server.host, "a-key", **options)
    with pytest.raises(ModelError, match=message):
        model.ask("how", "what")
    assert len(server.requests) == tries and not said


def test_many_threads_settle_it_once(model, server, said):
    server.replies = [picky({"temperature"})]
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(model.ask("how", "what").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == ["fine"] * 8 and len(said) == 1


def test_a_question_that_is_refused_changes_nothing_for_the_others(model, server, said):
    def reply(body):
        return (400, {}, "content filter") if "bad" in body["messages"][-1]["content"] else "fine"

    server.replies = [reply]
    for question in ("bad", "good", "bad", "good"):
        if question == "good":
            assert model.ask("how", question).text == "fine"
        else:
            with pytest.raises(ModelError, match="content filter"):
                model.ask("how", question)
    assert said == [] and server.requests[-1]["temperature"] == 0
    assert len(server.requests) == 8 + 1 + 1 + 1


def test_a_server_that_refuses_everything_is_not_asked_in_all_forms_for_ever(model, server):
    server.replies = [(400, {}, "no such model")]
    for _ in range(10):
        with pytest.raises(ModelError, match="no such model"):
            model.ask("how", "what")
    assert len(server.requests) == 2 * 8 + 8


def test_wrong_key_is_not_tried_again(model, server):
    server.replies = [(401, {})]
    with pytest.raises(
        ModelError, match=r"judge m at http://.*: status 401: .*api_key_env names.*scripted 401"
    ) as error:
        model.ask("how", "what")
    assert error.value.status == 401 and len(server.requests) == 1


@pytest.mark.parametrize("busy, tries", [(1, 2), (2, 3)])
def test_busy_server_is_tried_again(model, server, busy, tries):
    server.replies = [(503, {"retry-after": "0.01"})] * busy + ["fine"]
    assert model.ask("how", "what").text == "fine" and len(server.requests) == tries


def test_server_that_stays_busy_is_given_up(model, server):
    server.replies = [(503, {"retry-after": "0.01"})]
    with pytest.raises(ModelError, match="status 503"):
        model.ask("how", "what")
    assert len(server.requests) == 3


texts = st.text(max_size=10)
others = st.sampled_from(
    [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "image"}, 7, None]
)


@given(st.lists(st.one_of(texts.map(lambda t: {"type": "text", "text": t}), texts, others)))
def test_content_in_parts(parts):
    wanted = "".join(p if isinstance(p, str) else p.get("text", "") for p in parts if isinstance(p, str | dict))
    assert read_chat({"choices": [{"message": {"content": parts}}]}).text == wanted


@pytest.mark.parametrize(
    "choice, reply",
    [
        ({"message": {"content": "x"}, "finish_reason": "length"}, ChatReply("x", "length")),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, ChatReply("", "content_filter")),
        ({"message": {"content": None, "refusal": "I will not."}}, ChatReply("I will not.")),
        (
            {"message": {"content": [{"type": "reasoning", "text": "no"}, {"type": "text", "text": "x"}]}},
            ChatReply("x"),
        ),
        ({"message": {"content": "", "reasoning_content": '{"correct": 1}'}}, ChatReply("")),
    ],
)
def test_replies_without_text(choice, reply):
    assert read_chat({"choices": [choice]}) == reply


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{}]}, {"choices": None}, {"choices": [{"message": "x"}]}]
)
def test_what_is_no_chat_completion(body):
    with pytest.raises(UnreadableReply, match=re.escape("choices[0].message")):
        read_chat(body)
