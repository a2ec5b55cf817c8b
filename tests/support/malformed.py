"""Requests to the server that are wrong, and what each gets; and a check of what every error must be."""

import json
import socket
from dataclasses import dataclass, field

QUESTION = [{"role": "user", "content": "How many days are in two weeks?"}]
HALF = "\ud83d"  # of a character
DEEP = "[" * 900 + "]" * 900


@dataclass(frozen=True)
class Wrong:
    """A request with its status, and `code` and `param` of its error."""

    body: object
    status: int
    code: str | None
    param: str | None
    path: str = "/v1/chat/completions"
    headers: dict = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def chat(**fields) -> dict:
    """The body of a chat that would be right without these fields."""
    return {"model": "pair", "messages": QUESTION, "max_tokens": 2} | fields


def text(**fields) -> dict:
    """The same of a text."""
    return {"model": "pair", "prompt": "A", "max_tokens": 2} | fields


def raw(members: str) -> bytes:
    """A chat with some members as they are written."""
    return (json.dumps({"model": "pair", "messages": QUESTION})[:-1] + f", {members}}}").encode()


def said(*parts) -> dict:
    """A chat with a content in parts."""
    return chat(messages=[{"role": "user", "content": list(parts)}])


# What a field must not be, in JSON's types.
NO_WHOLE = (True, "5", 5.5, 1e30, [], [1], {})
NO_NUMBER = (True, "0.5", [], [0.5], {})
NO_TEXT = (True, 5, 0.5, [], ["a"], {})
NO_BOOLEAN = ("true", 0, 1, 0.5, [], {})
NO_OBJECT = (True, "text", 5, [], [1])
TYPES = {
    **dict.fromkeys(("n", "max_tokens", "max_completion_tokens", "max_token_total", "seed"), NO_WHOLE),
    **dict.fromkeys(("temperature", "top_p", "top_prob_thres"), NO_NUMBER),
    **dict.fromkeys(("criterion", "user"), NO_TEXT),
    **dict.fromkeys(("stream", "continue_final_message", "add_generation_prompt"), NO_BOOLEAN),
    **dict.fromkeys(("stream_options", "response_format"), NO_OBJECT),
    "stop": (True, 5, 0.5, {}),
    "tools": (True, "x", 5, {}),
    "tool_choice": (True, 5, []),
    "messages": (None, True, 5, "x", {}),
    "model": (True, 5, [], {}),
}
# Values of the right type that are out of bounds: invalid_value.
BOUNDS = {
    "n": (0, -1, 129, 10**9),
    "max_tokens": (0, -1, 10**9, 2**70),
    "max_completion_tokens": (0, -1),
    "max_token_total": (0, -7),
    "seed": (2**63, -(2**63) - 1, 10**300),
    "temperature": (3, -0.1, 2.0001, 10**300),
    "top_p": (0, 1.1, -1),
    "top_prob_thres": (1.1, -0.1, 1e300),
    "criterion": ("nope", "", "top_prob ", HALF, "x" * 10**5),
    "stop": ("", [""], ["a", ""]),
    "messages": ([], [{"role": "system", "content": "x"}], [*QUESTION, {"role": "assistant", "content": "x"}]),
}
# Fields that cannot be defined for a pair.
UNDEFINED = {
    "logprobs": (True, 5),
    "top_logprobs": (3,),
    "echo": (True,),
    "tools": ([{"type": "function", "function": {"name": "f"}}],),
    "tool_choice": ("required", {"type": "function", "function": {"name": "f"}}),
    "functions": ([{"name": "f"}],),
    "response_format": ({"type": "json_object"}, {"type": "json_schema", "json_schema": {}}, {"type": 5}),
    "audio": ({"voice": "alloy", "format": "wav"},),
    "modalities": (["text", "audio"],),
    "logit_bias": ({"50256": -100},),
    "presence_penalty": (0.5,),
    "frequency_penalty": (-0.5,),
    "reasoning_effort": ("low",),
    "verbosity": ("high",),
    "stop_token_ids": ([2],),
    "suffix": ("x",),
    "top_k": (40,),
}
NOT_JSON = {
    "empty": b"",
    "spaces": b"  \n ",
    "no JSON": b"model=pair",
    "half": raw('"n": 1')[:40],
    "two": raw('"n": 1') * 2,
    "null": b"null",
    "a list": b"[1]",
    "a text": b'"x"',
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "UTF-16 without a mark": json.dumps(chat()).encode("utf-16-le"),
    "UTF-32": json.dumps(chat()).encode("utf-32"),
    "Latin 1": raw('"user": "é"').decode().encode("latin-1"),
    "half a character in UTF-8": raw('"user": "?"').replace(b"?", b"\xed\xa0\x80"),
    "NUL": b"\0" + raw('"n": 1'),
    "NaN": raw('"temperature": NaN'),
    "Infinity": raw('"temperature": -Infinity'),
    "5000 digits": raw('"seed": ' + "9" * 5000),
    "a million digits": raw('"n": ' + "9" * 10**6),
    "too deep": raw('"x": ' + "[" * 10**5 + "]" * 10**5),
    "a name twice": raw('"n": 1, "n": 2'),
    "a name twice, further down": raw('"stream_options": {"include_usage": true, "include_usage": false}'),
    "a comma too many": raw('"n": 1,'),
    "single quotes": b"{'model': 'pair'}",
}
MESSAGES = {
    "null": ([None], "messages[0]"),
    "a text": (["hello"], "messages[0]"),
    "a list": ([[]], "messages[0]"),
    "no role": ([{"content": "x"}], "messages[0].role"),
    "an odd role": ([*QUESTION, {"role": "robot", "content": "x"}], "messages[1].role"),
    "half a role": ([{"role": HALF, "content": "x"}], "messages[0].role"),
    "a list as role": ([{"role": ["user"], "content": "x"}], "messages[0].role"),
    "a deep role": ([{"role": json.loads(DEEP), "content": "x"}], "messages[0].role"),
    "a tool": ([*QUESTION, {"role": "tool", "tool_call_id": "1", "content": "x"}], "messages[1].role"),
    "calls of tools": (
        [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, *QUESTION],
        "messages[1].tool_calls",
    ),
    "no content": ([{"role": "user"}], "messages[0].content"),
    "null as content": ([{"role": "user", "content": None}], "messages[0].content"),
    "a number as content": ([{"role": "user", "content": 5}], "messages[0].content"),
    "an object as content": ([{"role": "user", "content": {"text": "x"}}], "messages[0].content"),
    "no parts": ([{"role": "user", "content": []}], "messages[0].content"),
    "a deep content": ([{"role": "user", "content": json.loads(DEEP)}], "messages[0].content[0].type"),
}
PARTS = {
    "an image": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    "audio": {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    "a file": {"type": "file", "file": {"file_data": "AAAA"}},
    "no type": {"text": "x"},
    "an odd type": {"type": "video", "text": "x"},
    "a text as part": "x",
}
MODELS = (
    "x",
    "pair@",
    "pair@2",
    "pair@0.3x",
    "pair@top_prob:",
    "pair@top_prob:2",
    "pair@:0.3",
    "pair@nan",
    "pair@-0.1",
)
MODELS += (
    "pair@1e-1",
    "pair@base:0.3",
    "pair@top_prob@0.3",
    " pair",
    "PAIR",
    "pair\0",
    f"pair{HALF}",
    "pair@" + "9" * 10**5,
)
PROMPTS = {
    "none": {},
    "null": {"prompt": None},
    "no text": {"prompt": 5},
    "an object": {"prompt": {}},
    "no prompts": {"prompt": []},
    "an empty one": {"prompt": ""},
    "an empty one among others": {"prompt": ["a", ""]},
    "texts and numbers": {"prompt": ["a", 5]},
    "no ids": {"prompt": [[]]},
    "booleans": {"prompt": [True, False]},
    "ids without a tokenizer": {"prompt": [1, 2, 3]},
    "lists of ids without a tokenizer": {"prompt": [[1, 2], [3]]},
    "too many": {"prompt": ["a"] * 1025},
    "too many answers": {"prompt": ["a"] * 100, "n": 100},
}


def wrong_requests() -> dict[str, Wrong]:
    """All of them, by name."""
    found: dict[str, Wrong] = {}
    for name, values in TYPES.items():
        for value in values:
            found[f"{name} of another type: {value!r}"] = Wrong(chat(**{name: value}), 400, "invalid_type", name)
    found["a list of stops of another type"] = Wrong(chat(stop=["a", 5]), 400, "invalid_type", "stop[1]")
    for name, values in BOUNDS.items():
        for value in values:
            found[f"{name} out of bounds: {str(value)[:50]}"] = Wrong(chat(**{name: value}), 400, "invalid_value", name)
    found["a temperature above all numbers"] = Wrong(raw('"temperature": 1e400'), 400, "invalid_value", "temperature")
    for name, values in UNDEFINED.items():
        for value in values:
            found[f"{name} is undefined: {value!r}"] = Wrong(chat(**{name: value}), 400, "unsupported_parameter", name)
    for name, content in NOT_JSON.items():
        found[f"no JSON: {name}"] = Wrong(content, 400, "invalid_json", None)
    for name, (messages, param) in MESSAGES.items():
        found[f"messages: {name}"] = Wrong(chat(messages=messages), 400, "invalid_value", param)
    for name, part in PARTS.items():
        body = said({"type": "text", "text": "x"}, part)
        found[f"a part: {name}"] = Wrong(body, 400, "invalid_value", "messages[0].content[1].type")
    found["a part without its text"] = Wrong(said({"type": "text"}), 400, "invalid_value", "messages[0].content[0]")
    for name in MODELS:
        found[f"a model: {name[:30]!r}"] = Wrong(chat(model=name), 404, "model_not_found", "model")
    for name in (None, ""):
        found[f"a model: {name!r}"] = Wrong(chat(model=name), 400, "missing_required_parameter", "model")
    for name, fields in PROMPTS.items():
        body = {"model": "pair", "max_tokens": 2} | fields
        found[f"a prompt: {name}"] = Wrong(body, 400, "invalid_value", "prompt", "/v1/completions")
    found["best of several"] = Wrong(text(best_of=3), 400, "unsupported_parameter", "best_of", "/v1/completions")
    found["thresholds that differ"] = Wrong(
        chat(model="pair@0.3", top_prob_thres=0.4), 400, "invalid_value", "top_prob_thres"
    )
    found["options of no stream"] = Wrong(
        chat(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"
    )
    found["odd options of a stream"] = Wrong(
        chat(stream=True, stream_options={"include_usage": "yes"}), 400, "invalid_type", "stream_options.include_usage"
    )
    found["10 MB"] = Wrong(b" " * 10**7, 413, "body_too_large", None)
    found["no path"] = Wrong(b"{}", 404, "not_found", None, "/v1/embeddings")
    found["another method"] = Wrong(b"{}", 405, "method_not_allowed", None, "/v1/models")
    for path in ("/tokenize", "/detokenize"):
        found[f"{path} without a tokenizer"] = Wrong(b"{}", 501, "no_tokenizer", None, path)
    return found


def check_error(status: int, headers, content: bytes, secrets: tuple[str, ...] = ()) -> dict:
    """The error of a response: OpenAI's shape, and one line for people."""
    assert headers["content-type"] == "application/json", (status, content[:300])
    body = json.loads(content)
    assert list(body) == ["error"] and list(body["error"]) == ["message", "type", "param", "code"], body
    message = body["error"]["message"]
    assert 0 < len(message) <= 1000 and message.isprintable(), message
    assert not any(mark in message for mark in ("Traceback", "pydantic", "Error(", "0x")), message
    assert not any(secret in content.decode() for secret in secrets), message
    expected = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert body["error"]["type"] == expected.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return body["error"]


def over_a_socket(url: str, *parts: bytes, wait: float = 20.0) -> tuple[int, dict[str, str], bytes]:
    """What comes back for some bytes: status, fields of the head, body. Everything, where the server closes the line."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as line:
        for part in parts:
            line.sendall(part)
        received = b""
        while not _is_whole(received) and (more := line.recv(65536)):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    named = {name.lower(): value for name, value in (one.split(": ", 1) for one in fields)}
    return int(first.split()[1]), named, body


def _is_whole(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    length = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and len(body) >= int(length[0])
