"""The decoding loop against the formulas of the methods, computed without a cache (E1 to E15 of the specification)."""

import needs
import pytest

torch = needs.module("torch")

from tiny_models import make_model, make_tokenizer  # noqa: E402

from pad.cached_model import CachedModel  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.decoding import Answer, decode, generator_for  # noqa: E402
from pad.implicit_reward import CandidateLogits, ImplicitReward  # noqa: E402
from pad.prompts import Prompt  # noqa: E402
from pad.scalar_reward import CopiesReward, TreeReward, UncachedReward, choose_scalar_reward  # noqa: E402

NEW = 16
TEXTS = [
    "How do I bake bread?",
    "Why does the moon look larger near the horizon, and who saw it first?",
    "A cat",
    "Every week the library lends two thousand books. Where do they go?",
    "Human: which river?",
]


@pytest.fixture(scope="module")
def models():
    """LM and RM of two architectures, and classifiers, all with one vocabulary."""
    kinds = {"llama": 1, "gpt2": 2, "llama_scorer": 4, "gpt2_scorer": 5}
    made = {kind: make_model(kind, seed) for kind, seed in kinds.items()}
    return made | {"llama_rm": make_model("llama", 3, layers=3), "gpt2_rm": make_model("gpt2", 6)}


@pytest.fixture(scope="module")
def prompts():
    tokenizer = make_tokenizer()
    return [
        Prompt(
            i, text, "Be kind. ", tuple(tokenizer("Be kind. " + text)["input_ids"]), tuple(tokenizer(text)["input_ids"])
        )
        for i, text in enumerate(TEXTS)
    ]


def config(weight=1.0, k=10, mode="greedy", **more) -> DecodingConfig:
    return DecodingConfig(weight, k, mode, **more)


def answers(lm, reward, prompts, how, new=NEW, **more) -> list[list[int]]:
    """Tokens of a batch, without an end."""
    options = {"max_new": [new] * len(prompts)} | more
    return [answer.tokens for answer in decode(CachedModel(lm), reward, prompts, how, **options)]


def one_by_one(lm, reward, prompts, how, **more) -> list[list[int]]:
    return [answers(lm, reward, [prompt], how, **more)[0] for prompt in prompts]


def generated(model, prompt, new=NEW) -> list[int]:
    """What transformers' own greedy search writes."""
    ids = torch.tensor([prompt.ids])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new
    )
    return out[0, ids.shape[1] :].tolist()


def implicit(rm, reference="llm", value_head=None) -> ImplicitReward:
    return ImplicitReward(CandidateLogits(rm, value_head), reference)


@torch.inference_mode()
def naive(lm, prompt, how, rewards, new=NEW) -> list[int]:
    """Equation 1 with rewards(ids, candidates, their logits), every step over the whole text."""
    ids = list(prompt.ids)
    for _ in range(new):
        scores, candidates = lm(torch.tensor([ids])).logits[0, -1].topk(how.topk)
        score = scores + how.rm_weight * rewards(ids, candidates, scores)
        ids.append(candidates[score.argmax()].item())
    return ids[len(prompt.ids) :]


def log_ratio(rm, reference=None):
    """Equation 3, or with another model in place of the base LM."""

    def rewards(ids, candidates, logits):
        q = rm(torch.tensor([ids])).logits[0, -1][candidates]
        below = logits if reference is None else reference(torch.tensor([ids])).logits[0, -1][candidates]
        return torch.log_softmax(q, -1) - torch.log_softmax(below, -1)

    return rewards


@pytest.fixture(params=["llama", "gpt2"])
def pair(request, models):
    return models[request.param], models[f"{request.param}_rm"]


class TestImplicitReward:
    def test_e1_weight_0_is_greedy_search(self, pair, prompts):
        lm, rm = pair
        assert one_by_one(lm, implicit(rm), prompts[:2], config(0)) == [generated(lm, p) for p in prompts[:2]]
        assert one_by_one(lm, None, prompts[:2], config(0)) == [generated(lm, p) for p in prompts[:2]]

    @pytest.mark.parametrize("weight", [-2.0, 0.5, 100.0])
    def test_e2_one_candidate_is_greedy_search(self, weight, pair, prompts):
        lm, rm = pair
        assert one_by_one(lm, implicit(rm), prompts[:2], config(weight, 1)) == [generated(lm, p) for p in prompts[:2]]

    def test_e3_weight_1_over_all_tokens_is_the_reward_models_greedy_search(self, pair, prompts):
        lm, rm = pair
        found = one_by_one(lm, implicit(rm), prompts[:2], config(1.0, 600))
        assert found == [generated(rm, p) for p in prompts[:2]] != [generated(lm, p) for p in prompts[:2]]

    @pytest.mark.parametrize("weight", [0.5, 1.5])
    def test_e4_e6_the_formula_without_a_cache(self, weight, pair, prompts):
        lm, rm = pair
        how = config(weight)
        assert one_by_one(lm, implicit(rm), prompts[:2], how) == [naive(lm, p, how, log_ratio(rm)) for p in prompts[:2]]

    def test_e5_interpolation_of_logits(self, pair, prompts):
        lm, rm = pair

        @torch.inference_mode()
        def interpolated(prompt, w):
            ids = list(prompt.ids)
            for _ in range(NEW):
                z, q = (model(torch.tensor([ids])).logits[0, -1] for model in (lm, rm))
                top, candidates = z.topk(10)
                ids.append(candidates[((1 - w) * top + w * q[candidates]).argmax()].item())
            return ids[len(prompt.ids) :]

        for w in (0.5, 1.0, 1.5):
            assert one_by_one(lm, implicit(rm), prompts[:1], config(w)) == [interpolated(prompts[0], w)]

    def test_e7_a_batch_of_unequal_lengths(self, pair, prompts):
        lm, rm = pair
        assert len({len(prompt.ids) for prompt in prompts}) == len(prompts)
        for reference in ("llm", "none", "self"):
            reward = implicit(rm, reference)
            assert answers(lm, reward, prompts, config(0.8)) == one_by_one(lm, reward, prompts, config(0.8))

    def test_e10_the_preference_head(self, pair, prompts):
        lm, rm = pair
        size = rm.config.hidden_size
        identity, other = torch.nn.Linear(size, size), torch.nn.Linear(size, size)
        torch.manual_seed(9)
        with torch.no_grad():
            identity.weight.copy_(torch.eye(size))
            identity.bias.zero_()
            other.weight.copy_(torch.eye(size) + 0.5 * torch.randn(size, size))
            other.bias.normal_()
        without = one_by_one(lm, implicit(rm), prompts[:2], config())
        assert one_by_one(lm, implicit(rm, value_head=identity), prompts[:2], config()) == without

        def with_head(ids, candidates, logits):
            hidden = rm.base_model(torch.tensor([ids]))[0][0, -1]
            q = rm.get_output_embeddings()(other(hidden))[candidates]
            return torch.log_softmax(q, -1) - torch.log_softmax(logits, -1)

        expected = [naive(lm, p, config(), with_head) for p in prompts[:2]]
        assert one_by_one(lm, implicit(rm, value_head=other), prompts[:2], config()) == expected != without

    def test_e11_logits_of_the_candidates_alone(self, pair, prompts):
        _, rm = pair
        logits = CandidateLogits(rm)
        assert logits.projects
        with torch.inference_mode():
            logits.start([prompts[0].ids])
            candidates = torch.randint(600, (1, 10))
            all_logits = rm(torch.tensor([prompts[0].ids])).logits[:, -1]
            torch.testing.assert_close(
                logits.logits(candidates), all_logits.gather(1, candidates), rtol=1e-5, atol=1e-5
            )

    def test_e12_references(self, pair, prompts):
        lm, rm = pair
        dpo_reference = make_model("llama", 11)

        def none(ids, candidates, logits):
            return torch.log_softmax(rm(torch.tensor([ids])).logits[0, -1][candidates], -1)

        def self_of(prompt):
            def rewards(ids, candidates, logits):
                plain = [*prompt.plain_ids, *ids[len(prompt.ids) :]]
                q, p = (rm(torch.tensor([text])).logits[0, -1][candidates] for text in (ids, plain))
                return torch.log_softmax(q, -1) - torch.log_softmax(p, -1)

            return rewards

        how, found = config(0.8), {}
        for name, reference, formula in (
            ("none", "none", lambda prompt: none),
            ("self", "self", self_of),
            ("path", CandidateLogits(dpo_reference), lambda prompt: log_ratio(rm, dpo_reference)),
        ):
            found[name] = answers(lm, implicit(rm, reference), prompts[:3], how)
            assert found[name] == [naive(lm, p, how, formula(p)) for p in prompts[:3]], name
        found["llm"] = answers(lm, implicit(rm), prompts[:3], how)
        assert len({str(tokens) for tokens in found.values()}) == 4

    def test_e13_an_adapter_switched_off_is_the_base_model(self, prompts):
        peft = needs.module("peft")
        lm, base, rm = make_model("llama", 1), make_model("llama", 3), make_model("llama", 3)
        torch.manual_seed(5)
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapter = peft.get_peft_model(rm, lora).eval()
        how = config(0.8)
        off = implicit(rm, CandidateLogits(rm, without=adapter))
        found = answers(lm, off, prompts[:3], how)
        assert found == answers(lm, implicit(rm, CandidateLogits(base)), prompts[:3], how)
        assert found == [naive(lm, p, how, log_ratio(rm, base)) for p in prompts[:3]]
        assert found != answers(lm, implicit(base, CandidateLogits(base)), prompts[:3], how)


def of_classifier(classifier):
    """The reward of ARGS by the classifier's own forward pass."""

    def rewards(ids, candidates, logits):
        return torch.stack([classifier(torch.tensor([[*ids, c]])).logits[0, 0] for c in candidates.tolist()])

    return rewards


@pytest.fixture(params=["llama", "gpt2"])
def scored(request, models):
    return models["llama"], models[f"{request.param}_scorer"]


class TestScalarReward:
    def test_e8_tree_copies_and_classifier_agree(self, scored, prompts):
        lm, classifier = scored
        how = config(1.5)
        expected = [naive(lm, p, how, of_classifier(classifier)) for p in prompts[:2]]
        assert expected != [generated(lm, p) for p in prompts[:2]]
        for kind in (TreeReward, CopiesReward, UncachedReward):
            assert one_by_one(lm, kind(classifier), prompts[:2], how) == expected, kind.__name__
        assert choose_scalar_reward(classifier) is TreeReward

    @pytest.mark.parametrize("kind", [TreeReward, CopiesReward, UncachedReward])
    def test_e7_a_batch_of_unequal_lengths(self, kind, scored, prompts):
        lm, classifier = scored
        assert answers(lm, kind(classifier), prompts, config(1.5)) == one_by_one(
            lm, kind(classifier), prompts, config(1.5)
        )

    @pytest.mark.parametrize("kind", [TreeReward, CopiesReward, UncachedReward])
    def test_e9_chunks_of_candidates(self, kind, scored, prompts):
        lm, classifier = scored
        whole = answers(lm, TreeReward(classifier), prompts[:3], config(1.5), new=8)
        for chunk in (1, 3, 10):
            assert answers(lm, kind(classifier, chunk), prompts[:3], config(1.5), new=8) == whole

    def test_an_encoder_reads_the_whole_text(self, models, prompts):
        encoder = make_model("distilbert", 8, num_labels=1)
        said = []
        assert choose_scalar_reward(encoder, said.append) is UncachedReward and "slow" in said[0]
        how = config(1.5)
        expected = [naive(models["llama"], p, how, of_classifier(encoder), new=8) for p in prompts[:2]]
        assert answers(models["llama"], UncachedReward(encoder), prompts[:2], how, new=8) == expected

    def test_sliding_windows_have_no_tree_attention(self, models, prompts):
        """Their caches drop early positions; beyond the window of 8 tokens copies of the cache are right."""
        from transformers import MistralConfig, MistralForSequenceClassification

        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        more = {"vocab_size": 600, "intermediate_size": 128, "sliding_window": 8, "initializer_range": 0.2}
        torch.manual_seed(3)
        options = sizes | more | {"num_labels": 1, "pad_token_id": None, "eos_token_id": None}
        classifier = MistralForSequenceClassification(MistralConfig(**options)).eval()
        said, how = [], config(1.5)
        assert choose_scalar_reward(classifier, said.append) is CopiesReward and "copied" in said[0]
        expected = [naive(models["llama"], p, how, of_classifier(classifier), new=10) for p in prompts[:2]]
        assert answers(models["llama"], CopiesReward(classifier), prompts[:2], how, new=10) == expected

    @pytest.mark.parametrize("kind", ["opt", "gpt_neox", "qwen2"])
    def test_other_backbones(self, kind, models, prompts):
        from transformers import AutoConfig, AutoModelForSequenceClassification

        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 600}
        more = {"opt": {"ffn_dim": 128, "word_embed_proj_dim": 64}, "gpt_neox": {"intermediate_size": 128}}
        more["qwen2"] = {"intermediate_size": 128, "num_key_value_heads": 2}
        spread = {"init_std": 0.2} if kind == "opt" else {"initializer_range": 0.2}
        options = sizes | more[kind] | spread | {"num_labels": 1, "pad_token_id": 1, "max_position_embeddings": 256}
        torch.manual_seed(3)
        classifier = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **options)).eval()
        assert choose_scalar_reward(classifier) is TreeReward
        how = config(1.5)
        expected = [naive(models["llama"], p, how, of_classifier(classifier), new=10) for p in prompts[:2]]
        assert answers(models["llama"], TreeReward(classifier), prompts[:2], how, new=10) == expected


class TestSampling:
    @pytest.fixture(params=["implicit", "scalar"])
    def reward(self, request, models):
        return implicit(models["llama_rm"]) if request.param == "implicit" else TreeReward(models["llama_scorer"])

    def sampled(self, lm, reward, prompts, seed=0, batch=None, **more):
        how = config(0.8, mode="topk", **more)
        batch, found = batch or len(prompts), []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            generators = [generator_for(seed, 0, prompt.index) for prompt in part]
            found += answers(lm, reward, part, how, generators=generators)
        return found

    def test_e14_the_seed_decides_alone(self, reward, models, prompts):
        lm = models["llama"]
        found = self.sampled(lm, reward, prompts, sample_temp=1.5)
        assert found == self.sampled(lm, reward, prompts, sample_temp=1.5, batch=1)
        assert found == self.sampled(lm, reward, prompts, sample_temp=1.5, batch=2)
        assert found[2:] == self.sampled(lm, reward, prompts[2:], sample_temp=1.5)  # resumed
        assert found != self.sampled(lm, reward, prompts, sample_temp=1.5, seed=1)

    def test_e14_at_low_temperature_the_best(self, reward, models, prompts):
        lm = models["llama"]
        for temperature in (1e-4, 1e-300):
            found = self.sampled(lm, reward, prompts, sample_temp=temperature)
            assert found == answers(lm, reward, prompts, config(0.8))

    def test_e14_frequencies_of_one_step(self, models, prompts):
        """Chi-square of 4,000 draws against softmax((zC + w r) / tau), 9 degrees of freedom: 27.9 is the 99.9 % quantile."""
        lm, rm, draws, how = models["llama"], models["llama_rm"], 4000, config(0.8, mode="topk", sample_temp=2.0)
        ids = torch.tensor([prompts[0].ids])
        with torch.inference_mode():
            top, candidates = lm(ids).logits[0, -1].topk(10)
            scores = top + 0.8 * log_ratio(rm)(list(prompts[0].ids), candidates, top)
        expected = draws * torch.softmax(scores / 2.0, -1)
        found = []
        for start in range(0, draws, 500):
            generators = [generator_for(0, 0, i) for i in range(start, start + 500)]
            batch = answers(lm, implicit(rm), [prompts[0]] * 500, how, new=1, generators=generators)
            found += [tokens[0] for tokens in batch]
        counts = torch.tensor([found.count(c) for c in candidates.tolist()])
        assert counts.sum() == draws
        assert ((counts - expected) ** 2 / expected).sum() < 27.9


class TestEnds:
    def test_e15_rows_end_by_themselves(self, models, prompts):
        """A stop id that rows write at different places cuts each there; without stop ids all go on."""
        lm, how = models["llama"], config(0.8)
        for reward in (None, implicit(models["llama_rm"]), implicit(models["llama_rm"], "self")):
            whole = answers(lm, reward, prompts, how)
            self.check(lm, reward, prompts, how, whole)
        for kind in (TreeReward, CopiesReward, UncachedReward):
            reward = kind(models["llama_scorer"])
            self.check(lm, reward, prompts, how, answers(lm, reward, prompts, how))

    @staticmethod
    def check(lm, reward, prompts, how, whole):
        # Tokens at which the rows end one after the other.
        stop = frozenset(tokens[3 * i + 2] for i, tokens in enumerate(whole[:4]))
        limits = [NEW, NEW, NEW, NEW, 5]
        found = decode(CachedModel(lm), reward, prompts, how, max_new=limits, stop_ids=stop)
        for answer, tokens, limit in zip(found, whole, limits, strict=True):
            cut = next((i for i, token in enumerate(tokens) if token in stop), None)
            ended = cut is not None and cut < limit
            assert answer == Answer(tokens[: cut if ended else limit], "stop" if ended else "length")
        assert len({len(answer.tokens) for answer in found}) > 2
        assert all(len(tokens) == NEW for tokens in whole)

    def test_ended_rows_do_not_pass_the_last_position(self, prompts):
        """GPT-2 has a table of positions: a row near its end must not run over it while others go on."""
        lm, rm = make_model("gpt2", 2, context=64), make_model("gpt2", 6, context=64)
        long = Prompt(9, "", "", tuple(range(5, 65)), tuple(range(5, 65)))
        batch = [long, *prompts[2:3], *prompts[4:5]]
        limits = [4, NEW, NEW]
        found = decode(CachedModel(lm), implicit(rm), batch, config(0.8), max_new=limits)
        alone = [
            decode(CachedModel(lm), implicit(rm), [p], config(0.8), max_new=[n])[0]
            for p, n in zip(batch, limits, strict=True)
        ]
        assert found == alone
