"""The probe of servers whose replies have any shape: it ends in a report or in a ModelError, soon."""

import copy
import json

import httpx2
import pytest
from doubles import completion_reply
from hypothesis import given, settings
from hypothesis import strategies as st

from language_models.hosted import retries
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.http import make_client
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "a", "stop", "token"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["token", "text", "logprob", "choices", "bytes", "id", "version"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)
CHAT_SHAPE = {
    "content": [{"token": "lo", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "lo", "logprob": -0.1}]}]
}
SHAPES = [completion_reply("lo", ("lo",)), completion_reply("lo", ("lo",))]
SHAPES[1]["choices"][0]["logprobs"] = CHAT_SHAPE
PATHS = [
    (),
    ("choices",),
    ("choices", 0),
    *(("choices", 0, name) for name in ("text", "finish_reason", "logprobs")),
    *(
        ("choices", 0, "logprobs", name)
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset", "content")
    ),
    ("choices", 0, "logprobs", "content", 0),
    ("choices", 0, "logprobs", "top_logprobs", 0),
    ("usage",),
    ("usage", "prompt_tokens"),
]


handles = []  # the last one answers
MODEL = OpenAIEndpoint("lm", "http://here/v1", retry_policy=RetryPolicy(1))  # made once: it takes long
MODEL.http = httpx2.Client(transport=httpx2.MockTransport(lambda request: handles[-1](request)))
MODEL.client = make_client(MODEL.host, "EMPTY", MODEL.http)


def with_value(reply, path, value):
    """A reply with another value at a path, as far as it leads there."""
    if not path:
        return value
    changed = at = copy.deepcopy(reply)
    for key in path[:-1]:
        at = at.get(key) if isinstance(at, dict) else at[key] if isinstance(at, list) and at else None
    if isinstance(at, dict) or (isinstance(at, list) and at):
        at[path[-1]] = value
    return changed


def odd_server(shape, path, value, odd, status):
    """A handler that spoils the n-th requests whose numbers are in `odd`, and tells what it likes at all other paths."""
    asked = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(status, content=json.dumps(value).encode())
        asked.append(request)
        reply = with_value(shape, path, value) if len(asked) % 5 in odd else shape
        content = json.dumps(reply).encode()
        if json.loads(request.content).get("stream"):
            headers = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=headers, content=b"data: " + content + b"\n\ndata: [DONE]\n\n")
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=content)

    return handle, asked


@settings(max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    path=st.sampled_from(PATHS),
    value=json_values,
    odd=st.sets(st.integers(0, 4), min_size=1),
    logprobs=st.sampled_from([None, 1, 5]),
    name=st.sampled_from(["lm", "gemma-2-2b"]),
    status=st.sampled_from([200, 404, 500]),
)
def test_it_ends_in_a_report_or_in_words(shape, path, value, odd, logprobs, name, status):
    handle, asked = odd_server(shape, path, value, odd, status)
    handles.append(handle)
    model = copy.copy(MODEL)
    model.name, model.where = name, f"{name} at here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries.time, "sleep", lambda seconds: None)
        try:
            report = model.probe(logprobs)
            assert logprobs is None or report.streams_logprobs is not None
        except ModelError as error:
            assert "\n" not in str(error) and "here" in str(error)
    assert len(asked) < 60
