"""Tiny models with random weights, saved as folders that the commands load as users' own. The caller has torch."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

torch.set_num_threads(1)
VOCABULARY = 600
BEGIN, END_OF_TEXT, END_OF_TURN = "<|begin|>", "<|end|>", "<|eot|>"
HEADER = ("<|start_header|>", "<|end_header|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header|>{{ m['role'] }}<|end_header|>\n\n{{ m['content'] }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header|>assistant<|end_header|>\n\n{% endif %}"
)
SENTENCES = [
    "The user asks for advice, and the assistant gives an answer that is short and kind.",
    "How do I bake bread without an oven? Use a pan with a lid, and turn the loaf after twenty minutes.",
    "Why does the moon look larger near the horizon? It does not; the eye compares it with trees and houses.",
    "[Guidelines] Your task is to write replies. [Principles] harmless and helpfulness and humor [Instruction] ",
    "Human: which river is the longest? Assistant: the Nile, or the Amazon, by how one counts.",
    "Every week the library lends two thousand books, and most of them come back before the month is over.",
    "A cat walks over the keyboard and writes the best line of the novel. Nobody admits it.",
] * 3
# The usual deviation of 0.02 gives logits so flat that rounding decides between tokens.
WIDE = {"initializer_range": 0.2}


def make_tokenizer(
    sentences: list[str] = SENTENCES, vocabulary: int = VOCABULARY, template: str | None = CHAT_TEMPLATE
):
    """A byte-level BPE tokenizer with a chat template whose turns end in their own token."""
    special = [BEGIN, END_OF_TEXT, END_OF_TURN, *HEADER]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    # The vocabulary's size is exact, so that models of it have no ids without a token.
    while tokenizer.get_vocab_size() < vocabulary:
        tokenizer.add_tokens([f"filler{tokenizer.get_vocab_size()}"])
    extra = [AddedToken(token, special=True, normalized=False) for token in (END_OF_TURN, *HEADER)]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END_OF_TEXT,
        additional_special_tokens=extra,
        chat_template=template,
    )


def byte_fallback_tokenizer(sentences: list[str] = SENTENCES, vocabulary: int = VOCABULARY):
    """A tokenizer such as Gemma's: spaces are written as "▁", and characters that it does not know as bytes."""
    trained = Tokenizer(models.BPE())
    spaces = normalizers.Replace(" ", "▁")
    trained.normalizer = spaces
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - 300, show_progress=False)
    trained.train_from_iterator(sentences, trainer)
    learnt = json.loads(trained.to_str())["model"]
    pieces = [BEGIN, END_OF_TEXT, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    pieces += [f"filler{i}" for i in range(vocabulary - len(pieces))]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END_OF_TEXT, unk_token="<unk>"
    )


def llama_config(vocabulary: int = VOCABULARY, context: int = 512, layers: int = 2, **more) -> LlamaConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    options = sizes | special | WIDE | {"max_position_embeddings": context, "num_hidden_layers": layers} | more
    return LlamaConfig(vocab_size=vocabulary, **options)


def gpt2_config(vocabulary: int = VOCABULARY, context: int = 512, **more) -> GPT2Config:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": context}
    return GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, **sizes, **WIDE, **more)


def distilbert_config(vocabulary: int = VOCABULARY, **more) -> DistilBertConfig:
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 512}
    return DistilBertConfig(vocab_size=vocabulary, pad_token_id=1, **sizes, **WIDE, **more)


MAKERS = {
    "llama": lambda **more: LlamaForCausalLM(llama_config(**more)),
    "gpt2": lambda **more: GPT2LMHeadModel(gpt2_config(**more)),
    "llama_scorer": lambda **more: LlamaForSequenceClassification(llama_config(**{"num_labels": 1} | more)),
    "gpt2_scorer": lambda **more: GPT2ForSequenceClassification(gpt2_config(num_labels=1, pad_token_id=1, **more)),
    "distilbert": lambda **more: DistilBertForSequenceClassification(distilbert_config(**more)),
}


def make_model(kind: str, seed: int, **more) -> PreTrainedModel:
    """A model of one of MAKERS' kinds, its weights drawn by the seed."""
    torch.manual_seed(seed)
    return MAKERS[kind](**more).eval()


def save(folder: Path, model: PreTrainedModel, tokenizer=None) -> Path:
    """Write model and tokenizer (the usual one) to a folder; returns the folder."""
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model: PreTrainedModel, base: Path, seed: int = 5, **more) -> Path:
    """Write a LoRA adapter with random weights for a model that lies in the folder `base`; `model` gets its layers too."""
    import peft

    torch.manual_seed(seed)
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False} | more
    adapter = peft.get_peft_model(model, peft.LoraConfig(**options))
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(folder)
    return folder


def write_value_head(folder: Path, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """The preference head of a PAD checkpoint, in its published form."""
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, folder / "value_head.safetensors")


def edit_config(folder: Path, **changes) -> None:
    """Change fields of a saved config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def save_all(folder: Path) -> Path:
    """The models that the tests of the commands name, each in a folder of its name; returns the folder of these."""
    rm = make_model("llama", 3, layers=3)
    save(folder / "lm", make_model("llama", 1))
    save(folder / "plain_rm", rm)
    torch.manual_seed(9)
    write_value_head(save(folder / "rm", rm), torch.eye(64) + 0.3 * torch.randn(64, 64), torch.randn(64))
    save(folder / "classifier", make_model("llama_scorer", 4))
    save(folder / "gpt2_classifier", make_model("gpt2_scorer", 5, context=64), make_tokenizer(template=None))
    save(folder / "other_rm", make_model("llama", 7, vocabulary=450), make_tokenizer(SENTENCES[3:7], 450))
    save(folder / "short_lm", make_model("llama", 1, context=48))
    return folder


def save_scorers(folder: Path) -> Path:
    """Reward models of the kinds that the PAD paper evaluates with, each in a folder of its name; returns the folder of these."""
    save(folder / "gpt2", make_model("gpt2_scorer", 5, context=64), make_tokenizer(template=None))
    save(folder / "long_gpt2", make_model("gpt2_scorer", 5, context=1400), make_tokenizer(template=None))
    save(folder / "chatty", make_model("llama_scorer", 4, context=2048))  # with a chat template
    for name, labels in (
        ("humor", ["NO_HUMOR", "HUMOR"]),
        ("swapped", ["HUMOR", "NO_HUMOR"]),
        ("other", ["bad", "good"]),
    ):
        model = make_model(
            "distilbert", 6, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}
        )
        save(folder / name, model, make_tokenizer(template=None))
    save(folder / "armorm", make_model("llama", 7, context=8192))
    weights = load_file(folder / "armorm/model.safetensors")
    torch.manual_seed(8)
    weights = {name: weight for name, weight in weights.items() if name != "lm_head.weight"}
    weights |= {"regression_layer.weight": torch.randn(19, 64), "gating.layers.0.weight": torch.randn(8, 64)}
    save_file(weights, folder / "armorm/model.safetensors", {"format": "pt"})
    remote = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    labels = {str(i): f"LABEL_{i}" for i in range(19)}
    edit_config(folder / "armorm", architectures=["LlamaForRewardModelWithGating"], auto_map=remote, id2label=labels)
    return folder
