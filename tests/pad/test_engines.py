"""Reward-guided decoding on the engines: the texts of transformers' own passes, and trees of tokens."""

import needs
import pytest

torch = needs.module("torch")

import functools  # noqa: E402
import json  # noqa: E402

from collect_runs import collect, options, rows_of  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from local_models import gemma, gemma2  # noqa: E402
from pad_engines import ENGINES, on_engine  # noqa: E402
from tiny_models import SENTENCES, make_model, make_tokenizer  # noqa: E402
from transformers import MistralConfig, MistralForSequenceClassification  # noqa: E402

from language_models.interface import ModelError  # noqa: E402
from language_models.local.engines import ENGINES as ENGINE_CLASSES  # noqa: E402
from language_models.local.segments import MOST_IN_TREE  # noqa: E402
from pad.cached_model import CachedModel  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.cross_tokenizer import CrossTokenizerReward  # noqa: E402
from pad.decoding import decode, generator_for  # noqa: E402
from pad.engine_sequences import _parts  # noqa: E402
from pad.implicit_reward import CandidateLogits, ImplicitReward  # noqa: E402
from pad.prompts import Prompt, encode  # noqa: E402
from pad.scalar_reward import CopiesReward, TreeReward, make_scalar_reward  # noqa: E402
from pad.sequences import SequenceMaker  # noqa: E402

NEW, HOW = 8, DecodingConfig(0.8, 10)
LIMITS = [NEW, 3, NEW, 5, NEW]  # rows end one after the other
PROMPTS = [Prompt(i, "", "", tuple(range(5, 5 + n)), tuple(range(9, 5 + n))) for i, n in enumerate((12, 7, 24, 9, 17))]


def sliding_mistral():
    """A classifier whose layers see the last eight tokens."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"vocab_size": 600, "intermediate_size": 128, "sliding_window": 8, "initializer_range": 0.2}
    torch.manual_seed(3)
    config = MistralConfig(**sizes, **more, num_labels=1, pad_token_id=None, eos_token_id=None)
    return MistralForSequenceClassification(config).eval()


BACKBONES = {
    "llama": lambda: make_model("llama", 3).base_model,
    "gpt2": lambda: make_model("gpt2", 6).base_model,
    "gemma": lambda: gemma(4).base_model,
    "gemma2": lambda: gemma2(4).base_model,
    "mistral": lambda: sliding_mistral().base_model,
}


@functools.cache
def model(kind: str, seed: int):
    return (
        {"gemma": gemma, "mistral": lambda seed: sliding_mistral()}[kind](seed)
        if kind
        in (
            "gemma",
            "mistral",
        )
        else make_model(kind, seed)
    )


@functools.cache
def base_lm(kind: str):
    """The base LM: sequences keep nothing from one answer to the next."""
    return CachedModel(model("llama", 1)) if kind == "transformers" else on_engine(kind, model("llama", 1))


def answers(kind: str, reward, how=HOW, prompts=PROMPTS, **more):
    options = {"max_new": LIMITS[: len(prompts)]} | more
    return decode(base_lm(kind), reward, prompts, how, **options)


def logits_of(kind: str, network, head=None, rows: int = 1) -> CandidateLogits:
    made = CandidateLogits(network, head)
    if kind != "transformers":
        made.use(lambda backbone: on_engine(kind, backbone, slots=5 * rows, trees=made.projects))
    return made


@pytest.fixture(params=ENGINES)
def kind(request):
    return request.param


class TestTexts:
    """Those of transformers' own passes, which other tests hold against the methods' formulas."""

    def both(self, kind, make, **more):
        found, expected = (answers(which, make(which), **more) for which in (kind, "transformers"))
        assert found == expected and len({len(answer.tokens) for answer in found}) > 1
        return found

    @pytest.mark.parametrize("rm", ["gpt2", "gemma"])
    def test_pad(self, kind, rm):
        found = self.both(kind, lambda which: ImplicitReward(logits_of(which, model(rm, 3))))
        assert found != answers(kind, None)

    def test_pad_relative_to_itself_without_the_preference_text(self, kind):
        self.both(kind, lambda which: ImplicitReward(logits_of(which, model("llama", 3), rows=2), "self"))

    def test_pad_with_a_preference_head_and_another_reference(self, kind):
        torch.manual_seed(9)
        head = torch.nn.Linear(64, 64)
        torch.nn.init.normal_(head.weight, std=0.3)
        reference = model("llama", 11)
        self.both(
            kind,
            lambda which: ImplicitReward(
                logits_of(which, model("llama", 3), head.requires_grad_(False)), logits_of(which, reference)
            ),
        )

    @pytest.mark.parametrize(("scorer", "chunk"), [("llama_scorer", None), ("gpt2_scorer", 3)])
    def test_args(self, kind, scorer, chunk):
        """Greedy, and drawn with the same random numbers."""

        def reward(which):
            classifier = model(scorer, 4)
            states = None if which == "transformers" else on_engine(which, classifier.base_model, trees=True)
            return TreeReward(classifier, chunk, states=states)

        self.both(kind, reward, how=DecodingConfig(1.5, 10))
        if chunk is None:
            generators = {which: [generator_for(0, 0, i) for i in range(5)] for which in (kind, "transformers")}
            how = DecodingConfig(1.5, 10, "topk", sample_temp=1.5)
            found = [answers(which, reward(which), how, generators=given) for which, given in generators.items()]
            assert found[0] == found[1] != answers(kind, reward(kind), DecodingConfig(1.5, 10))

    def test_more_candidates_than_a_tree_has_room_for(self, kind):
        classifier, k = model("llama_scorer", 4), MOST_IN_TREE + 40
        how, new = DecodingConfig(1.5, k), {"max_new": [4, 3, 2], "prompts": PROMPTS[:3]}
        states = on_engine(kind, classifier.base_model, trees=True)
        found = answers(kind, TreeReward(classifier, states=states), how, **new)
        assert found == answers("transformers", TreeReward(classifier), how, **new)
        assert states.passes == 1 + 4 * 2

    def test_sliding_windows_have_trees_here(self, kind):
        """Without an engine the cache is copied for every candidate, since it drops what a branch needs."""
        classifier = model("mistral", 3)
        states = on_engine(kind, classifier.base_model, trees=True)
        found = answers(kind, TreeReward(classifier, states=states), prompts=PROMPTS[:3])
        assert found == answers("transformers", CopiesReward(classifier), prompts=PROMPTS[:3])

    @pytest.mark.parametrize("reference", ["llm", "none"])
    def test_another_tokenizer(self, kind, reference):
        lm, rm = make_tokenizer(), make_tokenizer(SENTENCES[3:7], 450)
        texts = ["A cat", "How do I bake bread?", "Who?"]
        prompts = [Prompt(i, t, "", encode(lm, t, True), (), encode(rm, t, True)) for i, t in enumerate(texts)]
        network = make_model("llama", 3, vocabulary=450)

        def reward(which):
            ends = [frozenset({1, tokenizer.convert_tokens_to_ids("<|eot|>")}) for tokenizer in (lm, rm)]
            return CrossTokenizerReward(logits_of(which, network), lm, rm, *ends, reference)

        self.both(kind, reward, prompts=prompts)

    def test_an_adapter_switched_off_is_the_base_model(self, kind):
        """An engine of each state: policy with the adapter, reference without."""
        peft = needs.module("peft")
        rm = make_model("llama", 3)
        torch.manual_seed(5)
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapter = peft.get_peft_model(rm, lora).eval()
        expected = answers("transformers", ImplicitReward(CandidateLogits(rm), CandidateLogits(rm, without=adapter)))
        maker = SequenceMaker(kind, 5, 100, lambda line: None)
        policy, reference = CandidateLogits(rm), CandidateLogits(rm, without=adapter)
        for logits in (policy, reference):
            logits.use(lambda network: maker.make(network, "the reward model"))
            assert logits.states.kind == kind
        assert answers(kind, ImplicitReward(policy, reference)) == expected
        assert expected != answers(kind, ImplicitReward(policy))

    def test_ended_rows_that_run_along_stay_inside_the_context(self, kind):
        """The base LM's passes are transformers' own: a row of the reward model goes on behind its end, up to the last position."""
        lm, rm = (make_model("gpt2", seed, context=64) for seed in (2, 6))
        batch = [Prompt(9, "", "", tuple(range(5, 65))), *PROMPTS[:2]]
        found = []
        for which in (kind, "transformers"):
            reward = ImplicitReward(logits_of(which, rm))
            found.append(decode(CachedModel(lm), reward, batch, DecodingConfig(0.8, 10), max_new=[4, 10, 10]))
        assert found[0] == found[1]

    def test_passes_are_those_of_the_methods(self, kind):
        """PAD: one of each model per token. ARGS: a tree of the chosen token and k candidates of each prompt."""
        lm, prompts = base_lm(kind), PROMPTS[:2]
        lm.engine.reset_counts()
        policy, classifier = logits_of(kind, model("llama", 3)), model("llama_scorer", 4)
        states = on_engine(kind, classifier.base_model, trees=True)
        read = sum(len(prompt.ids) for prompt in prompts)
        for reward in (ImplicitReward(policy), TreeReward(classifier, states=states)):
            answers(kind, reward, prompts=prompts, max_new=[6, 6])
        assert (lm.passes, lm.tokens) == (2 * 6, 2 * (read + 2 * 5))
        assert (policy.states.passes, policy.states.tokens) == (6, read + 2 * 5)
        assert (states.passes, states.tokens) == (1 + 6, read + 2 * 10 + 5 * 2 * 11)


trees = st.integers(1, 12).flatmap(lambda m: st.tuples(*(st.integers(-1, n - 1) for n in range(m))))


@functools.cache
def backbone(kind: str, name: str):
    return on_engine(kind, BACKBONES[name](), slots=3, trees=True)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", BACKBONES)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_outputs_of_a_tree_are_those_of_each_branch_by_itself(kind, name, data):
    """In rows of different lengths, behind tokens that were kept and are not in the cache yet."""
    states = backbone(kind, name)
    parents = list(data.draw(trees))
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    ids = torch.randint(2, 600, (3, 80), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    prompts = [row[:n].tolist() for row, n in zip(ids, lengths, strict=False)]
    tokens = ids[: len(prompts), 40 : 40 + len(parents)]
    kept = data.draw(st.integers(0, 2))
    states.prefill(prompts)
    if kept:
        first = ids[: len(prompts), 70 : 70 + kept]
        states.branch(first, list(range(-1, kept - 1)))
        states.keep(torch.arange(kept).expand(len(prompts), -1))
        prompts = [prompt + more for prompt, more in zip(prompts, first.tolist(), strict=True)]
    found = states.branch(tokens, parents).clone()
    assert found.shape[:2] == tokens.shape
    for number in range(len(parents)):
        line, at = [], number
        while at >= 0:
            line.insert(0, at)
            at = parents[at]
        alone = states.prefill([prompt + row[line].tolist() for prompt, row in zip(prompts, tokens, strict=True)])
        torch.testing.assert_close(found[:, number], alone, rtol=1e-4, atol=1e-4)


@given(
    parents=st.integers(1, 60).flatmap(lambda m: st.tuples(*(st.integers(-1, n - 1) for n in range(m)))),
    most=st.integers(1, 20),
)
def test_parts_of_a_tree(parents, most):
    parts = [list(part) for part in _parts(list(parents), most)]
    assert set().union(*parts) == set(range(len(parents)))
    for part in parts:
        assert part == sorted(set(part))
        assert all(parents[n] in {-1, *part} for n in part)
        straight = all(parents[n] == before for before, n in zip([-1, *part], part, strict=False))
        assert len(part) <= most or straight


class TestRefusals:
    def test_an_encoder_has_no_engine(self, kind):
        said = []
        encoder = make_model("distilbert", 8, num_labels=1)
        maker = SequenceMaker(kind, 2, 50, said.append)
        reward = make_scalar_reward(encoder, lambda network: maker.make(network, "the reward model"), said.append)
        assert reward.states.kind == "transformers" and "cannot use a cache" in said[-1]

    @pytest.mark.parametrize("fault", ["refused", "memory", "trees"])
    def test_transformers_own_passes_take_over(self, kind, fault, monkeypatch):
        """And the model is as it was."""

        def fail(*args, **more):
            raise {"refused": ModelError("no"), "memory": torch.OutOfMemoryError("no")}[fault]

        if fault == "trees":
            monkeypatch.setattr("pad.sequences.reads_branches", lambda states: False)
        else:
            monkeypatch.setattr("pad.sequences.make_engine", fail)
        said, classifier = [], make_model("llama_scorer", 4)
        maker = SequenceMaker(kind, 5, 100, said.append)
        reward = make_scalar_reward(
            classifier, lambda network: maker.make(network, "the reward model", trees=True), said.append
        )
        assert type(reward) is TreeReward and reward.states.kind == "transformers"
        [line] = said
        assert line.startswith(f"the reward model is run by transformers' own passes, not by the engine {kind!r}: ")
        found = answers("transformers", reward, prompts=PROMPTS[:2])
        assert found == answers("transformers", TreeReward(model("llama_scorer", 4)), prompts=PROMPTS[:2])


class TestCommand:
    """collect_model_outs.py --engine."""

    @pytest.mark.parametrize(("kind", "rm"), [("packed", "rm"), ("graphs", "classifier")])
    def test_answers_are_the_same_and_the_engine_is_told(self, kind, rm, tiny, pad_folder, capsys):
        texts = {}
        for engine in (kind, "auto"):
            words = options(tiny, "--engine", engine, "--batch_size", 3, rm=rm, out=f"out/{engine}")
            assert collect(*words) == 0
            texts[engine] = [row["result"] for row in rows_of(pad_folder / f"out/{engine}_0.jsonl")]
            told = json.loads((pad_folder / f"out/{engine}_0.meta.json").read_text())["sessions"][-1]["models"]
            by = "transformers" if engine == "auto" else kind
            assert {name: found["engine"] for name, found in told.items()} == {"llm": by, "rm": by}
            assert all(found["passes"] >= 12 and found["tokens"] > found["passes"] for found in told.values())
            name = {"graphs": "fixed sizes, no CUDA graphs"}.get(by, by)
            assert f"; forward passes: llm {told['llm']['passes']} ({name}), rm " in capsys.readouterr().out
        assert texts[kind] == texts["auto"]

    @pytest.mark.parametrize(("kind", "error"), [("packed", "memory"), ("graphs", "pass")])
    def test_no_memory_for_a_pass_names_the_option_of_this_command(
        self, kind, error, tiny, pad_folder, monkeypatch, capsys
    ):
        def fail(self, segments):
            if len(segments) < 3:
                return own(self, segments)
            if error == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            raise ModelError("a forward pass of X failed (out of memory); if memory is short, lower --num_threads")

        own = ENGINE_CLASSES[kind].outputs
        monkeypatch.setattr(ENGINE_CLASSES[kind], "outputs", fail)
        assert collect(*options(tiny, "--engine", kind, "--batch_size", 3)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "lower --batch_size" in lines[-1] and "--num_threads" not in lines[-1] and "Traceback" not in str(lines)

    def test_what_did_not_go_well_in_a_pass_is_told_once(self, tiny, pad_folder, monkeypatch, capsys):
        def told(self, segments):
            if "memory is short" not in self.fallbacks and segments[0].start:
                self.fallbacks.append("memory is short")
            return own(self, segments)

        own = ENGINE_CLASSES["packed"].outputs
        monkeypatch.setattr(ENGINE_CLASSES["packed"], "outputs", told)
        assert collect(*options(tiny, "--engine", "packed")) == 0
        assert capsys.readouterr().err.count("memory is short") == 1
        told = json.loads((pad_folder / "out/x_0.meta.json").read_text())["sessions"][-1]["models"]
        assert told["llm"]["fallbacks"] == ["memory is short"]
