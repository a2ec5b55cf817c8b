"""Replies of hosted providers and other servers, in the shapes of their public API descriptions."""

import math

import pytest
from waiting import HANG

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.interface import ModelError, ProbabilityError, SamplingParams

MODELS = {"object": "list", "data": []}


def completion(text, finish_reason, logprobs, **more) -> dict:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": logprobs, **more}]}


TOGETHER = completion(
    " Paris.",
    "eos",
    {
        "tokens": [" Paris", ".", "</s>"],
        "token_ids": [3681, 29889, 2],
        "token_logprobs": [-0.25, -0.5, -0.75],
        "top_logprobs": [{" Paris": -0.25}, {".": -0.5}, {"</s>": -0.75}],
    },
    seed=1,
) | {"prompt": [], "object": "text.completion", "usage": {"prompt_tokens": 9, "completion_tokens": 3}}

TOGETHER_WITHOUT_TOP = completion(
    " Paris.", "eos", {"tokens": [" Paris", ".", "</s>"], "token_logprobs": [-0.25, -0.5, -0.75], "top_logprobs": None}
)

FIREWORKS = completion(
    " Paris.",
    "stop",
    {
        "tokens": [" Paris", ".", ""],
        "token_ids": [3681, 29889, 2],
        "text_offset": [40, 46, 47],
        "token_logprobs": [-0.25, -0.5, -0.75],
        "top_logprobs": [{" Paris": -0.25, " Lyon": -2.0}, {".": -0.5, "!": -1.5}, {"": -0.75, " It": -1.0}],
    },
    raw_output={"completion": " Paris.", "completion_token_ids": [3681, 29889, 2], "prompt_token_ids": [1]},
)

FIREWORKS_NEW = completion(
    " Paris.",
    "stop",
    {
        "content": [
            {
                "token": " Paris",
                "bytes": [32, 80, 97, 114, 105, 115],
                "logprob": -0.25,
                "token_id": 3681,
                "top_logprobs": [],
            },
            {"token": ".", "bytes": [46], "logprob": -0.5, "token_id": 29889, "top_logprobs": []},
            {"token": "</s>", "bytes": [], "logprob": -0.75, "token_id": 2, "top_logprobs": []},
        ]
    },
)

# text_offset is -1 throughout; two tokens of the same text are one key.
SGLANG = completion(
    " Paris.",
    "stop",
    {
        "tokens": [" Paris", ".", "</s>"],
        "text_offset": [-1, -1, -1],
        "token_logprobs": [-0.25, -0.5, -0.75],
        "top_logprobs": [{" Paris": -3.0, "": -4.0}, {".": -0.5}, {"</s>": -0.75}],
    },
    matched_stop=2,
)

# Decoded one id at a time: SentencePiece's space is lost, and with it the difference between "Paris" and " Paris".
SGLANG_LOST_SPACES = completion(
    " Paris.",
    "stop",
    {
        "tokens": ["Paris", ".", "</s>"],
        "text_offset": [-1, -1, -1],
        "token_logprobs": [-0.25, -0.5, -0.75],
        "top_logprobs": [{"Paris": -3.0}, {".": -0.5}, {"</s>": -0.75}],
    },
)

LLAMA_CPP = completion(
    " Paris.",
    "stop",
    {
        "content": [
            {
                "id": 3681,
                "token": " Paris",
                "bytes": [32, 80, 97, 114, 105, 115],
                "logprob": -0.25,
                "top_logprobs": [{"id": 3681, "token": " Paris", "bytes": [], "logprob": -0.25}],
            },
            {
                "id": 29889,
                "token": ".",
                "bytes": [46],
                "logprob": -0.5,
                "top_logprobs": [{"id": 29889, "token": ".", "bytes": [46], "logprob": -0.5}],
            },
            {
                "id": 2,
                "token": "",
                "bytes": [],
                "logprob": -0.75,
                "top_logprobs": [{"id": 2, "token": "", "bytes": [], "logprob": -0.75}],
            },
        ]
    },
)


def vllm(tokens, offsets) -> dict:
    return completion(
        " Paris.",
        "stop",
        {
            "tokens": tokens,
            "text_offset": offsets,
            "token_logprobs": [-0.25, -0.5, -0.75],
            "top_logprobs": [{token: logprob} for token, logprob in zip(tokens, (-0.25, -0.5, -0.75), strict=True)],
        },
        stop_reason=None,
        prompt_logprobs=None,
    )


REPLIES = {
    "together": TOGETHER,
    "together_without_top": TOGETHER_WITHOUT_TOP,
    "fireworks": FIREWORKS,
    "fireworks_new": FIREWORKS_NEW,
    "sglang": SGLANG,
    "sglang_lost_spaces": SGLANG_LOST_SPACES,
    "llama_cpp": LLAMA_CPP,
    "vllm_0.6": vllm([" Paris", ".", ""], [0, 6, 7]),
    "vllm_0.8_byte_level": vllm(["ĠParis", ".", "<|endoftext|>"], [0, 6, 7]),
    "vllm_0.9_sentencepiece": vllm(["▁Paris", ".", "</s>"], [0, 6, 7]),
    "vllm_lost_space": vllm(["Paris", ".", "</s>"], [0, 5, 6]),
}


def endpoint(reply_server, reply) -> OpenAIEndpoint:
    server = reply_server(lambda path, body: (200, {}, MODELS if path.endswith("/models") else reply))
    return OpenAIEndpoint("lm", server.host, request_timeout=HANG)


@pytest.mark.parametrize("name", REPLIES)
def test_the_same_tokens_from_every_server(name, reply_server):
    model = endpoint(reply_server, REPLIES[name])
    model.probe(1)
    found = model.complete("Hi", SamplingParams(3, logprobs=1))
    assert (found.text, found.finish_reason) == (" Paris.", "stop")
    assert [token.text for token in found.tokens] == [" Paris", ".", ""]
    expected = [math.exp(logprob) for logprob in (-0.25, -0.5, -0.75)]
    assert [token.top_prob for token in found.tokens] == pytest.approx(expected)


def test_offsets_that_say_nothing_are_not_believed(reply_server):
    """SGLang's -1 throughout would make the whole text the last token's."""
    logprobs = {"tokens": ["\ufffd?", "\ufffd?"], "text_offset": [-1, -1], "token_logprobs": [-0.1, -0.1]}
    model = endpoint(reply_server, completion("ab", "length", logprobs))
    model.retry_policy = type(model.retry_policy)(0)
    with pytest.raises(ModelError, match="do not fit its text"):
        model.complete("Hi", SamplingParams(2, logprobs=1))


def test_top_lists_that_are_shorter_than_the_tokens_are_no_crash(reply_server):
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.1], "top_logprobs": [{"a": -0.1}]}
    model = endpoint(reply_server, completion("ab", "length", logprobs))
    model.retry_policy = type(model.retry_policy)(0)
    with pytest.raises(ModelError, match="cannot be read"):
        model.complete("Hi", SamplingParams(2, logprobs=1))


def test_tgi_has_no_log_probabilities_there(reply_server):
    model = endpoint(reply_server, completion(" Paris.", "eos_token", None))
    with pytest.raises(ModelError, match="no log-probabilities on /v1/completions"):
        model.probe(1)
    assert model.probe(None).max_logprobs == 0
    assert model.complete("Hi", SamplingParams(3)).finish_reason == "stop"


@pytest.mark.parametrize("value", [-math.inf, -9999.0])
def test_a_probability_of_0(value, reply_server):
    logprobs = {"tokens": ["ab"], "token_logprobs": [value], "top_logprobs": [{"ab": value, "c": value}]}
    model = endpoint(reply_server, completion("ab", "length", logprobs))
    with pytest.raises(ProbabilityError, match="as the highest log-probability at the token 'ab', which is none"):
        model.complete("Hi", SamplingParams(1, logprobs=1))


@pytest.mark.parametrize("value", [-math.inf, -9999.0])
def test_a_probability_of_0_below_others(value, reply_server):
    logprobs = {"tokens": ["ab"], "token_logprobs": [-0.1], "top_logprobs": [{"ab": -0.1, "c": value}]}
    model = endpoint(reply_server, completion("ab", "length", logprobs))
    (token,) = model.complete("Hi", SamplingParams(1, logprobs=2)).tokens
    assert dict(token.top)["c"] == value and math.exp(value) == 0


# --- what providers refuse, as their descriptions say ---

STANDARD = {"model", "prompt", "max_tokens", "temperature", "top_p", "logprobs", "stream", "stream_options"}
PENALTIES = {"presence_penalty", "frequency_penalty"}


def openai_refusal(body):
    for name in body:
        if name not in STANDARD | PENALTIES:
            return f"Unrecognized request argument supplied: {name}"
    return "Invalid value for 'logprobs': must be at most 5" if (body.get("logprobs") or 0) > 5 else None


def tgi_refusal(body):
    return "Input validation error: `top_p` must be > 0.0 and < 1.0" if not 0 < body.get("top_p", 0.5) < 1 else None


def mistral_refusal(body):
    greedy = body.get("temperature") == 0 and body.get("top_p", 1) != 1
    return "top_p must be 1 when using greedy sampling." if greedy else None


def fireworks_refusal(body):
    return "top_k: Input should be greater than or equal to 0" if body.get("top_k", 0) < 0 else None


@pytest.mark.parametrize(
    ("refusal", "logprobs", "top_p", "left_out"),
    [
        (openai_refusal, 1, 0.9, ["min_p", "repetition_penalty", "top_k"]),
        (tgi_refusal, None, 1.0, ["top_p"]),
        (tgi_refusal, None, 0.9, []),
        (mistral_refusal, None, 0.9, ["top_p"]),
        (mistral_refusal, 1, 1.0, []),
        (fireworks_refusal, 1, 1.0, ["top_k"]),
    ],
)
def test_a_provider_that_refuses_fields_is_asked_without_them(refusal, logprobs, top_p, left_out, reply_server):
    refused = []

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, MODELS
        if body is None:
            return 404, {}, {}
        if said := refusal(body):
            refused.append(body)
            return 422, {}, {"error": {"message": said}}
        return (
            200,
            {},
            completion(" Paris.", "eos_token", None) if logprobs is None else VARIED[len(body["prompt"]) % 3],
        )

    model = OpenAIEndpoint("lm", reply_server(reply).host, request_timeout=HANG)
    report = model.probe(logprobs, top_p=top_p)
    assert report.left_out == left_out and len(refused) <= len(left_out) + 3
    seen = len(refused)
    assert model.complete("Hi", SamplingParams(3, top_p=top_p, logprobs=logprobs)).text == " Paris."
    assert len(refused) == seen


VARIED = [
    completion(
        " Paris.",
        "length",
        {
            "tokens": [" Paris", "."],
            "token_logprobs": [-0.25 - i / 10, -0.5],
            "top_logprobs": [{" Paris": -0.25 - i / 10}, {".": -0.5}],
        },
    )
    for i in range(3)
]
