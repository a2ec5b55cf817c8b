"""Seeds of sampled answers: the same seed draws the same text, and no call repeats another's numbers."""

from contextlib import closing

import pytest
from doubles import completion_reply
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving_server import MisbehavingServer, as_it_is, head

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.retries import RetryPolicy
from language_models.interface import SEEDS, ModelError, SamplingParams, SeedError
from language_models.proposals import Base, Nudger
from language_models.readers import READERS, Writer
from nudging import NudgingSettings, Piece, nudging_rounds, settle

PROMPT = "Question: how many apples are left?\n"
DRAWN = SamplingParams(16, temperature=1.0, logprobs=1)


def endpoint(host: str, name: str = "base-lm", retries: int = 2) -> OpenAIEndpoint:
    return OpenAIEndpoint(name, host, retry_policy=RetryPolicy(retries))


def read_text(model, params: SamplingParams, mode: str, tokens: int = 60) -> str:
    """What a loop reads that accepts everything, call by call."""
    reader = READERS[mode](Writer(model, PROMPT, params, tokens), "")
    for _ in range(tokens // params.max_tokens):
        reader.begin_call()
        while reader.read():
            pass
        if reader.ended:
            break
    reader.close()
    return reader.text


def nudged_text(host: str, seed: int | None, mode: str) -> str:
    """The nudging loop, both models drawing."""
    base = Base(Writer(endpoint(host), "B: " + PROMPT, SamplingParams(16, 1.0, 0.9, 1, seed), 40), mode)
    nudger = Nudger(endpoint(host, "lm-chat"), "N: " + PROMPT, SamplingParams(8, 1.0, seed=seed), base, mode)
    with closing(base), closing(nudger):
        certain = lambda token, _: token.top_prob >= 0.4  # noqa: E731
        rounds = nudging_rounds(base, nudger, NudgingSettings(max_token_total=40), certain)
        return "".join(piece.text for piece in settle(rounds, 1) if isinstance(piece, Piece))


@settings(max_examples=30)
@given(seed=st.integers(), text=st.text())
def test_the_seed_of_a_call_depends_on_seed_and_text_alone(seed, text):
    params = SamplingParams(4, seed=seed)
    assert params.after(text).seed == (seed + len(text)) % SEEDS and 0 <= params.after(text).seed < SEEDS
    assert SamplingParams(4).after(text) == SamplingParams(4)


def test_a_first_call_has_the_seed_itself_and_each_call_another(server):
    front = MisbehavingServer(server, as_it_is)
    assert nudged_text(front.host, 7, "published")
    front.stop()
    asked = [exchange.asked for exchange in front.requests]
    assert asked[0]["seed"] == 7
    for body in asked:
        assert body["seed"] == 7 + len(body["prompt"]) - len("N: " + PROMPT)


@pytest.mark.parametrize("mode", READERS)
def test_requests_without_a_seed_have_no_such_field(server, mode):
    front = MisbehavingServer(server, as_it_is)
    nudged_text(front.host, None, mode)
    front.stop()
    assert not any("seed" in exchange.asked for exchange in front.requests)


@pytest.mark.parametrize("mode", READERS)
def test_the_same_seed_draws_the_same_answer(server, mode):
    texts = [nudged_text(server.host, seed, mode) for seed in (0, 0, 1, 2**32 + 5)]
    assert texts[0] == texts[1] and len(set(texts)) == 3


@pytest.mark.parametrize("mode", READERS)
def test_one_model_read_alone(server, mode):
    model = endpoint(server.host)
    texts = [read_text(model, SamplingParams(8, 1.0, logprobs=1, seed=seed), mode) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    greedy = [read_text(model, SamplingParams(8, logprobs=1, seed=seed), mode) for seed in (1, 2, None)]
    assert len(set(greedy)) == 1 and greedy[0] not in texts


@pytest.mark.parametrize("logprobs", [1, None])
@pytest.mark.parametrize("breaks", [1, 2])
def test_a_stream_that_breaks_off_goes_on(server, logprobs, breaks):
    """Where tokens are counted by others of the seed's numbers; where they are not, by the same ones, for the text comes again."""

    def spoil(exchange):
        if not exchange.is_stream or exchange.number >= breaks:
            yield from as_it_is(exchange)
            return
        # In the midst of a stream, and of what is written once more.
        yield head(kind="text/event-stream")
        yield b"\n\n".join(exchange.content.split(b"\n\n")[: 5 - exchange.number]) + b"\n\n"

    params = SamplingParams(30, temperature=1.0, logprobs=logprobs, seed=9)
    whole = endpoint(server.host).complete(PROMPT, params).text
    texts, bodies = [], []
    for _ in range(2):
        front = MisbehavingServer(server, spoil)
        texts.append("".join(token.text for token in endpoint(front.host, retries=5).stream(PROMPT, params)))
        bodies.append([exchange.asked for exchange in front.requests])
        front.stop()
    assert texts[0] == texts[1] and len(bodies[0]) == breaks + 1
    seeds = [body["seed"] for body in bodies[0]]
    if logprobs is None:
        assert texts[0] == whole and set(seeds) == {9}
    else:
        assert seeds == [9 + len(body["prompt"]) - len(PROMPT) for body in bodies[0]] and len(set(seeds)) == len(seeds)
        shared = len(bodies[0][1]["prompt"]) - len(PROMPT)
        assert shared > 0 and texts[0][:shared] == whole[:shared]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "words", "kind", "told"),
    [
        (400, "Unknown parameter: 'seed'", SeedError, "refuses seed 7"),
        (422, "body.seed: Extra inputs are not permitted", SeedError, "refuses seed 7"),
        (501, "seed is not implemented", SeedError, "refuses seed 7"),
        (400, "unknown field", ModelError, "unknown field; the request has seed 7"),
    ],
)
def test_a_server_that_refuses_seeds(reply_server, stream, status, words, kind, told):
    server = reply_server(lambda path, body: (status, {}, {"error": {"message": words}}))
    model, params = endpoint(server.host), SamplingParams(4, temperature=1.0, seed=7)
    with pytest.raises(kind) as failed:
        _ = list(model.stream("x", params)) if stream else model.complete("x", params)
    assert told in str(failed.value) and words in str(failed.value) and failed.value.status == status
    assert len(server.requests) == 1 and "\n" not in str(failed.value)


def test_other_failures_of_a_seeded_request_stay_as_they_are(reply_server):
    replies = [(503, {}, {"error": {"message": "busy"}}), (200, {}, completion_reply())]
    server = reply_server(lambda path, body: replies.pop(0))
    assert endpoint(server.host).complete("x", SamplingParams(2, seed=7)).text == "hello"
    server = reply_server(lambda path, body: (404, {}, {"error": {"message": "no such model"}}))
    with pytest.raises(ModelError, match="status 404: no such model$"):
        endpoint(server.host).complete("x", SamplingParams(2, seed=7))
