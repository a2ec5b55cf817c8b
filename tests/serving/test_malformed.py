"""Requests that are wrong get the error that says so, and nothing else; afterwards the server answers as before."""

import json
import threading

import pytest
from malformed import HALF, QUESTION, chat, check_error, over_a_socket, text, wrong_requests
from served_pair import in_this_process, read_events, settings_over

from serving import connections, guard

WRONG = wrong_requests()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BODY = json.dumps(chat()).encode()
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
KEY = "k3y-of-this-server"


def answered(served) -> str:
    reply = served.post("/v1/chat/completions", chat(max_tokens=8))
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def right(served):
    """The answer to a right request, before the first of the wrong ones; all of it is asked for again at the end."""
    before = answered(served)
    yield before
    assert answered(served) == before and served.app.state.slots.answers == 0


def test_there_are_many_kinds():
    assert len(WRONG) > 200


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_gets_its_error(served, right, name):
    wrong = WRONG[name]
    reply = served.http.post(wrong.path, content=wrong.content, headers=wrong.headers)
    error = check_error(reply.status_code, reply.headers, reply.content)
    assert (reply.status_code, error["code"], error["param"]) == (wrong.status, wrong.code, wrong.param), error
    if isinstance(wrong.body, dict):  # the same where a stream was asked for: never an error in a stream that has begun
        reply = served.http.post(wrong.path, content=json.dumps({"stream": True} | wrong.body))
        if name != "options of no stream":
            assert check_error(reply.status_code, reply.headers, reply.content) == error


ODD_BUT_RIGHT = {
    "a mark of the byte order": b"\xef\xbb\xbf" + BODY,
    "names that are not known": json.dumps(chat(x=1, **{HALF: HALF, "": None, "a\0": [1]})).encode(),
    "a deep value of an unknown name": json.dumps(chat())[:-1].encode() + b', "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    "half a character in the question": json.dumps(chat(messages=[{"role": "user", "content": f"a{HALF}b"}])).encode(),
    "NUL in the question": json.dumps(chat(messages=[{"role": "user", "content": "a\0b"}])).encode(),
    "half a character in a stop": json.dumps(chat(stop=[HALF, "a" + HALF])).encode(),
    "half a character in the user": json.dumps(chat(user=HALF)).encode(),
    "null everywhere": json.dumps(chat(**dict.fromkeys(("n", "stop", "seed", "tools", "logprobs", "stream")))).encode(),
    "what asks for nothing": json.dumps(
        chat(logprobs=False, echo=False, tools=[], logit_bias={}, presence_penalty=0, stop=[], tool_choice="none")
    ).encode(),
    "a long number": json.dumps(chat())[:-1].encode() + b', "temperature": 0.' + b"0" * 9999 + b"}",
}


@pytest.mark.parametrize("name", ODD_BUT_RIGHT)
def test_an_odd_request_is_answered(served, right, name):
    reply = served.http.post("/v1/chat/completions", content=ODD_BUT_RIGHT[name])
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 2, reply.text


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "\xff"])
def test_the_content_type_does_not_matter(served, kind):
    field = b"" if kind is None else b"Content-Type: %s\r\n" % kind.encode("latin-1")
    assert over_a_socket(served.url, CHAT + field + LENGTH + BODY)[0] == 200


def test_many_and_long_stop_sequences_end_an_answer_as_few_do(served, right):
    whole = answered(served)
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.find(stop)]
    for stops in ([stop, *(f"{n} nowhere" for n in range(100_000))], [stop, whole + "a" * 10**6]):
        reply = served.post("/v1/chat/completions", chat(max_tokens=8, stop=stops)).json()
        assert reply["choices"][0]["message"]["content"] == expected
    # One index serves all choices: 32 of them would take long.
    reply = served.post("/v1/completions", text(n=32, stop=[f"{n} nowhere" for n in range(20_000)], max_tokens=1))
    assert len(reply.json()["choices"]) == 32


@pytest.mark.parametrize("content", ["a" * 3_000_000, "many words " * 200_000], ids=["a word", "words"])
def test_a_huge_question_is_too_long_for_the_context_window(served, right, content):
    reply = served.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": content}]))
    error = check_error(reply.status_code, reply.headers, reply.content)
    assert (reply.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


def test_so_many_turns_are_too(served, right):
    turns = [*QUESTION, {"role": "assistant", "content": "y"}] * 5000
    reply = served.post("/v1/chat/completions", chat(messages=turns + QUESTION))
    assert check_error(reply.status_code, reply.headers, reply.content)["code"] == "context_length_exceeded"


NO_HTTP = {
    "of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "without a host": CHAT.replace(b"Host: 127.0.0.1\r\n", b"") + LENGTH + BODY,
    "a length that is none": CHAT + b"Content-Length: many\r\n\r\n" + BODY,
    "a length below zero": CHAT + b"Content-Length: -5\r\n\r\n" + BODY,
    "two lengths": CHAT + b"Content-Length: 3\r\n" + LENGTH + BODY,
    "a bad chunk": CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "another coding": CHAT + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "a long head": CHAT + b"X: " + b"a" * 400_000 + b"\r\n\r\n",
    "a path in bytes": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a field without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_gets_an_error_too(served, right, name):
    status, fields, body = over_a_socket(served.url, NO_HTTP[name])
    assert status == 400 and check_error(status, fields, body)["code"] == "invalid_http"
    assert fields["connection"] == "close"


def test_http_1_0_and_requests_in_a_row_and_another_protocol(served):
    old = over_a_socket(served.url, CHAT.replace(b"1.1", b"1.0") + LENGTH + BODY)
    assert old[0] == 200 and old[1]["connection"] == "close"
    assert over_a_socket(served.url, CHAT + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH + BODY)[0] == 200
    assert over_a_socket(served.url, (CHAT + LENGTH + BODY) * 2)[0] == 200


def chunked(size: int, number: int) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n" % size + b" " * size + b"\r\n") * number + b"0\r\n\r\n"


TOO_LARGE = {
    "that is said": CHAT + b"Content-Length: 10000000\r\n\r\n" + b" " * 10_000_000,
    "in chunks": CHAT + chunked(2**16, 160),
    "that is said and never comes": CHAT + b"Content-Length: 10000000000\r\n\r\n" + BODY,
    "that is asked for first": CHAT + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_body_that_is_too_large(served, right, name):
    status, fields, body = over_a_socket(served.url, TOO_LARGE[name])
    assert status == 413 and check_error(status, fields, body)["code"] == "body_too_large"


SLOW = {
    "never comes": CHAT + LENGTH,
    "comes in part": CHAT + LENGTH + BODY[:20],
    "is shorter than said": CHAT + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 1) + BODY,
    "has no last chunk": CHAT + chunked(9, 3).removesuffix(b"0\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_body_that_does_not_come(served, right, name, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    status, fields, body = over_a_socket(served.url, SLOW[name])
    assert status == 408 and check_error(status, fields, body)["code"] == "timeout"
    assert fields["connection"] == "close"


def test_half_a_body_and_gone_leaves_nothing(served, right):
    for _ in range(20):
        with pytest.raises(OSError):
            over_a_socket(served.url, CHAT + LENGTH + BODY[:20], wait=0.01)


@pytest.mark.parametrize("head", [b"", b"POST /v1/ch", CHAT, CHAT + b"X: a\r\n"])
def test_a_head_that_does_not_come(served, head, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    with pytest.raises(IndexError):  # the line is closed without a word
        over_a_socket(served.url, head)


def test_a_head_that_has_come_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    late = threading.Event()
    threading.Timer(0.4, late.set).start()

    def parts():
        yield CHAT
        yield LENGTH
        late.wait()
        yield BODY

    assert over_a_socket(served.url, *parts())[0] == 200


# Origin, Host, and whether a page from there may ask a server without a key.
ORIGINS = [
    (None, "127.0.0.1", True),
    ("http://127.0.0.1", "127.0.0.1", True),
    ("http://localhost:8010", "localhost:8010", True),
    ("http://localhost:3000", "localhost:8010", False),
    ("http://evil.example", "127.0.0.1", False),
    ("http://evil.example", "evil.example", False),  # a name that was made to lead here
    ("null", "127.0.0.1", False),
    ("file://", "127.0.0.1", False),
    ("http://127.0.0.1.evil.example", "127.0.0.1", False),
    ("http://[::", "[::", False),
    ("http://\xff", "\xff", False),
    ("", "127.0.0.1", False),
]


@pytest.mark.parametrize(("origin", "host", "allowed"), ORIGINS)
def test_pages_of_other_sites_may_not_ask(served, origin, host, allowed):
    head = CHAT.replace(b"127.0.0.1", host.encode("latin-1"))
    if origin is not None:
        head += b"Origin: %s\r\n" % origin.encode("latin-1")
    status, fields, body = over_a_socket(served.url, head + LENGTH + BODY)
    assert status == (200 if allowed else 403)
    if not allowed:
        assert check_error(status, fields, body)["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in fields


@pytest.fixture(scope="module")
def guarded(server):
    """A server with a key, which pages of one other site may ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY_OF_CLIENTS", KEY)
        options = {"api_key_env": "KEY_OF_CLIENTS", "cors_origin": ("http://page.example:3000",)}
        with in_this_process(settings_over(server.host, **options)) as served:
            yield served


GUARDED = [("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")]
GUARDED += [("GET", path) for path in ("/v1/models", "/v1/models/pair", "/tokenizer_info", "/v1/nothing", "/docs")]
BAD_KEYS = [None, b"", b"Bearer", KEY.encode(), b"Basic " + KEY.encode(), b"Bearer x" + KEY.encode()]
BAD_KEYS += [b"Bearer " + KEY.encode()[:-1], b"Bearer \xff\xfe", f"Bearer {KEY}é".encode(), b"Bearer " + b"k" * 10_000]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_wrong_key(guarded, method, path):
    for key in BAD_KEYS:
        headers = {} if key is None else {b"Authorization": key}
        reply = guarded.http.request(method, path, headers=headers, content=BODY if method == "POST" else None)
        error = check_error(reply.status_code, reply.headers, reply.content, (KEY,))
        assert (reply.status_code, error["code"]) == (401, "invalid_api_key"), (key, error)
        assert reply.headers["www-authenticate"] == "Bearer"


def test_the_right_key(guarded):
    for given in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY}"):
        assert guarded.http.post("/v1/chat/completions", content=BODY, headers={"Authorization": given}).is_success
    assert all(guarded.http.get(path).is_success for path in ("/", "/health", "/version", "/metrics"))
    assert KEY not in guarded.http.get("/metrics").text


def test_pages_of_an_allowed_site(guarded):
    asks = {
        "Origin": "http://page.example:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    allowed = guarded.http.options("/v1/chat/completions", headers=asks)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == asks["Origin"]
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    refused = guarded.http.options("/v1/chat/completions", headers=asks | {"Origin": "http://evil.example"})
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers
    headers = {"Origin": asks["Origin"], "Authorization": f"Bearer {KEY}"}
    reply = guarded.http.post("/v1/chat/completions", content=BODY, headers=headers)
    assert reply.is_success and reply.headers["access-control-allow-origin"] == asks["Origin"]
    wrong = guarded.http.post("/v1/chat/completions", content=BODY, headers={"Origin": asks["Origin"]})
    # The page must be able to read what is wrong.
    assert wrong.status_code == 401 and wrong.headers["access-control-allow-origin"] == asks["Origin"]


def test_streams_of_wrong_requests_begin_with_nothing(served, right):
    reply = served.post("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    assert reply.headers["content-type"].startswith("text/event-stream") and read_events(reply.text)[-1]["usage"]
