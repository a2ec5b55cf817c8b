"""Tokenizers and context windows of servers: three engines' routes, found out by a try, and servers without any."""

import pytest
from doubles import ReplyServer, free_port
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_routes import TokenizerRoutes

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, TransientError

FORMS = pytest.mark.parametrize("form", ["vllm", "sglang", "llama_cpp"])


def replicas(*hosts: str, **options) -> Replicas:
    policy = RetryPolicy(0)
    return Replicas([OpenAIEndpoint("lm", host, retry_policy=policy, **options) for host in hosts], policy, print)


@FORMS
@pytest.mark.parametrize("extra_space", [False, True])
def test_the_routes_of_an_engine(reply_server, form, extra_space):
    server = reply_server(TokenizerRoutes(form, extra_space=extra_space))
    model = replicas(server.host, api_key="a-key")
    tokenizer = model.tokenizer()
    assert tokenizer is model.tokenizer() and tokenizer.name == "lm" and model.usage.requests == 0
    for text in ("Hello", "", " a b", "日本 😀\n", "\x00"):
        ids = tokenizer.encode(text)
        assert ids == [ord(character) + 10 for character in text] and tokenizer.count(text) == len(text)
        assert tokenizer.decode(ids) == text and tokenizer.encode(text, special=True) == [1, *ids]
    assert tokenizer.decode([1, 75]) == "<s>A"  # names of special tokens stand for them
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.chat_template == "{{ turns }}"
    assert {head["authorization"] for head in server.heads} == {"Bearer a-key"}


@given(form=st.sampled_from(["vllm", "sglang", "llama_cpp"]), texts=st.lists(st.text(), max_size=3))
@settings(max_examples=6)
def test_any_text_comes_back(form, texts):
    server = ReplyServer(TokenizerRoutes(form))
    try:
        tokenizer = replicas(server.host).tokenizer()
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text)) == text
    finally:
        server.stop()


@FORMS
def test_a_server_that_tells_nothing_of_its_template(reply_server, form):
    tokenizer = replicas(reply_server(TokenizerRoutes(form, facts=False)).host).tokenizer()
    assert tokenizer.special_tokens == {} and tokenizer.chat_template is None


def lying(kind: str):
    """Routes whose answers are none of a tokenizer."""
    routes = TokenizerRoutes("vllm")

    def reply(path, body):
        if kind == "page":
            return 200, {"Content-Type": "text/html"}, b"<html>"
        status, headers, content = routes(path, body)
        if path == "/tokenize":
            ids = {
                "texts": ["a", "b"],
                "bools": [True],
                "object": {"a": 1},
                "none": None,
                "others": [75, 76],
                "empty": [],
            }
            content = {"tokens": ids.get(kind)}
        return status, headers, content

    return reply


@pytest.mark.parametrize("kind", ["page", "texts", "bools", "object", "none", "others", "empty"])
def test_what_is_no_tokenizer(reply_server, kind):
    assert replicas(reply_server(lying(kind)).host).tokenizer() is None


@pytest.mark.parametrize("status", [401, 404, 405, 422, 500])
def test_servers_without_one(reply_server, status):
    server = reply_server(lambda path, body: (status, {}, {"error": {"message": "no"}}))
    model = replicas(server.host)
    assert model.tokenizer() is None and model.context_length is None
    asked = len(server.requests)
    assert model.tokenizer() is None and model.context_length is None and len(server.requests) == asked


def test_a_server_that_is_not_there():
    model = replicas(f"http://127.0.0.1:{free_port()}/v1")
    assert model.tokenizer() is None and model.context_length is None


@FORMS
def test_failures(reply_server, form):
    """In plain words, with the server's; a server whose connection was closed is asked once more."""
    routes, answers = TokenizerRoutes(form), []
    server = reply_server(lambda path, body: answers.pop(0) if answers else routes(path, body))
    tokenizer = replicas(server.host).tokenizer()
    failure, cut = (500, {}, {"error": {"message": "out of range"}}), (200, {}, None)
    answers[:] = [failure]
    with pytest.raises(ModelError, match=r"^the tokenizer of lm at http://127.*: status 500: out of range$"):
        tokenizer.encode("a")
    answers[:] = [cut]
    assert tokenizer.decode([75]) == "A" and not answers
    answers[:] = [cut, cut]
    with pytest.raises(TransientError, match="cannot be reached"):
        tokenizer.count("a")


@FORMS
def test_any_replica_that_answers(reply_server, form):
    dead = f"http://127.0.0.1:{free_port()}/v1"
    routes, works = TokenizerRoutes(form), [True]
    first = reply_server(lambda path, body: routes(path, body) if works else (503, {}, {"error": {"message": "busy"}}))
    second = reply_server(TokenizerRoutes(form))
    model = replicas(dead, first.host, second.host)
    tokenizer = model.tokenizer()
    works.clear()
    before = len(second.requests)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc" and len(second.requests) == before + 2


@FORMS
def test_context_windows(reply_server, form):
    servers = [reply_server(TokenizerRoutes(form, length=length)) for length in (2048, 512, None)]
    model = replicas(*(server.host for server in servers))
    assert model.context_length == 512
    asked = [len(server.requests) for server in servers]
    assert model.context_length == 512 and [len(server.requests) for server in servers] == asked
    assert replicas(servers[2].host).context_length is None


@pytest.mark.parametrize("told", [0, -1, True, "512", 5.5, None, {}])
def test_context_windows_that_are_none(reply_server, told):
    routes = TokenizerRoutes("vllm", length=told)
    assert replicas(reply_server(routes).host).context_length is None


def test_the_window_of_another_model_is_not_its_own(reply_server):
    data = [{"id": "a", "max_model_len": 8}, {"id": "lm", "max_model_len": 64}, {"id": "b", "max_model_len": 16}, 3]
    server = reply_server(lambda path, body: (200, {}, {"data": data if path.endswith("models") else None}))
    assert replicas(server.host).context_length == 64
    data[1]["id"] = "lm2"
    assert replicas(server.host).context_length is None
