"""inspect_ai against the server: an evaluation, and a prompt that is too long, which it records as such."""

import pytest
from clients import run_client

pytestmark = pytest.mark.slow

QUESTIONS = ["How many days are in two weeks?", "What is the capital of France?"]
MODEL = "openai-api/pair/pair"


def test_inspect_ai(served, tmp_path):
    evaluations = [
        {"inputs": QUESTIONS, "options": {"model": MODEL, "max_tokens": 40}},
        {
            "inputs": QUESTIONS[:1],
            "options": {"model": f"{MODEL}@0.9", "max_tokens": 7, "model_args": {"stream": True}},
        },
        {"inputs": ["long " * 20_000, *QUESTIONS], "options": {"model": MODEL, "max_tokens": 40}},
        {"inputs": QUESTIONS[:1], "options": {"model": MODEL, "logprobs": True}},
    ]
    work = {"evaluations": evaluations, "logs": str(tmp_path / "logs")}
    told = {"PAIR_BASE_URL": f"{served.url}/v1", "PAIR_API_KEY": "none"}
    (plain, short, long, refused), said = run_client("run_inspect_ai.py", work, tmp_path, **told)

    def answer(question: str) -> dict:
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        reply = served.post("/v1/chat/completions", {"model": "pair", "messages": turns, "max_tokens": 40}).json()
        reason = {"length": "max_tokens"}.get(reply["choices"][0]["finish_reason"], "stop")
        text = reply["choices"][0]["message"]["content"]
        return {"text": text, "stop_reason": reason, "output_tokens": reply["usage"]["completion_tokens"]}

    expected = [answer(question) for question in QUESTIONS]
    assert plain == {"status": "success", "error": None, "samples": expected}, said
    assert short["status"] == "success" and short["samples"][0]["text"]
    assert (short["samples"][0]["stop_reason"], short["samples"][0]["output_tokens"]) == ("max_tokens", 7)
    assert long["status"] == "success" and long["samples"][1:] == expected
    assert long["samples"][0]["stop_reason"] == "model_length" and "context" in long["samples"][0]["text"]
    assert refused["status"] == "error" and "logprobs is not supported" in refused["error"]
