"""LangChain's client of OpenAI's interface against the server."""

import pytest
from clients import run_client

pytestmark = pytest.mark.slow

QUESTION = "How many days are in two weeks?"


def test_langchain(served, tmp_path):
    found, _ = run_client("run_langchain.py", {"url": f"{served.url}/v1", "question": QUESTION}, tmp_path)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    with_system = served.post("/v1/chat/completions", {"model": "pair", "messages": turns, "max_tokens": 40}).json()
    alone = served.chat(QUESTION, max_tokens=40).json()
    (choice,), usage = with_system["choices"], with_system["usage"]
    assert found["whole"] == "".join(found["stream"]) == choice["message"]["content"]
    assert found["finish_reason"] == choice["finish_reason"] and len(found["stream"]) > 5
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert found["batch"] == [alone["choices"][0]["message"]["content"]] * 2
    (streamed,) = found["streamed usage"]
    assert streamed["output_tokens"] == alone["usage"]["completion_tokens"]
    asked = {"model": "pair", "prompt": QUESTION, "max_tokens": 40}
    assert found["text"] == served.post("/v1/completions", asked).json()["choices"][0]["text"]
    assert "BadRequestError" in found["too long"] and found["code"] == "context_length_exceeded"
