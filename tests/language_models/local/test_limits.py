"""What a model in this process cannot do, and how it says so."""

from concurrent.futures import ThreadPoolExecutor

import needs
import pytest

torch = needs.module("torch")

from local_models import BYTE_LEVEL, DRAFT, KINDS, PROMPT, TokenByToken, greedy, ids_of, local  # noqa: E402
from tiny_models import make_model, make_tokenizer, save  # noqa: E402
from transformers import (  # noqa: E402
    BloomConfig,
    BloomForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
)

from language_models.interface import ContextLengthError, ModelError, SamplingParams  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402


def test_the_context_window():
    model = local(context_length=64)
    room = 64 - len(BYTE_LEVEL(PROMPT)["input_ids"])
    assert len(list(greedy(model, n=room, draft=DRAFT * 9))) == room
    for ask in (model.complete, model.stream):
        with pytest.raises(ContextLengthError, match=f"{64 - room} tokens and {room + 1} more .* 64 tokens"):
            ask(PROMPT, SamplingParams(room + 1))


def test_architectures_that_cannot_be_run_here():
    model = BloomForCausalLM(BloomConfig(vocab_size=600, hidden_size=32, n_layer=1, n_head=2, initializer_range=0.2))
    with pytest.raises(ModelError, match="BloomForCausalLM cannot be run by run_api.py itself; serve the model"):
        LocalModel("bloom", model.eval(), BYTE_LEVEL, end_ids=frozenset(), context_length=64)


def test_attention_with_more_than_is_known_is_refused_in_every_number_format():
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    layers = {"num_hidden_layers": 2, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(
        vocab_size=600, **sizes, **layers, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    model = GptOssForCausalLM(config).eval().to(torch.bfloat16)  # so coarse that the check of the logits sees nothing
    with pytest.raises(ModelError, match="GptOssForCausalLM cannot be run by run_api.py itself"):
        LocalModel("sinks", model, BYTE_LEVEL, end_ids=frozenset(), context_length=64)


def test_tokens_without_an_embedding():
    """Such as Gemma's for images; and models of one tokenizer that differ in how many ids they have."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<picture>"])
    drafter, model = local(seed=15, tokenizer=tokenizer), local(seed=15, tokenizer=tokenizer)
    with pytest.raises(
        ModelError, match=r"'<picture>' \(id 600\), for which the model, of 600 tokens, has no embedding"
    ):
        greedy(model, PROMPT + "<picture>")
    expected = TokenByToken(KINDS["llama"](15), tokenizer).ids(PROMPT, 9)
    stream = greedy(model, n=9, draft=" a<picture>")
    assert len(list(stream)) == 9 and ids_of(stream) == expected
    model = local(seed=15, tokenizer=tokenizer, drafter=drafter, draft_ahead=True)
    model.draft_rates["drafter"].length = lambda *_: 4
    model.draft_rates["lookup"].length = lambda *_: 0
    drafter.engine.vocabulary_size = max(tokenizer(PROMPT)["input_ids"])
    stream = greedy(model, n=9)
    assert len(list(stream)) == 9 and ids_of(stream) == expected and drafter.engine.passes == 0


def test_no_memory_for_the_first_passes(monkeypatch, tmp_path):
    def short_of_memory(engine):
        raise torch.OutOfMemoryError("not enough memory\nand more")

    monkeypatch.setattr("language_models.local.packed_engine.PackedEngine.measure", short_of_memory)
    with pytest.raises(ModelError, match=r"on cpu failed \(not enough memory\); if memory is short, lower --num_thr"):
        LocalModel.load(str(save(tmp_path / "llama", make_model("llama", 1))), device="cpu")


def test_a_pass_that_fails_is_an_error_of_its_sample_alone(monkeypatch):
    model = local(seed=12, samples=2)
    run = model.engine.run

    def short_of_memory(segments):
        if any(7 in segment.tokens for segment in segments):
            raise RuntimeError("not enough memory: you tried to allocate")
        return run(segments)

    monkeypatch.setattr(model.engine, "run", short_of_memory)
    sick = BYTE_LEVEL.decode([7, 7, 7])
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(lambda p=p: list(greedy(model.for_sample(p), p, 5))) for p in (PROMPT, PROMPT + sick)]
    assert len(found[0].result()) == 5
    with pytest.raises(ModelError, match=r"not enough memory.*lower --num_threads"):
        found[1].result()
