"""Parts of rewards: the preference head's file, unusual models, other tokenizers."""

import needs
import pytest

torch = needs.module("torch")

from tiny_models import SENTENCES, make_model, make_tokenizer, save, write_value_head  # noqa: E402
from transformers import Gemma2Config, Gemma2ForCausalLM  # noqa: E402

from language_models.interface import ModelError  # noqa: E402
from pad.cached_model import CachedModel  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.cross_tokenizer import CrossTokenizerReward  # noqa: E402
from pad.decoding import decode  # noqa: E402
from pad.implicit_reward import CandidateLogits, ImplicitReward  # noqa: E402
from pad.prompts import Prompt, decode_answer, encode, same_vocabulary  # noqa: E402
from pad.sequences import reads_branches  # noqa: E402
from pad.value_head import load_value_head  # noqa: E402

HOW = DecodingConfig(1.0, 10)


@pytest.fixture(scope="module")
def gemma():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 600}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "final_logit_softcapping": 2.0}
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, initializer_range=0.2, sliding_window=8)).eval()


@pytest.fixture(scope="module")
def tokenizers():
    return make_tokenizer(), make_tokenizer(SENTENCES[3:7], 450)


class TestPreferenceHeadFile:
    @pytest.fixture
    def folder(self, tmp_path):
        return save(tmp_path / "rm", make_model("llama", 2))

    def load(self, folder):
        said = []
        return load_value_head(str(folder), make_model("llama", 2), said.append), said[-1]

    def test_none_there(self, folder):
        head, said = self.load(folder)
        assert head is None and "no preference head" in said

    @pytest.mark.parametrize("kind", ["safetensors", "bin"])
    def test_both_forms(self, folder, kind):
        weight, bias = torch.randn(64, 64), torch.randn(64)
        if kind == "safetensors":
            write_value_head(folder, weight, bias)
        else:
            torch.save({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, folder / "value_head.bin")
        head, said = self.load(folder)
        assert torch.equal(head.weight, weight) and torch.equal(head.bias, bias) and not head.weight.requires_grad
        assert f"with the preference head {folder}/value_head.{kind}" in said

    def test_the_head_of_another_model(self, folder):
        write_value_head(folder, torch.randn(32, 32), torch.randn(32))
        with pytest.raises(ModelError, match=r"head of another model: \(32, 32\) and \(32,\), not 64 x 64"):
            self.load(folder)
        torch.save({"weight": torch.randn(64, 64)}, folder / "value_head.bin")
        (folder / "value_head.safetensors").unlink()
        with pytest.raises(ModelError, match="holds no 'v_head.summary.weight'"):
            self.load(folder)
        state = {"v_head.summary.weight": torch.zeros(64, 64), "v_head.summary.bias": torch.zeros(64)}
        torch.save(state | {"v_head.second.weight": torch.zeros(1)}, folder / "value_head.bin")
        with pytest.raises(ModelError, match=r"another kind of head: it also holds v_head\.second\.weight"):
            self.load(folder)
        (folder / "value_head.bin").write_bytes(b"no pickle")
        with pytest.raises(ModelError, match="cannot be read"):
            self.load(folder)


class TestCappedLogits:
    """Gemma 2 caps its logits: rows of its output matrix are not its logits."""

    def test_its_own_logits_are_taken(self, gemma):
        reward = CandidateLogits(gemma)
        assert not reward.projects
        ids, candidates = list(range(5, 25)), torch.tensor([[7, 300, 9]])
        with torch.inference_mode():
            reward.start([ids])
            torch.testing.assert_close(
                reward.logits(candidates)[0], gemma(torch.tensor([ids])).logits[0, -1][candidates[0]]
            )

    def test_a_preference_head_is_refused(self, gemma):
        with pytest.raises(ModelError, match="gemma2 scales its logits"):
            CandidateLogits(gemma, torch.nn.Linear(64, 64))

    def test_sliding_windows_in_batches(self, gemma):
        """Prompts beyond the window of 8 tokens, of unequal lengths."""
        lm = CachedModel(gemma)
        prompts = [Prompt(i, "", "", tuple(range(5, 25 + 5 * i))) for i in range(3)]
        together = decode(lm, None, prompts, DecodingConfig(0, 1), max_new=[12] * 3)
        for prompt, answer in zip(prompts, together, strict=True):
            ids = torch.tensor([prompt.ids])
            own = gemma.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, min_new_tokens=12
            )
            assert answer.tokens == own[0, ids.shape[1] :].tolist()


class TestCrossTokenizer:
    def prompts(self, tokenizers, texts):
        lm, rm = tokenizers
        return [Prompt(i, text, "", encode(lm, text, True), (), encode(rm, text, True)) for i, text in enumerate(texts)]

    def reward(self, model, tokenizers, reference="llm"):
        ends = [frozenset({1, tokenizer.convert_tokens_to_ids("<|eot|>")}) for tokenizer in tokenizers]
        return CrossTokenizerReward(CandidateLogits(model), *tokenizers, *ends, reference)

    def test_vocabularies_are_compared(self, tokenizers):
        lm, rm = tokenizers
        assert same_vocabulary(lm, make_tokenizer()) and not same_vocabulary(lm, rm)
        more = make_tokenizer()
        more.add_tokens(["<|extra|>"])
        assert same_vocabulary(lm, more) and not same_vocabulary(more, lm)

    def test_with_one_tokenizer_it_is_the_implicit_reward(self, tokenizers):
        """Sums over one token each: the two rewards differ by a constant of the step, so the answers are equal."""
        lm, rm, same = make_model("llama", 1), make_model("llama", 3), (tokenizers[0], tokenizers[0])
        prompts = self.prompts(same, ["A cat", "How do I bake bread?"])
        # Candidates that are part of a character, or special, get no preference here: the weight is small enough for them.
        words = [i for i in range(600) if tokenizers[0].decode([i]).isascii() and tokenizers[0].decode([i])]
        for reference in ("llm", "none"):
            cross, plain = self.reward(rm, same, reference), ImplicitReward(CandidateLogits(rm), reference)
            ids = torch.tensor([prompts[0].ids])
            with torch.inference_mode():
                cross.start(prompts[:1])
                plain.start(prompts[:1])
                for step in range(6):
                    candidates = torch.tensor([words[40 * step : 40 * step + 10]])
                    logits = lm(ids).logits[:, -1].gather(1, candidates)
                    one, other = (reward.rewards(candidates, logits)[0] for reward in (cross, plain))
                    # A text of several letters can have a shorter way to be written in the context of the answer.
                    own = [cross._sequences[0].pieces(c)[0] == [c] for c in candidates[0].tolist()]
                    difference = (one - other)[torch.tensor(own)]
                    assert len(difference) > 4
                    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=1e-4, atol=1e-4)
                    rank = torch.tensor([own.index(True)])
                    token = candidates[0, rank]
                    for reward in (cross, plain):
                        reward.advance(token, rank)
                    ids = torch.cat([ids, token[None]], 1)

    def test_the_sum_over_the_reward_models_tokens(self, tokenizers):
        """Against a whole forward pass over the reward model's tokens of prompt, answer and candidate."""
        lm, rm = make_model("llama", 1), make_model("llama", 3, vocabulary=450)
        [prompt] = self.prompts(tokenizers, ["Why does the moon look larger?"])
        cross, answer, read = self.reward(rm, tokenizers, "none"), [], []
        several = 0
        with torch.inference_mode():
            cross.start([prompt])
            for step in range(5):
                candidates = torch.arange(300 + 10 * step, 310 + 10 * step)
                found = cross.rewards(candidates[None], torch.zeros(1, 10))[0]
                expected = []
                for candidate in candidates.tolist():
                    before, text = (
                        decode_answer(tokenizers[0], prompt.ids, ids) for ids in (answer, [*answer, candidate])
                    )
                    pieces = tokenizers[1](text[len(before) :], add_special_tokens=False)["input_ids"]
                    several += len(pieces) > 1
                    whole = torch.tensor([[*prompt.rm_ids, *read, *pieces]])
                    logs = torch.log_softmax(rm(whole).logits[0], -1)
                    start = whole.shape[1] - len(pieces) - 1
                    expected.append(sum(logs[start + i, piece].item() for i, piece in enumerate(pieces)))
                torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
                rank = step % 10
                before = decode_answer(tokenizers[0], prompt.ids, answer)
                answer.append(candidates[rank].item())
                text = decode_answer(tokenizers[0], prompt.ids, answer)
                read += tokenizers[1](text[len(before) :], add_special_tokens=False)["input_ids"]
                cross.advance(candidates[rank : rank + 1], torch.tensor([rank]))
        assert several > 10 and lm is not rm

    def test_the_end_is_the_reward_models_end_and_parts_of_characters_get_the_mean(self, tokenizers):
        lm_tokenizer, rm_tokenizer = tokenizers
        rm = make_model("llama", 3, vocabulary=450)
        [prompt] = self.prompts(tokenizers, ["A cat"])
        cross = self.reward(rm, tokenizers, "none")
        byte = lm_tokenizer("é", add_special_tokens=False)["input_ids"]
        assert len(byte) == 2
        end = lm_tokenizer.convert_tokens_to_ids("<|eot|>")
        letters = (
            lm_tokenizer("a", add_special_tokens=False)["input_ids"]
            + lm_tokenizer("b", add_special_tokens=False)["input_ids"]
        )
        with torch.inference_mode():
            cross.start([prompt])
            found = cross.rewards(torch.tensor([[byte[0], end, *letters]]), torch.zeros(1, 4))[0]
            logs = torch.log_softmax(rm(torch.tensor([prompt.rm_ids])).logits[0, -1], -1)
            expected = [logs[1], *(logs[rm_tokenizer(c, add_special_tokens=False)["input_ids"][0]] for c in "ab")]
            torch.testing.assert_close(found[1:], torch.stack(expected), rtol=1e-4, atol=1e-4)
            assert found[0] == pytest.approx(found[1:].mean().item(), abs=1e-5)
            # The rest of the character follows: now its text counts.
            cross.advance(torch.tensor([byte[0]]), torch.tensor([0]))
            cross.rewards(torch.tensor([[byte[1], letters[0]]]), torch.zeros(1, 2))
            assert cross._sequences[0].texts[0] == "é"

    def test_batches_and_ends(self, tokenizers):
        lm, rm = make_model("llama", 1), make_model("llama", 3, vocabulary=450)
        prompts = self.prompts(tokenizers, ["A cat", "How do I bake bread?", "Who?"])

        def answers(prompts, limits):
            return decode(CachedModel(lm), self.reward(rm, tokenizers), prompts, HOW, max_new=limits)

        together = answers(prompts, [3, 12, 12])
        assert together == [answers([p], [n])[0] for p, n in zip(prompts, [3, 12, 12], strict=True)]
        assert together != decode(CachedModel(lm), None, prompts, HOW, max_new=[3, 12, 12])

    def test_models_without_tree_attention_are_refused(self, tokenizers, monkeypatch):
        assert all(reads_branches(CachedModel(make_model(kind, 3).base_model)) for kind in ("llama", "gpt2"))
        monkeypatch.setattr("pad.cross_tokenizer.reads_branches", lambda network: False)
        with pytest.raises(ModelError, match="no tree attention"):
            self.reward(make_model("llama", 3), tokenizers)


def test_answers_continue_the_text_of_their_prompt():
    """SentencePiece drops the space of a text's first token; after a prompt it is there."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = {"<s>": 0, "▁You": 1, "▁look": 2, "▁tired": 3, "!": 4}
    tokenizer = Tokenizer(models.BPE(pieces, []))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    assert tokenizer.decode([3, 4]) == "tired!"
    assert decode_answer(tokenizer, [0, 1, 2], [3, 4]) == " tired!"
