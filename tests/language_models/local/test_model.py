"""The model in this process, on tiny random models: its text is that of the same model run token by token without any cache."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import needs
import pytest
from runs import gsm8k_rows
from waiting import HANG

torch = needs.module("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from local_models import BYTE_FALLBACK, BYTE_LEVEL, DRAFT, KINDS, OTHER, PROMPT, TokenByToken, greedy, ids_of, local  # noqa: E402

from baselines import average_ensemble, proxy_tuning  # noqa: E402
from language_models.interface import SamplingParams, Usage  # noqa: E402
from nudging import NudgingSettings, nudge  # noqa: E402


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_generate(kind):
    model, reference = local(kind), KINDS[kind](1)
    ids = BYTE_LEVEL(PROMPT, return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": 60, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    expected = reference.generate(ids, **options)[0, ids.shape[1] :].tolist()
    stream = greedy(model, n=60, logprobs=3)
    tokens = list(stream)
    assert ids_of(stream) == expected and stream.finish_reason == "length"
    assert model.engine.passes == 60 and model.usage == stream.usage == Usage(1, ids.shape[1], 60)
    with torch.inference_mode():
        whole = reference(torch.tensor([ids[0].tolist() + expected])).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    for token, logprobs in zip(tokens, whole, strict=True):
        assert token.top[0][1] == pytest.approx(logprobs.max().item(), abs=1e-4)
        assert 1 <= len(token.top) <= 3 and sorted(token.top, key=lambda pair: -pair[1]) == list(token.top)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte_level", "byte_fallback"])
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_change_the_number_of_passes_alone(kind, tokenizer):
    plain = TokenByToken(KINDS[kind](2), tokenizer)
    expected = plain.ids(PROMPT, 30)
    right = tokenizer.decode(expected[:12])
    for draft in (right, right[:20] + DRAFT, DRAFT, "\ufffd", " "):
        model = local(kind, 2, tokenizer)
        model.draft_rates["caller"].length = lambda most, *_: most  # whatever the clock says on a busy machine
        stream = greedy(model, n=30, draft=draft)
        assert sum(token.count for token in stream) == 30 and ids_of(stream) == expected
        # Random tokens are not always those that their text is cut into.
        if draft is right and tokenizer(PROMPT + draft)["input_ids"][-12:] == expected[:12]:
            assert model.engine.passes < 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_proposal_is_looked_at_once(kind):
    """The heads of a proposal, word by word, as the nudging loop asks for them, and then a text that is cut back and changed."""
    model, plain = local(kind, 3), TokenByToken(KINDS[kind](3), BYTE_LEVEL)
    model.draft_rates["caller"].length = lambda most, *_: most
    view, words = model.for_sample(0), DRAFT.split(" ")[1:]
    for i in range(1, len(words)):
        head = " ".join(["", *words[:i]])
        stream = greedy(view, PROMPT + head, draft=DRAFT[len(head) :], logprobs=1)
        expected = plain.complete(PROMPT + head, SamplingParams(1, logprobs=1)).tokens[0]
        token = next(stream)
        stream.close()
        assert token.text == expected.text and token.top_prob == pytest.approx(expected.top_prob, abs=1e-4)
        assert list(stream) == [] and stream.finish_reason is None
    assert model.engine.passes == 1 and model.usage.requests == len(words) - 1
    for text in (" Use a pan", " Use a pan with the moon", " Use", "", " Use a pan with a lid, and"):
        completion = view.complete(PROMPT + text, SamplingParams(7, logprobs=1))
        expected = plain.complete(PROMPT + text, SamplingParams(7, logprobs=1))
        assert [t.text for t in completion.tokens] == [t.text for t in expected.tokens]
        assert [t.top_prob for t in completion.tokens] == pytest.approx([t.top_prob for t in expected.tokens], abs=1e-4)


EDITS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["", " the moon", "é 😀", "\n\nbread", " of"])), max_size=5
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(EDITS, st.sampled_from([1, 5]))
def test_any_order_of_cutting_back_and_going_on(edits, logprobs):
    view, text = EDITED.for_sample(0), PROMPT + DRAFT
    for length, more in edits:
        text = text[: max(1, length)] + more
        expected = PLAIN.ids(text, 5)
        stream = greedy(view, text, 5, logprobs=logprobs, draft=DRAFT)
        assert len(list(stream)) == 5 and ids_of(stream) == expected


EDITED, PLAIN = local(seed=4, draft_ahead=True), TokenByToken(KINDS["llama"](4), BYTE_LEVEL)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte_level", "byte_fallback"])
def test_the_end_at_every_place(tokenizer):
    written = TokenByToken(KINDS["llama"](5), tokenizer).ids(PROMPT, 12)
    draft = tokenizer.decode(written)
    for end in dict.fromkeys(written):
        plain = TokenByToken(KINDS["llama"](5), tokenizer, frozenset({end}))
        for max_tokens in (written.index(end) + 1, 12):
            expected = plain.complete(PROMPT, SamplingParams(max_tokens, logprobs=1))
            for text in ("", draft):
                model = local(seed=5, tokenizer=tokenizer, end_ids=frozenset({end}))
                stream = greedy(model, n=max_tokens, draft=text, logprobs=2)
                tokens = list(stream)
                assert [t.text for t in tokens] == [t.text for t in expected.tokens]
                assert stream.finish_reason == "stop" and tokens[-1].text == tokens[-1].top[0][0] == ""
                assert list(stream) == []
            completion = model.complete(PROMPT, SamplingParams(max_tokens))
            assert completion.text == expected.text and completion.tokens == () and completion.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
def test_samples_side_by_side(kind):
    model, plain = local(kind, 6, samples=4, draft_ahead=True), TokenByToken(KINDS[kind](6), BYTE_LEVEL)
    prompts = [row["question"] for row in gsm8k_rows(8)]
    ready = threading.Barrier(4, timeout=HANG)

    def answer(i: int) -> list[int]:
        if i < 4:
            ready.wait()
        stream = greedy(model.for_sample(i), prompts[i], 12 + i, draft=DRAFT * (i % 2))
        list(stream)
        return ids_of(stream)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answer, range(8)))
    assert found == [plain.ids(prompt, 12 + i) for i, prompt in enumerate(prompts)]
    assert model.engine.passes < model.engine.sample_passes
    assert model.slots.taken == 0  # all are finished
    assert model.usage.completion_tokens == sum(range(12, 20))


def test_more_samples_than_rows_take_turns():
    model, plain = local(seed=7, samples=2), TokenByToken(KINDS["llama"](7), BYTE_LEVEL)
    streams = [greedy(model.for_sample(i), f"{i}. {PROMPT}", 6) for i in range(5)]
    for _ in range(6):
        for stream in streams:
            next(stream, None)  # several tokens at once, where an engine writes ahead
    assert [ids_of(stream) for stream in streams] == [plain.ids(f"{i}. {PROMPT}", 6) for i in range(5)]


@pytest.mark.parametrize(
    "tokenizers", [(BYTE_LEVEL, BYTE_LEVEL), (BYTE_LEVEL, BYTE_FALLBACK), (BYTE_FALLBACK, BYTE_LEVEL)]
)
def test_a_draft_model_changes_no_text(tokenizers):
    own, small = tokenizers
    drafter = local("gpt2", 8, small)
    model = local("llama", 8, own, drafter=drafter, draft_ahead=True)
    model.draft_rates["drafter"].length = lambda *_: 4
    model.draft_rates["lookup"].length = lambda *_: 0
    plain = TokenByToken(KINDS["llama"](8), own)
    for prompt in (PROMPT, "Why does the moon look larger? 😀"):
        stream = greedy(model, prompt, 25)
        list(stream)
        assert ids_of(stream) == plain.ids(prompt, 25)
    assert drafter.engine.passes and model.usage.requests == 2 and drafter.usage == Usage()


def test_a_draft_model_that_is_right_saves_passes(monkeypatch):
    """The model itself as its draft model: random ones agree with nobody else, and are certain of nothing."""
    monkeypatch.setattr("language_models.local.view.CERTAIN_LOGPROB", -math.inf)
    model = local("llama", 9, drafter=local("llama", 9), draft_ahead=True)
    model.draft_rates["drafter"].length = lambda *_: 4
    model.draft_rates["lookup"].length = lambda *_: 0
    stream = greedy(model, n=40)
    list(stream)
    assert ids_of(stream) == TokenByToken(KINDS["llama"](9), BYTE_LEVEL).ids(PROMPT, 40)
    assert model.engine.passes == 8 and model.draft_rates["drafter"].rate > 0.9


def test_drafting_costs_more_where_the_draft_models_passes_are_not_shared():
    """Of eight samples two share a pass of the draft model: a drafted token for all of them takes four passes."""
    model = local("llama", 9, drafter=local("llama", 10), draft_ahead=True)
    model.engine.samples_per_pass, model.drafter.engine.samples_per_pass = 8.0, 2.0
    model.drafter.engine.cost = lambda tokens: 0.01 if tokens == 2 else 1.0
    asked = []
    model.draft_rates["drafter"].length = lambda most, cost, rows, seconds_each: asked.append(seconds_each) or 0
    model.draft_rates["lookup"].length = lambda *_: 0
    next(greedy(model))
    assert asked == [pytest.approx(0.04)]


def test_what_is_drawn_follows_the_probabilities():
    model = local(seed=10, samples=8)
    logprobs = KINDS["llama"](10)(torch.tensor([BYTE_LEVEL(PROMPT)["input_ids"]])).logits[0, -1].log_softmax(-1)
    scaled = (logprobs / 3.0).softmax(-1)
    order = scaled.argsort(descending=True)
    nucleus = int((scaled[order].cumsum(-1) - scaled[order] < 0.5).sum())
    drawn: list[int] = []
    for i in range(400):
        stream = model.for_sample(i).stream(PROMPT, SamplingParams(1, temperature=3.0, top_p=0.5, logprobs=2))
        token = next(stream)
        drawn += ids_of(stream)
        # The log-probabilities are those of temperature 1.
        assert token.top[0][1] == pytest.approx(logprobs.max().item(), abs=1e-4)
    assert set(drawn) <= set(order[:nucleus].tolist()) and len(set(drawn)) > 1
    share = drawn.count(int(order[0])) / len(drawn)
    expected = (scaled[order[0]] / scaled[order[:nucleus]].sum()).item()
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(drawn)) ** 0.5)
    again = model.for_sample(7).stream(PROMPT, SamplingParams(9, temperature=1.0))
    assert [t.text for t in again] == [
        t.text for t in model.for_sample(7).stream(PROMPT, SamplingParams(9, temperature=1.0))
    ]


def test_texts_longer_than_the_first_cache():
    model, plain = local("llama", 11, samples=2), TokenByToken(KINDS["llama"](11), BYTE_LEVEL)
    text = (PROMPT + DRAFT) * 8
    assert 200 < len(BYTE_LEVEL(text)["input_ids"]) < 250
    stream = greedy(model, text, 60)
    list(stream)
    assert ids_of(stream) == plain.ids(text, 60) and model.memory > 0


@pytest.mark.parametrize("tokenizers", [(BYTE_LEVEL, BYTE_LEVEL), (OTHER, BYTE_LEVEL)], ids=["same", "different"])
def test_the_nudging_loop_and_the_baselines(tokenizers):
    """The loops on models with caches, drafts and a draft model, against the published calls without any."""
    base_tokenizer, small = tokenizers
    ends = frozenset({300, 301, 302})
    plain = [
        TokenByToken(KINDS["llama"](13), base_tokenizer, ends),
        TokenByToken(KINDS["gpt2"](13), small, ends),
        TokenByToken(KINDS["gpt2"](14), small, ends),
    ]
    drafter = local("gpt2", 13, small, end_ids=ends, draft_ahead=True)
    fast = [
        local("llama", 13, base_tokenizer, end_ids=ends, drafter=drafter, draft_ahead=True),
        drafter,
        local("gpt2", 14, small, end_ids=ends, draft_ahead=True),
    ]
    settings = NudgingSettings(top_prob_thres=0.5, max_token_total=32)
    for row in gsm8k_rows(1):
        prompts = row["question"], f"<|eot|>{row['question']}", row["question"]
        # Text of random models is seldom cut into the tokens that wrote it, so that more depends on how they are asked.
        for calls in ("published", "streamed"):
            expected = nudge(*plain[:2], *prompts[:2], settings, request_mode=calls)
            found = nudge(*(model.for_sample(calls) for model in fast[:2]), *prompts[:2], settings, request_mode=calls)
            assert found == expected and len(found.pieces) > 1
            for loop, n in ((average_ensemble, 2), (proxy_tuning, 3)):
                models = [model.for_sample(calls) for model in fast[:n]]
                options = {"max_token_total": 8, "request_mode": calls}
                assert loop(*models, *prompts[:n], **options) == loop(*plain[:n], *prompts[:n], **options)
