"""The official openai client against the server: replies, streams, raw responses, and errors as its exceptions."""

import asyncio
import json
import threading

import openai
import pytest
from doubles import Gate
from served_pair import as_a_command, in_this_process, settings_over
from waiting import in_threads, wait_until

QUESTION = "How many days are in two weeks?"
ASKED = {"model": "pair", "messages": [{"role": "user", "content": QUESTION}]}


def client_of(url: str, key: str = "none", kind=openai.OpenAI):
    return kind(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(served):
    with client_of(served.url) as client:
        yield client


@pytest.fixture(scope="module")
def text(served) -> str:
    """The answer to the question."""
    return served.chat(QUESTION).json()["choices"][0]["message"]["content"]


def test_a_chat(client, text):
    reply = client.chat.completions.create(**ASKED)
    (choice,) = reply.choices
    assert (choice.message.content, choice.message.role, choice.index) == (text, "assistant", 0)
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None and reply.model == "pair"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert "".join(piece["text"] for piece in reply.nudging["pieces"]) == text
    # Every field is one that the client knows, of the type that it expects, but for the pair's own.
    again = type(reply).model_validate_json(reply.model_dump_json(), strict=True)
    assert set(again.model_extra) == {"nudging"} and not again.usage.model_extra and not choice.message.model_extra


def test_own_fields_and_names(client):
    asked = ASKED | {"max_completion_tokens": 40}
    fields = client.chat.completions.create(**asked, extra_body={"top_prob_thres": 0.9})
    name = client.chat.completions.create(**asked | {"model": "pair@0.9"})
    assert fields.choices[0].message.content == name.choices[0].message.content
    assert fields.model == "pair" and name.model == "pair@0.9"


def test_a_stream(client, text):
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant" and "".join(delta.content or "" for delta in deltas) == text
    assert chunks[-1].usage.completion_tokens > 0 and len(chunks) > 5
    (wrote,) = [chunk.nudging["words"] for chunk in chunks if "words" in getattr(chunk, "nudging", {})]
    pieces = [piece for chunk in chunks for piece in getattr(chunk, "nudging", {}).get("pieces", [])]
    assert wrote == [piece["text"] for piece in pieces if piece["by"] == "nudging"]


def test_the_clients_own_helper_for_streams(client, text):
    with client.chat.completions.stream(**ASKED) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
        assert said == text == stream.get_final_completion().choices[0].message.content


def test_raw_responses(client, text):
    raw = client.chat.completions.with_raw_response.create(**ASKED)
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == text == json.loads(raw.text)["choices"][0]["message"]["content"]
    with client.chat.completions.with_streaming_response.create(**ASKED, stream=True) as streaming:
        assert streaming.headers["content-type"].startswith("text/event-stream")
        assert [line for line in streaming.iter_lines() if line][-1] == "data: [DONE]"


def test_the_async_client_with_many_at_a_time(served, text):
    async def ask(client, stream: bool) -> str:
        reply = await client.chat.completions.create(**ASKED, stream=stream)
        if not stream:
            return reply.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in reply])

    async def ask_all() -> list[str]:
        async with client_of(served.url, kind=openai.AsyncOpenAI) as client:
            return await asyncio.gather(*(ask(client, stream=n % 2 == 0) for n in range(16)))

    assert set(asyncio.run(ask_all())) == {text}


def test_texts(client):
    prompt = "Question: What is the capital of France?\nAnswer:"
    whole = client.completions.create(model="pair", prompt=[prompt, "Two"], max_tokens=20)
    assert [choice.index for choice in whole.choices] == [0, 1] and all(choice.text for choice in whole.choices)
    parts = client.completions.create(model="pair", prompt=prompt, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].text for chunk in parts) == whole.choices[0].text


def test_models(client):
    assert "pair" in [model.id for model in client.models.list()]
    assert client.models.retrieve("pair@0.3").nudging["top_prob_thres"] == 0.3


class TestErrors:
    def test_a_bad_request(self, client):
        for more, param in (({"temperature": "hot"}, "temperature"), ({"logprobs": True}, "logprobs"), ({"n": 0}, "n")):
            with pytest.raises(openai.BadRequestError) as failed:
                client.chat.completions.create(**ASKED, **more)
            assert failed.value.param == param and failed.value.type == "invalid_request_error"
            assert failed.value.body["message"] and isinstance(failed.value.code, str)
        with pytest.raises(openai.BadRequestError):  # an error, not a stream of one
            client.chat.completions.create(**ASKED, stream=True, logprobs=True)

    def test_another_model(self, client):
        with pytest.raises(openai.NotFoundError) as failed:
            client.chat.completions.create(**ASKED | {"model": "gpt-4o"})
        assert failed.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_prompt_that_is_too_long(self, client, stream):
        long = [{"role": "user", "content": "long " * 20_000}]
        with pytest.raises(openai.BadRequestError) as failed:
            client.chat.completions.create(model="pair", messages=long, stream=stream)
        assert failed.value.code == "context_length_exceeded" and failed.value.param == "messages"

    def test_full(self, server):
        closed = threading.Event()
        gate = Gate(server, lambda body: closed.is_set())
        options = {"base_host": gate.host, "nudging_host": gate.host, "max_concurrent": 1}
        try:
            with in_this_process(settings_over(server.host, **options)) as served, client_of(served.url) as client:
                closed.set()
                first = []

                def ask_again() -> None:
                    wait_until(lambda: gate.held, "the first request is at work")
                    try:
                        with pytest.raises(openai.RateLimitError) as failed:
                            client.chat.completions.create(**ASKED)
                        assert int(failed.value.response.headers["retry-after"]) >= 1
                    finally:
                        gate.open()

                in_threads([lambda: first.append(client.chat.completions.create(**ASKED)), ask_again])
                assert first[0].choices[0].message.content
        finally:
            gate.stop()

    def test_a_model_that_fails(self, start_server):
        behind = start_server("--seed", "2")
        with in_this_process(settings_over(behind.host)) as served, client_of(served.url) as client:
            behind.stop()
            with pytest.raises(openai.InternalServerError) as failed:
                client.chat.completions.create(**ASKED)
            assert failed.value.status_code == 502 and failed.value.code == "upstream_error"


def test_a_key_and_the_command(server):
    host = ("--base_model", "base-lm", "--base_host", server.host, "--nudging_host", server.host)
    options = (*host, "--nudging_model", "llama-2-chat", "--top_prob_thres", 0.4, "--api_key_env", "PAIRS_KEY")
    with as_a_command(*options, env={"PAIRS_KEY": "secret-of-the-pair", "PATH": ""}) as (served, process):
        with client_of(served.url, "another") as client, pytest.raises(openai.AuthenticationError) as failed:
            client.chat.completions.create(**ASKED)
        assert failed.value.code == "invalid_api_key" and "secret-of-the-pair" not in str(failed.value)
        with client_of(served.url, "secret-of-the-pair") as client:
            assert client.chat.completions.create(**ASKED).choices[0].message.content
        process.terminate()
        assert process.wait(60) == 0 and "secret-of-the-pair" not in "".join(served.said) + process.stderr.read()


@pytest.mark.slow
def test_the_demo_pair(demo_models):
    """GGUF models that the command serves itself."""
    options = ("--base_model", "demo-base", "--nudging_model", "demo-aligned", "--top_prob_thres", 0.4)
    with as_a_command(*options, "--max_concurrent", 1) as (served, _), client_of(served.url) as client:
        asked = ASKED | {"max_tokens": 12, "stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.chat.completions.create(**asked)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        counted = [
            served.post("/tokenize", {"prompt": prompt, "add_special_tokens": special}).json()["count"]
            for prompt, special in ((f"{QUESTION}\n", True), (text, False))
        ]
        assert text.strip() and [last.usage.prompt_tokens, last.usage.completion_tokens] == counted
        pieces = [piece for chunk in chunks for piece in getattr(chunk, "nudging", {}).get("pieces", [])]
        assert {piece["by"] for piece in pieces} == {"base", "nudging"}
