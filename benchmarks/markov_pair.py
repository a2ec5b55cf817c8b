"""Synthetic pairs of models of any size, whose text is chosen: for measuring speed where no checkpoint is at hand.

A "Markov" model is a Llama shape whose layers compute at full cost but add next to nothing, so that the last hidden state is the
embedding of the current token; the head maps each word to a chosen next word with a chosen probability. What it costs is what a
real model of the shape costs; the texts, the places at which the base model is uncertain, and how far two models agree are
chosen. All tokens of a text are words that begin with a space.
"""

import contextlib
import math
import random
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

VOCABULARY = 32000
CONTEXT_LENGTH = 4096
SPECIAL = ("<s>", "</s>", "<unk>")
BEGIN, END = 0, 1


@dataclass(frozen=True)
class Sizes:
    """Of a Llama: hidden size, layers, heads, key-value heads, and the size inside of the feed-forward layers."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int


SHAPES = {
    "13b": Sizes(5120, 40, 40, 40, 13824),
    "7b": Sizes(4096, 32, 32, 32, 11008),
    "1.1b": Sizes(2048, 22, 32, 4, 5632),
    "tiny": Sizes(128, 2, 4, 2, 256),
}


def sizes_of(name: str) -> Sizes:
    """A shape by its name, or by its numbers: hidden,layers,heads,kv_heads,inner.

    Raises:
        ValueError: it is neither.
    """
    if name in SHAPES:
        return SHAPES[name]
    try:
        found = Sizes(*map(int, name.split(",")))
        valid = min(vars(found).values()) > 0 and not found.hidden % found.heads and not found.heads % found.kv_heads
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"no shape: {name!r}; there are {', '.join(SHAPES)}, and five numbers hidden,layers,heads,kv_heads,inner, where "
            "the heads divide the hidden size and the key-value heads divide the heads"
        )
    return found


def make_words(number: int) -> list[str]:
    """Different words of a few syllables."""
    chance = random.Random(7)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words: dict[str, None] = {}
    while len(words) < number:
        words["".join(chance.choice(syllables) for _ in range(chance.choice((1, 2, 2, 3))))] = None
    return list(words)


def make_tokenizer() -> tuple[PreTrainedTokenizerFast, list[str]]:
    """A byte-level tokenizer of VOCABULARY tokens, the words last, and the words; its lengths are what `count_tokens` counts by."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = make_words(VOCABULARY - len(SPECIAL) - len(alphabet))
    # "\u0120" is how byte-level tokenizers write a space.
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *alphabet, *("\u0120" + word for word in words)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token=SPECIAL[2],
        pad_token=SPECIAL[1],
        padding_side="left",
    )
    return made, words


@dataclass(frozen=True)
class Chances:
    """How often the models are uncertain, and how often they agree.

    `uncertain`: share of words at which the base model's probability is 0.12 to 0.34; elsewhere it is 0.95. `agree` and
    `agree_uncertain`: how often the nudging model's next word is the base model's, where that is certain and where not.
    `nudging_uncertain`: share of words at which the nudging model's probability is 0.35; elsewhere it is 0.93.
    """

    uncertain: float = 0.15
    agree: float = 0.75
    agree_uncertain: float = 0.35
    nudging_uncertain: float = 0.15


@dataclass(frozen=True)
class Chain:
    """What follows each word, [words], as the number of a word, and with what probability."""

    following: Tensor
    probability: Tensor


def make_chains(words: int, chances: Chances, seed: int = 1) -> tuple[Chain, Chain, Chain]:
    """The base model's chain, the nudging model's, and that of a small base model: the base model's, less certain."""
    chance = torch.Generator().manual_seed(seed)

    def draws() -> Tensor:
        return torch.rand(words, generator=chance)

    order = torch.randperm(words, generator=chance)
    base = torch.empty(words, dtype=torch.long)
    base[order] = order.roll(-1)  # one cycle through all words: no text comes back to itself
    unsure = draws() < chances.uncertain
    probability = torch.where(unsure, 0.12 + 0.22 * draws(), torch.tensor(0.95))
    share = torch.where(unsure, torch.tensor(chances.agree_uncertain), torch.tensor(chances.agree))
    other = (draws() >= share).nonzero()[:, 0]
    nudging = base.clone()
    nudging[other] = base[other[torch.randperm(len(other), generator=chance)]]
    nudging_probability = torch.where(draws() < chances.nudging_uncertain, torch.tensor(0.35), torch.tensor(0.93))
    return Chain(base, probability), Chain(nudging, nudging_probability), Chain(base, 0.8 * probability)


def llama(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, *, seed: int = 1, kind: type = LlamaForCausalLM, **more
):
    """A Llama of random weights, on its device from the beginning."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, intermediate_size=sizes.inner,
        max_position_embeddings=CONTEXT_LENGTH, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END, attn_implementation="sdpa", **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.device(device), default_dtype(dtype):
        model = kind(config)
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def markov_model(sizes: Sizes, chain: Chain, device: torch.device, dtype: torch.dtype, *, seed: int = 1):
    """A model that follows a chain."""
    model = llama(sizes, device, dtype, seed=seed)
    _silence(model.model)
    first = VOCABULARY - len(chain.following)
    words = model.model.embed_tokens.weight[first:].float()
    words = words * torch.rsqrt(words.square().mean(-1, keepdim=True) + 1e-5)  # what the last norm makes of them
    p = chain.probability.to(device)
    # exp(logits) of all other words add up to about VOCABULARY; a little more by what words have in common by chance.
    logit = torch.log(p / (1 - p)) + math.log(VOCABULARY)
    logit = logit + logit.square().mean() / (2 * sizes.hidden)
    head = model.lm_head.weight
    head.zero_()
    head[first + chain.following.to(device)] = (words * (logit / sizes.hidden)[:, None]).to(dtype)
    return model


@torch.no_grad()
def markov_classifier(sizes: Sizes, device: torch.device, dtype: torch.dtype, *, seed: int = 2):
    """A reward model with one output, for ARGS: a random direction of the current token's embedding."""
    model = llama(sizes, device, dtype, seed=seed, kind=LlamaForSequenceClassification, num_labels=1)
    _silence(model.model)
    return model


def _silence(backbone) -> None:
    """Have layers add next to nothing, and embeddings be of size one."""
    for layer in backbone.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(1e-3)
    backbone.embed_tokens.weight.normal_(0.0, 1.0)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """Make tensors of a number format."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make_prompts(words: list[str], number: int, length: int, seed: int) -> list[tuple[str, str]]:
    """Prompts of base and nudging model: another template before the same question of `length` - 1 words."""
    chance = random.Random(seed)
    template = "".join(" " + word for word in words[100:112])
    questions = ("".join(" " + word for word in chance.choices(words, k=length - 1)) for _ in range(number))
    return [(question, template + question) for question in questions]


def chain_text(chain: Chain, words: list[str], prompt: str, length: int) -> str:
    """What a model that follows a chain writes after a prompt of words, greedily: `length` words."""
    at, text = words.index(prompt.rpartition(" ")[2]), ""
    for _ in range(length):
        at = int(chain.following[at])
        text += " " + words[at]
    return text
