"""What servers say that went wrong: how it is understood, wherever it stands."""

import json

import hypothesis.strategies as st
import pytest
from doubles import completion_reply
from hypothesis import given

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
from language_models.hosted.server_errors import ServerError, error_in, error_of_reply
from language_models.interface import ContextLengthError, ModelError, SamplingParams, TransientError

# As OpenAI, vLLM, SGLang, TGI, llama.cpp, Fireworks AI, Anthropic, Gemini, Mistral, Cohere, Groq, LM Studio, Ollama, TensorRT-LLM,
# Bedrock, xAI, TabbyAPI, MLC, DashScope, Zhipu and Moonshot have said it.
DOES_NOT_FIT = (
    "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 tokens",
    "You passed 4097 input tokens and requested 1 output tokens. However, the model's context length is only 4096 tokens",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens).",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "Context size has been exceeded.",
    "The prompt is too long: 5000, model maximum context length: 4095",
    "prompt is too long: 200001 tokens > 199999 maximum",
    "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Prompt contains 33000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "too many tokens: size limit exceeded by 5 tokens. Try using shorter or fewer inputs",
    "Please reduce the length of the messages or completion.",
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 9",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "input length exceeds maximum context length",
    "prompt too long; exceeded max context length by 12 tokens",
    "Prompt length (5000) exceeds maximum input length (4096). Set log level to info and check TRTLLM logs",
    "Input is too long for requested model.",
    "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "Prompt length 5000 is greater than max_seq_len 4096",
    "Request prompt has 5000 tokens in total, larger than the model capacity 4096.",
    "Range of input length should be [1, 30720]",
    "Prompt exceeds max length",
    "Invalid request: Your request exceeded model token limit: 262144",
    "context window exceeds limit (2013)",
    "The sequence length 5000 exceeds the model's limit of 4096",
    "the prompt has too many tokens",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "inputs tokens + max_new_tokens must be <= 2048",
    "Sequence length of prompt 5000 is more than the maximum 4096",
    "The total number of tokens in the prompt exceeds the limit of 4096",
)
OTHER_REFUSALS = (
    "Requested sample logprobs of 100, which is greater than max allowed: 20",
    "max_tokens is too large: 5000. This model supports at most 4096 completion tokens, whereas you provided 5000.",
    "max_tokens: 5000 > 4096, which is the maximum allowed number of output tokens for claude-3",
    "Rate limit reached for gpt-4 on tokens per min (TPM): Limit 10000, Used 9000, Requested 3000.",
    "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000. The input or output tokens must be fewer",
    "413 Request Entity Too Large",
    "Payload Too Large: the request body exceeds the limit",
    "You exceeded your current quota, please check your plan and billing details",
    "The model `x` does not exist",
    "top_p must be in (0, 1]",
    "Invalid 'messages[0].content': string too long. Expected a string with maximum length 1048576",
    "max_tokens must be at least 1, got 0",
    "Engine is overloaded: too many requests",
    "The number of prompts in the batch exceeds the maximum of 32",
    "Incorrect API key provided",
    "temperature must be greater than 0",
    "prompt_logprobs are not available when stream is enabled",
    "CUDA out of memory. Tried to allocate 20.00 GiB",
    "Queue is full: the number of waiting requests exceeds the limit",
    "stop sequences must have less than 4 tokens",
    "This server's maximum number of tokens per request is limited to 16 for max_tokens",
    "Waiting for the model to load exceeded the time limit",
)


@pytest.mark.parametrize("message", DOES_NOT_FIT)
def test_a_prompt_that_does_not_fit_in_all_wordings(message):
    assert ServerError(message, 400, "").is_context_length


@pytest.mark.parametrize("message", OTHER_REFUSALS)
def test_other_limits_are_none_of_the_context_window(message):
    assert not ServerError(message, 400, "").is_context_length


@pytest.mark.parametrize("message", DOES_NOT_FIT[:6])
def test_a_rate_limit_is_none_of_the_context_window(message):
    assert not ServerError(message, 429, "").is_context_length


# A body, and the status that it stands for by itself.
BY_THEIR_OWN_CODE = (
    ({"error": {"message": "m", "code": 503}}, 503),
    ({"error": {"message": "m", "code": "429"}}, 429),
    ({"object": "error", "message": "m", "code": 400}, 400),
    ({"error": {"message": "m", "type": "rate_limit_error"}}, 429),
    ({"error": {"message": "m", "type": "requests", "code": "rate_limit_exceeded"}}, 429),
    ({"error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}, 429),
    ({"error": {"message": "m", "type": "overloaded_error"}}, 429),
    ({"error": {"message": "m", "type": "invalid_request_error", "code": "model_not_found"}}, 404),
    ({"error": {"message": "m", "type": "invalid_request_error", "code": "invalid_api_key"}}, 401),
    ({"error": {"message": "m", "type": "BadRequestError"}}, 400),
    ({"error": "m", "error_type": "validation"}, 400),
    ({"error": {"message": "m", "type": "InternalServerError"}}, 500),
    ({"error": {"message": "m"}, "status_code": 504}, 504),
    ({"error": "m"}, None),
    ({"error": {"message": "m", "code": True}}, None),
    ({"error": {"message": "m", "code": 1261}}, None),
)


@pytest.mark.parametrize(("body", "status"), BY_THEIR_OWN_CODE)
def test_an_error_by_its_own_code(body, status):
    error = error_in(body)
    assert (error.message, error.status) == ("m", status)


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"usage": {}}, {"choices": [{"text": "a"}], "error": None}, [], None, {"errors": []}]
)
def test_what_is_no_error(body):
    assert error_in(body) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("error", "message", "code", "type", "detail", "errors", "x")), inner)
    ),
    max_leaves=8,
)


@given(json_values, st.sampled_from((400, 404, 429, 500, 503)))
def test_an_error_of_any_shape_is_understood(body, status):
    assert error_in(body) is None or isinstance(error_in(body).message, str)
    error = error_of_reply(body, status, json.dumps(body))
    assert error.message and (error.status is None or 400 <= error.status < 600)


def asked(reply_server, status: int, body: dict, retries: int = 0):
    server = reply_server(lambda path, asked: (status, {"retry-after": "0.01"}, body))
    try:
        OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(retries)).complete("Hi", SamplingParams(2))
    except ModelError as error:
        return error, len(server.requests)
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("status", "body", "kind", "passes"),
    [
        (200, {"error": {"message": "boiler is out", "code": 500}}, TransientError, True),
        (200, {"error": "boiler is out"}, TransientError, True),
        (200, {"error": {"message": "boiler is out", "code": 400}}, ModelError, False),
        (500, {"error": {"message": "boiler is out", "code": 400}}, ModelError, False),
        (502, {"error": {"message": "boiler is out", "type": "invalid_request_error"}}, ModelError, False),
        (400, {"error": {"message": "boiler is out", "type": "invalid_request_error"}}, ModelError, False),
        (400, {"error": {"message": "boiler is out", "code": 429}}, TransientError, True),
        (429, {"error": {"message": "boiler is out", "code": "insufficient_quota"}}, ModelError, False),
        (418, {"detail": [{"loc": ["body", "x"], "msg": "boiler is out"}]}, ModelError, False),
        (200, {"error": {"message": "boiler is out", "code": "context_length_exceeded"}}, ContextLengthError, False),
        (500, {"error": {"message": "boiler is out: prompt is too long", "code": 500}}, ContextLengthError, False),
        (413, {"message": "boiler is out: Request Entity Too Large"}, ModelError, False),
    ],
)
def test_an_error_wherever_it_comes(status, body, kind, passes, reply_server):
    error, requests = asked(reply_server, status, body, retries=2)
    assert type(error) is kind and "boiler is out" in str(error)
    assert requests == (3 if passes else 1)


@pytest.mark.parametrize("reason", [None, ""])
@pytest.mark.parametrize(("asked_for", "finish"), [(2, "length"), (3, "stop")])
def test_a_whole_reply_without_a_reason_is_judged_by_its_length(reason, asked_for, finish, reply_server):
    body = completion_reply(finish_reason=reason)
    server = reply_server(lambda path, asked: (200, {}, body))
    model = OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(0))
    assert model.complete("Hi", SamplingParams(asked_for, logprobs=1)).finish_reason == finish


def test_a_whole_reply_that_does_not_say_whether_it_is_over_is_an_error(reply_server):
    body = {"choices": [{"index": 0, "text": "hello", "finish_reason": None}]}
    with pytest.raises(ModelError, match="does not say why it ended"):
        OpenAIEndpoint(
            "lm", reply_server(lambda path, asked: (200, {}, body)).host, retry_policy=RetryPolicy(0)
        ).complete("Hi", SamplingParams(2))


@pytest.mark.parametrize("logprobs", [1, None])
def test_a_whole_reply_of_more_tokens_than_asked_for_is_an_error(logprobs, reply_server):
    body = json.dumps(completion_reply("a b c d e", ("a", " b", " c", " d", " e"))).encode()
    server = reply_server(lambda path, asked: (200, {}, body))
    with pytest.raises(ModelError, match="more than the 2 tokens"):
        OpenAIEndpoint("lm", server.host).complete("Hi", SamplingParams(2, logprobs=logprobs))
    assert len(server.requests) == 1
