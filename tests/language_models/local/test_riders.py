"""The rest of a proposal is written in passes that are run anyway, which changes no text."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import needs
import pytest
from waiting import wait_until

torch = needs.module("torch")

from context_engine import Plain, Rule, context_model  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from local_models import BYTE_LEVEL, KINDS, OTHER, PROMPT, TokenByToken, local  # noqa: E402

from language_models.interface import Metered, ModelError, SamplingParams  # noqa: E402
from language_models.local import model as local_model  # noqa: E402
from language_models.local import view as local_view  # noqa: E402
from language_models.local.segments import Segment  # noqa: E402
from language_models.local.worker import Worker  # noqa: E402
from nudging import NudgingSettings, answer_stream, nudge  # noqa: E402

SETTINGS = NudgingSettings(top_prob_thres=0.5, max_token_total=60)
CHAT = "<|user|> How? <|assistant|>"


@pytest.fixture(params=[True, False], ids=["own thread", "of those that wait"])
def worker(request, monkeypatch):
    """Passes run by a thread of their own, as on CPUs, and by those that wait for them, as on GPUs."""
    return workers(monkeypatch, request.param)


def workers(monkeypatch, own_thread: bool) -> Worker:
    made = Worker(own_thread)
    monkeypatch.setattr(local_model, "_worker_of", lambda device: made)
    return made


def rules(seed: int, ending: float = 0.0) -> tuple[Rule, Rule]:
    return Rule(seed, f"base {seed}", ending=ending / 2), Rule(seed, f"small {seed}", ending=ending)


def pair(monkeypatch, base: Rule, small: Rule, *, threads: int = 1, drafter: bool = True, slots: int = 4, **options):
    nudging = context_model(monkeypatch, small, samples=slots * threads, **options)
    return context_model(monkeypatch, base, samples=threads, drafter=nudging if drafter else None, **options), nudging


def nudged(base, nudging, prompt: str, settings: NudgingSettings = SETTINGS):
    views = Metered(base.for_sample(prompt)), Metered(nudging.for_sample(prompt))
    return nudge(*views, prompt, prompt + CHAT, settings, request_mode="streamed")


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.sampled_from([1, 4]),
    st.booleans(),
    st.booleans(),
    st.integers(2, 4),
    st.sampled_from([2, 5, 16]),
    st.booleans(),
)
def test_texts_are_those_of_models_without_caches(seed, ending, threads, ahead, drafter, slots, words, own_thread):
    """Whichever engine, however many at a time, with slots for all proposals or for fewer, and proposals that end late."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        workers(monkeypatch, own_thread)
        base, small = rules(seed, ending)
        chosen = NudgingSettings(top_prob_thres=0.5, max_token_total=40, completion_token_num_nudging=words)
        models = pair(monkeypatch, base, small, threads=threads, drafter=drafter, slots=slots, writes_ahead=ahead)
        prompts = [f"{n}. {PROMPT}" for n in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda prompt: nudged(*models, prompt, chosen), prompts))
        for prompt, result in zip(prompts, found, strict=True):
            # Texts of rules are not always cut into the tokens that wrote them, so that it matters how they are asked.
            assert result == nudge(Plain(base), Plain(small), prompt, prompt + CHAT, chosen, request_mode="streamed")
        gc.collect()
        assert [model.slots.taken for model in models] == [0, 0]
        assert not models[1].slots.riders()


@pytest.mark.parametrize("seed", range(4))
def test_drawn_texts_are_the_same_on_both_engines(seed, monkeypatch, worker):
    chosen = NudgingSettings(top_prob_thres=0.5, max_token_total=50, base_temperature=1.0, nudging_temperature=seed % 2)
    one, other = (
        nudged(*pair(monkeypatch, *rules(seed, 0.02), writes_ahead=ahead), PROMPT, chosen) for ahead in (True, False)
    )
    assert one == other and one.text


@pytest.mark.parametrize(("own", "own_thread"), [(BYTE_LEVEL, True), (OTHER, False)], ids=["same", "different"])
def test_texts_of_real_layers(own, own_thread, monkeypatch):
    """With models of one tokenizer, and of two."""
    workers(monkeypatch, own_thread)
    small = BYTE_LEVEL
    ends = frozenset({300, 301, 302})
    drafter = local("gpt2", 13, small, end_ids=ends, draft_ahead=True, engine="graphs", samples=8)
    base = local("llama", 13, own, end_ids=ends, drafter=drafter, draft_ahead=True, engine="graphs", samples=2)
    plain = TokenByToken(KINDS["llama"](13), own, ends), TokenByToken(KINDS["gpt2"](13), small, ends)
    chosen = NudgingSettings(top_prob_thres=0.5, max_token_total=20)
    prompts = [f"{n}. {PROMPT}" for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda prompt: nudged(base, drafter, prompt, chosen), prompts))
    for prompt, result in zip(prompts, found, strict=True):
        assert result == nudge(*plain, prompt, prompt + CHAT, chosen, request_mode="streamed")


@pytest.mark.parametrize("seed", [1, 17, 27, 35, 39])
def test_what_was_read_ahead_of_a_proposal_is_read_on(seed, monkeypatch, worker):
    """Texts whose tokens are not those that they are cut into: asked anew, a model goes on in another way than it had begun."""
    small = rules(seed)[1]
    chosen = NudgingSettings(
        top_prob_thres=0.7, completion_token_num=3, completion_token_num_nudging=2, max_token_total=30
    )
    model = context_model(monkeypatch, small, samples=4)
    expected = nudge(Plain(small), Plain(small), PROMPT, PROMPT + CHAT, chosen, request_mode="streamed")
    assert nudged(model, model, PROMPT, chosen) == expected


def test_a_third_of_the_steps_is_saved(monkeypatch, worker):
    """Against proposals that are read to their end before the base model is asked, as of models that do not ride."""
    counts = {}
    for rides in (True, False):
        monkeypatch.setattr(local_view.LocalView, "rides_along", rides)
        if not rides:
            monkeypatch.setattr(local_view, "FIRST_WORDS", 16)
        base, nudging = pair(monkeypatch, *rules(5))
        texts = [nudged(base, nudging, f"{n}. {PROMPT}").text for n in range(6)]
        asked = nudging.engine.steps + nudging.engine.launches
        if not rides:  # the engine writes ahead all the same, as it did before
            asked = nudging.usage.completion_tokens
        counts[rides] = asked, base.engine.launches, texts
    assert counts[True][2] == counts[False][2]
    assert counts[True][0] < 2 / 3 * counts[False][0]
    # Drafts that are broken off count against further ones, so that the base model checks a few less in advance.
    assert counts[True][1] <= 1.2 * counts[False][1]


def proposal(model, text: str = PROMPT, n: int = 16):
    return model.stream(text, SamplingParams(n))


def test_the_rest_is_written_in_passes_of_others(monkeypatch, worker):
    small = rules(7)[1]
    model = context_model(monkeypatch, small, samples=4)
    view = model.for_sample(0)
    first = proposal(view)
    text = next(first).text
    assert model.engine.launches == 1
    for n in range(4):  # three launches are as many tokens as are left
        next(proposal(view, f"{n} {PROMPT}"))
    launches = model.engine.launches
    assert max(map(len, model.engine.batches)) > 1
    while first.at_hand:
        text += next(first).text
    assert first.finish_reason == "length" and model.engine.launches == launches
    assert text == Plain(small).complete(PROMPT, SamplingParams(16)).text


def test_what_is_closed_rides_no_further(monkeypatch, worker):
    model = context_model(monkeypatch, rules(7)[1], samples=4)
    view, other = model.for_sample(0), model.for_sample(1)
    closed, dropped = proposal(view), proposal(view, PROMPT + "!")
    next(closed), next(dropped)
    assert len(model.slots.riders()) == 2
    closed.close()
    assert len(model.slots.riders()) == 1 and list(closed) == []
    next(proposal(other, "else"))
    assert len(model.engine.batches[-1]) == 2
    del closed, dropped, view
    gc.collect()
    assert model.slots.taken == 1
    next(proposal(other, "or else"))
    assert all(len(batch) == 1 for batch in model.engine.batches[-1:])


def test_a_sample_whose_slot_was_taken_writes_again_what_is_read(monkeypatch, worker):
    small = rules(8)[1]
    model = context_model(monkeypatch, small, samples=1)
    streams = [proposal(model.for_sample(n), f"{n} {PROMPT}") for n in range(3)]
    texts = [next(stream).text for stream in streams]
    for n, stream in enumerate(streams):
        assert (
            texts[n] + "".join(token.text for token in stream)
            == Plain(small).complete(f"{n} {PROMPT}", SamplingParams(16)).text
        )


def test_a_rider_that_cannot_be_written_fails_nobody_else(monkeypatch, worker):
    small = rules(9)[1]
    model = context_model(monkeypatch, small, samples=4)
    view = model.for_sample(0)
    rider = proposal(view)
    begun = next(rider).text
    slot = model.engine.batches[-1][0]

    def fails(segments):
        if any(segment.slot == slot for segment in segments):
            raise RuntimeError("out of memory")

    model.engine.fails = fails
    expected = Plain(small).complete("else", SamplingParams(16)).text
    assert "".join(token.text for token in proposal(view, "else")) == expected
    with pytest.raises(ModelError, match="out of memory"):
        list(rider)
    model.engine.fails = lambda segments: None
    # What was written before the failure is there still.
    assert begun + "".join(token.text for token in rider) == Plain(small).complete(PROMPT, SamplingParams(16)).text


def test_a_continuation_that_fails_halfway_fails_as_a_whole(monkeypatch, worker):
    small = rules(10)[1]
    model = context_model(monkeypatch, small, samples=2)
    view, runs = model.for_sample(0), []

    def fails(segments):
        runs.append(segments)
        if len(runs) == 3:
            raise RuntimeError("out of memory")

    model.engine.fails = fails
    stream = proposal(view, n=20)
    text = next(stream).text
    with pytest.raises(ModelError, match="out of memory"):
        list(stream)
    assert text + "".join(token.text for token in stream) == Plain(small).complete(PROMPT, SamplingParams(20)).text


def test_the_end_of_the_context_window(monkeypatch, worker):
    small = rules(11)[1]
    length = len(BYTE_LEVEL(PROMPT)["input_ids"]) + 10
    model = context_model(monkeypatch, small, samples=2, context_length=length)
    view = model.for_sample(0)
    assert view.complete(PROMPT, SamplingParams(10)).text == Plain(small).complete(PROMPT, SamplingParams(10)).text
    ids = BYTE_LEVEL(PROMPT)["input_ids"]
    found = model.slots.worker.run(model.engine, Segment(1, 0, ids, 1, 0, None, 31))
    assert len(found) == 11  # as many as there is room for, and nobody waits for the rest


def test_an_answer_that_is_left_alone_leaves_nothing(monkeypatch, worker):
    base, nudging = pair(monkeypatch, *rules(12))
    answer = answer_stream(
        base.for_sample(0), nudging.for_sample(0), PROMPT, PROMPT + CHAT, SETTINGS, request_mode="streamed"
    )
    next(answer), next(answer)
    answer.close()
    gc.collect()
    assert not nudging.slots.riders() and nudging.slots.taken == base.slots.taken == 0


def test_an_interrupted_thread_leaves_the_passes_to_others(monkeypatch):
    """Ctrl-C comes to the thread that runs a pass for all."""
    workers(monkeypatch, own_thread=False)
    small = rules(13)[1]
    model = context_model(monkeypatch, small, samples=4)
    inside, go_on, leader = threading.Event(), threading.Event(), threading.current_thread()
    found: dict[int, str] = {}

    def fails(segments):
        if threading.current_thread() is leader:
            inside.set()
            go_on.wait(10)
            raise KeyboardInterrupt

    model.engine.fails = fails

    def other(n: int) -> None:
        inside.wait(10)
        found[n] = model.for_sample(n).complete(f"{n} {PROMPT}", SamplingParams(6)).text

    threads = [threading.Thread(target=other, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    waits = threading.Thread(
        target=lambda: (
            wait_until(lambda: sum(map(len, model.slots.worker._waiting.values())) == 3, "three wait"),
            go_on.set(),
        )
    )
    waits.start()
    with pytest.raises(KeyboardInterrupt):
        model.for_sample("own").complete(PROMPT, SamplingParams(6))
    for thread in (*threads, waits):
        thread.join(10)
    assert found == {n: Plain(small).complete(f"{n} {PROMPT}", SamplingParams(6)).text for n in range(3)}


def test_what_was_read_is_not_kept_in_mind(monkeypatch, worker):
    """Many streams of the same text in one view, as of a server that is asked the same again and again."""
    model = context_model(monkeypatch, rules(14)[1], samples=2)
    for _ in range(50):
        model.complete(PROMPT, SamplingParams(5))
    assert sum(len(sample.readers) for sample in model._own.view.samples) <= 2
