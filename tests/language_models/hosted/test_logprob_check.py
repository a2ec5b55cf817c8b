"""Log-probabilities that are no model's are refused before a run, and end a sample that meets them; a model's own are not."""

import json
from collections.abc import Callable

import pytest
from doubles import ReplyServer
from hypothesis import given
from hypothesis import strategies as st
from spoilt_logprobs import (
    FAULTS,
    HONEST,
    above_0,
    after_temperature,
    chat_shape,
    completions_shape,
    double,
    honest,
    list_of_null,
    list_without_the_token,
    no_list,
    nothing,
    null_list,
    null_value,
)
from waiting import HANG

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.logprob_check import ENOUGH_TOKENS, REPEATING_PROMPTS, SAME_PROBABILITY, find_fault
from language_models.hosted.probe import PROBE_PROMPT, PROBE_PROMPTS
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import END_OF_SEQUENCE, ModelError, ProbabilityError, SamplingParams, Token

ASKED = SamplingParams(16, logprobs=1)


def endpoint(server: ReplyServer) -> OpenAIEndpoint:
    return OpenAIEndpoint("lm", server.host, retry_policy=RetryPolicy(1), request_timeout=HANG)


@pytest.mark.parametrize("shape", [completions_shape, chat_shape])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_no_model_gives_is_refused(fault, shape, reply_server):
    server = reply_server(double(fault, shape))
    with pytest.raises(ProbabilityError) as refusal:
        endpoint(server).probe(1)
    message = str(refusal.value)
    assert FAULTS[fault] in message and message.startswith("lm at http://127.0.0.1") and "\n" not in message
    assert "--spec-type" in message or "raw_logprobs" in message or "most probable token's is needed" in message
    # A model whose probabilities are not read may have any.
    assert endpoint(server).probe(None).warnings == []


@pytest.mark.parametrize("shape", [completions_shape, chat_shape])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("spoil", HONEST)
def test_what_models_give_is_not(spoil, temperature, shape, reply_server):
    report = endpoint(reply_server(double(spoil, shape))).probe(1, temperature=temperature, top_p=0.9)
    assert report.streams_logprobs and report.warnings == []


def test_after_a_temperature_that_is_not_0(reply_server):
    server = reply_server(double(after_temperature))
    with pytest.raises(ProbabilityError, match="as the run asks for it"):
        endpoint(server).probe(1, temperature=0.4)
    endpoint(server).probe(1, temperature=1.0)  # the model's own then


@pytest.mark.parametrize("fault", FAULTS)
def test_of_streams_alone_they_are_not_used(fault, reply_server):
    server = reply_server(double(fault, only="streams"))
    model = Replicas([endpoint(server)], RetryPolicy(1), pytest.fail)
    (report,) = model.probe(1)
    assert FAULTS[fault] in report.warnings[0] and "streams" in report.warnings[0]
    assert not model.streams(logprobs=True) and model.streams(logprobs=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_of_whole_completions_alone_they_are_refused_too(fault, reply_server):
    """--calls published asks for them, whatever the streams say."""
    with pytest.raises(ProbabilityError, match=FAULTS[fault]):
        endpoint(reply_server(double(fault, only="calls"))).probe(1)


def test_the_run_s_own_fields_are_asked_for(reply_server):
    server = reply_server(double(honest))
    endpoint(server).probe(5, temperature=0.3, top_p=0.8)
    asked = {body["prompt"]: body for _, body in server.requests if body and body["max_tokens"] == 16}
    assert set(asked) == {*PROBE_PROMPTS[:2], *REPEATING_PROMPTS}
    fields = {"temperature": 0.3, "top_p": 0.8, "logprobs": 5}
    assert all(body.items() >= fields.items() and "repetition_penalty" in body for body in asked.values())


@pytest.mark.parametrize(
    "fault", [no_list, null_list, null_value, list_without_the_token, list_of_null, nothing, above_0]
)
@pytest.mark.parametrize("way", ["complete", "stream"])
def test_a_lack_in_a_sample_ends_it_at_once(way, fault, reply_server):
    """Found by no probe: each retry would bring one token more."""
    server = reply_server(double(honest))
    model = endpoint(server)
    model.probe(1)
    spoilt = reply_server(double(fault))
    model.completions_url = spoilt.host + "/completions"
    with pytest.raises(ProbabilityError, match=FAULTS[fault]):
        list(model.stream(REPEATING_PROMPTS[0], ASKED)) if way == "stream" else model.complete(
            REPEATING_PROMPTS[0], ASKED
        )
    assert len(spoilt.requests) == 1


def test_a_context_window_too_short_for_a_repetition_is_none_for_a_run(reply_server):
    full = {"error": {"message": "This model's maximum context length is 40 tokens"}}
    answer = double(honest)
    server = reply_server(
        lambda path, body: (400, {}, full) if body and body["prompt"] in REPEATING_PROMPTS else answer(path, body)
    )
    assert endpoint(server).probe(1).warnings == []


# --- a model that ends at once ---


def ends_at_once(prompts) -> Callable:
    """A server that leaves the end of sequence out, of a model that writes nothing after some prompts."""
    answer = double(honest)

    def reply(path, body):
        if body is None or body["prompt"] not in prompts:
            return answer(path, body)
        empty = {"tokens": [], "token_logprobs": [], "top_logprobs": []} if "logprobs" in body else None
        content = {"choices": [{"text": "", "finish_reason": "stop", "logprobs": empty}]}
        if not body.get("stream"):
            return 200, {}, content
        return 200, {"Content-Type": "text/event-stream"}, f"data: {json.dumps(content)}\n\ndata: [DONE]\n\n".encode()

    return reply


@pytest.mark.parametrize("ended", [PROBE_PROMPTS[:1], PROBE_PROMPTS[:2], PROBE_PROMPTS[1:], PROBE_PROMPTS])
def test_an_end_at_once_says_nothing_of_streams(ended, reply_server):
    report = endpoint(reply_server(ends_at_once(ended))).probe(1)
    assert report.streams_logprobs and report.warnings == []
    assert (report.max_logprobs == 0) == (ended == PROBE_PROMPTS)


def test_the_scripted_model_that_ends_after_the_first_prompt(start_server):
    server = start_server("--seed", "135", "--omit_eos_token")
    model = OpenAIEndpoint("base-lm", server.host, request_timeout=HANG)
    assert model.complete(PROBE_PROMPT, ASKED).tokens == (END_OF_SEQUENCE,)
    assert model.probe(1).streams_logprobs


def test_a_model_without_log_probabilities_that_ends_at_once_is_refused_all_the_same(reply_server):
    def reply(path, body):
        text = "" if body and body["prompt"] == PROBE_PROMPT else " a"
        return 200, {}, {"choices": [{"text": text, "finish_reason": "stop", "logprobs": None}], "data": []}

    with pytest.raises(ModelError, match="returns no log-probabilities"):
        endpoint(reply_server(reply)).probe(1)


# --- many models ---


def certain(text: str, logprob: float) -> Token:
    return Token(text, ((text, logprob),))


@given(st.lists(st.floats(-20, 0), min_size=ENOUGH_TOKENS, max_size=40), st.booleans(), st.floats(-0.1, 0.1))
def test_no_model_is_refused_by_accident(logprobs, repeats_for_certain, noise):
    """Unless it is certain of every token of two open texts, or has one probability for all: rounded to 4 digits, say."""
    opened = [certain("a", round(logprob, 4)) for logprob in logprobs]
    repeated = [certain("b", 0.0 if repeats_for_certain else -0.25)]
    fault = find_fault(
        opened[: len(opened) // 2],
        ("open", "other"),
        lambda prompt: repeated if prompt in REPEATING_PROMPTS else opened[len(opened) // 2 :],
        lambda prompt: {"a": opened[len(opened) // 2].top[0][1] + noise},
    )
    judged = opened if len(opened) < 2 * ENOUGH_TOKENS - 1 else opened[len(opened) // 2 :]
    odd = {token.top[0][1] for token in judged} in ({0.0}, {repeated[0].top[0][1]})
    assert (fault is not None) == odd


@given(st.floats(-5, -0.1), st.floats(SAME_PROBABILITY + 0.01, 4))
def test_one_difference_is_no_proof(logprob, difference):
    tokens = [certain("a", logprob - i / 10) for i in range(16)]
    tops = {"open": {"a": logprob - difference}, "other": {"a": logprob}}

    def fault() -> str | None:
        return find_fault(tokens, ("open", "other"), lambda prompt: tokens, tops.__getitem__)

    assert fault() is None
    tops["other"] = {"a": logprob - difference}
    assert "at temperature 1" in fault()
    tops["other"] = {"another": logprob - difference}  # the drawn token alone: nothing is known of the same one
    assert fault() is None


@given(st.integers(0, ENOUGH_TOKENS - 1))
def test_a_few_tokens_are_not_judged(n):
    tokens = [certain("a", 0.0)] * n
    written = {"open": tokens[::2]}
    assert find_fault(tokens[1::2], ("open", "other"), lambda prompt: written.get(prompt, ()), None) is None
    ends = [END_OF_SEQUENCE] * 20
    assert find_fault(ends, ("open", "other"), lambda prompt: ends, None) is None
