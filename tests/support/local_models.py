"""Tiny random models in this process, and the same ones run token by token without any cache. The caller has torch."""

from collections.abc import Iterator

import torch
import transformers
from tiny_models import SENTENCES, byte_fallback_tokenizer, make_model, make_tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
)

from language_models.interface import Completion, SamplingParams, Token, Usage
from language_models.local.model import LocalModel
from language_models.local.vocabulary import Vocabulary

# The engine of the tests that do not name one.
ENGINE = "auto"
PROMPT = "How do I bake bread without an oven?"
DRAFT = " Use a pan with a lid, and turn the loaf 😀 after twenty minutes."


def gemma(seed: int):
    """Two kinds of layers: every second one sees the last eight tokens only."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "num_hidden_layers": 2}
    config = Gemma3TextConfig(vocab_size=600, initializer_range=0.2, max_position_embeddings=512, **sizes, **kinds)
    return Gemma3ForCausalLM(config).eval()


def gemma2(seed: int):
    """Scores of the attention are capped, so low that it shows."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    layers = {"num_hidden_layers": 2, "head_dim": 16, "sliding_window": 8, "attn_logit_softcapping": 1.0}
    config = Gemma2Config(vocab_size=600, initializer_range=0.2, max_position_embeddings=512, **sizes, **layers)
    return Gemma2ForCausalLM(config).eval()


def _tiny(config_class: str, model_class: str, **more):
    """A maker of tiny models of an architecture of transformers, by the names of its classes."""

    def make(seed: int):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
        special = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2}
        config = getattr(transformers, config_class)(
            **({"vocab_size": 600, "max_position_embeddings": 512} | sizes | special | more)
        )
        return getattr(transformers, model_class)(config).eval()

    return make


GROUPED = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 8}
KINDS = {
    "llama": lambda seed: make_model("llama", seed),
    "gpt2": lambda seed: make_model("gpt2", seed),
    "gemma": gemma,
    "gemma2": gemma2,
}
# Further architectures, for the tests of passes alone; most others loop over KINDS.
ARCHITECTURES = KINDS | {
    "qwen2": _tiny("Qwen2Config", "Qwen2ForCausalLM", **GROUPED),
    "qwen2 windows": _tiny(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        use_sliding_window=True,
        layer_types=["full_attention", "sliding_attention"],
        **GROUPED,
        **WINDOW,
    ),
    "qwen3": _tiny("Qwen3Config", "Qwen3ForCausalLM", head_dim=24, **GROUPED),
    "mistral": _tiny("MistralConfig", "MistralForCausalLM", **GROUPED, **WINDOW),
    "olmo": _tiny("OlmoConfig", "OlmoForCausalLM", clip_qkv=2.0),
    "olmo2": _tiny("Olmo2Config", "Olmo2ForCausalLM", **GROUPED),
    "olmo3": _tiny("Olmo3Config", "Olmo3ForCausalLM", **GROUPED, **WINDOW),
    "phi3": _tiny("Phi3Config", "Phi3ForCausalLM", **GROUPED, **WINDOW),
    "gpt_neox": _tiny("GPTNeoXConfig", "GPTNeoXForCausalLM"),
    "tied llama": _tiny("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, attention_bias=True),
}
BYTE_LEVEL, BYTE_FALLBACK = make_tokenizer(), byte_fallback_tokenizer()
OTHER = make_tokenizer([sentence[::-1] for sentence in SENTENCES])


class TokenByToken:
    """A language model without any of what makes the other one fast: every token is one pass over the whole text."""

    name, runs_ahead = "plain", False

    def __init__(self, model, tokenizer, end_ids=frozenset()):
        self.model, self.tokenizer, self.end_ids = model, tokenizer, end_ids
        self.vocabulary = Vocabulary(tokenizer, end_ids)

    def written(self, prompt: str, max_tokens: int, logprobs: int = 1) -> Iterator[tuple[int, Token]]:
        """Each token as its id and as it has to be, up to the end or a number of tokens."""
        before = self.tokenizer(prompt)["input_ids"]
        ids, text = list(before), ""
        for _ in range(max_tokens):
            with torch.inference_mode():
                logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            best = logits.log_softmax(-1).topk(logprobs)
            ids.append(int(logits.argmax()))
            longer = self.text(before, ids[len(before) :])
            piece, text = longer[len(text) :], longer
            top: dict[str, float] = {}
            for token, logprob in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                top.setdefault(piece if token == ids[-1] else self.vocabulary.text_of(token), logprob)
            yield ids[-1], Token(piece, tuple(top.items()))
            if ids[-1] in self.end_ids:
                return

    def text(self, before: list[int], ids: list[int]) -> str:
        def decode(ids):
            return self.tokenizer.decode(ids, skip_special_tokens=True)

        kept = ids[:-1] if ids[-1] in self.end_ids else ids
        return decode(before + kept)[len(decode(before)) :].rstrip("\ufffd")

    def ids(self, prompt: str, max_tokens: int) -> list[int]:
        return [token for token, _ in self.written(prompt, max_tokens)]

    def stream(self, prompt, params, draft=""):
        written = self.written(prompt, params.max_tokens, params.logprobs or 1)
        return Reading(written, self.end_ids, params.max_tokens)

    def complete(self, prompt, params) -> Completion:
        stream = self.stream(prompt, params)
        tokens = tuple(stream)
        text = "".join(token.text for token in tokens)
        return Completion(text, tokens if params.logprobs else (), stream.finish_reason, Usage(requests=1))


class Reading:
    """A stream of what TokenByToken writes."""

    def __init__(self, written: Iterator[tuple[int, Token]], end_ids: frozenset[int], left: int):
        self.written, self.end_ids, self.left = written, end_ids, left
        self.finish_reason, self.usage = None, Usage()

    def __iter__(self):
        return self

    def __next__(self) -> Token:
        token, found = next(self.written)
        self.left -= 1
        self.finish_reason = "stop" if token in self.end_ids else None if self.left else "length"
        return found

    def close(self) -> None:
        self.written.close()


def local(kind="llama", seed=1, tokenizer=BYTE_LEVEL, **options) -> LocalModel:
    options = {"end_ids": frozenset(), "context_length": 512, "draft_ahead": False, "engine": ENGINE} | options
    return LocalModel(f"{kind} {seed}", KINDS[kind](seed), tokenizer, **options)


def ids_of(stream) -> list[int]:
    return stream._ids[stream.usage.prompt_tokens :]


def greedy(model, prompt=PROMPT, n=40, draft="", logprobs=None):
    return model.stream(prompt, SamplingParams(n, logprobs=logprobs), draft)
