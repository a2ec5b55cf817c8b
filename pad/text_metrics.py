"""Diversity and coherence of answers, as ARGS measures them (Khanov et al., ICLR 2024, section 3)."""

import importlib.util
import re
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from language_models.interface import ModelError
from pad.answers import Answered

if TYPE_CHECKING:
    import torch

POOLER = r"^pooler\."
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def word_splitter() -> tuple[Callable[[str], list[str]], str]:
    """The splitter of words and its name: NLTK's where that is installed with its data, else a regular expression."""
    if importlib.util.find_spec("nltk"):
        from nltk import word_tokenize

        try:
            word_tokenize("A word.")
            return word_tokenize, "nltk"
        except LookupError:  # its data are not there
            pass
    return _WORD.findall, "regex"


def repetition(words: Sequence[str], n: int) -> float:
    """rep-n in per cent: 100 (1 - distinct n-grams / (n-grams + 1)); the + 1 is the published program's."""
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 100 * (1 - len(set(ngrams)) / (len(ngrams) + 1))


def diversity(words: Sequence[str]) -> float:
    """The product over n = 2, 3, 4 of 1 - rep-n / 100."""
    product = 1.0
    for n in (2, 3, 4):
        product *= 1 - repetition(words, n) / 100
    return product


def text_metrics(answers: list[Answered]) -> dict:
    """Means over answers: rep-2 to rep-4, diversity, length in characters, and seconds where rows have them."""
    split, name = word_splitter()
    words = [split(answer.answer or " ") for answer in answers]
    found = {f"rep_{n}": statistics.fmean(repetition(w, n) for w in words) for n in (2, 3, 4)}
    found |= {"diversity": statistics.fmean(map(diversity, words)), "words_by": name}
    found["mean_characters"] = statistics.fmean(len(answer.answer) for answer in answers)
    seconds = [answer.elapsed for answer in answers if answer.elapsed is not None]
    return found | ({"mean_seconds": statistics.fmean(seconds)} if seconds else {})


def coherence(
    answers: list[Answered],
    embedder: str,
    device: "torch.device",
    batch_size: int = 16,
    say: Callable[[str], None] = lambda _: None,
) -> float:
    """Mean cosine of the embeddings of each question and its own answer.

    Args:
        embedder: a sentence encoder, as a folder or hub id. The sentence is its mean token where the folder says so
            (sentence-transformers), its pooled output where it has one (SimCSE), else its mean token.
    """
    import torch

    from language_models.local.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(embedder)
    if tokenizer.pad_token is None:  # masked out, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    mean, loading = _says_mean(embedder), {"device": device, "dtype": torch.float32, "part": True}
    try:
        model = load_model("AutoModel", embedder, **loading, may_lack=POOLER if mean else None)
    except ModelError:
        if mean:
            raise
        # Some encoders were saved without the layer that makes the pooled output, which would be drawn at random.
        model, mean = load_model("AutoModel", embedder, **loading, may_lack=POOLER), True
        say(f"{embedder} was saved without the layer of its pooled output; the mean of its tokens is taken")

    @torch.inference_mode()
    def embed(texts: list[str]) -> "torch.Tensor":
        found = []
        for start in range(0, len(texts), batch_size):
            batch = [text or " " for text in texts[start : start + batch_size]]
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=512, return_tensors="pt").to(device)
            output = model(**inputs)
            pooled = getattr(output, "pooler_output", None)
            if mean or pooled is None:
                mask = inputs["attention_mask"][..., None]
                pooled = (output[0] * mask).sum(1) / mask.sum(1)
            found.append(pooled.float().cpu())
        return torch.cat(found)

    questions, replies = embed([a.question for a in answers]), embed([a.answer for a in answers])
    return torch.cosine_similarity(questions, replies).mean().item()


def _says_mean(embedder: str) -> bool:
    from transformers.utils import cached_file

    from language_models.local.loading import find_model

    try:
        return bool(cached_file(find_model(embedder), "modules.json"))
    except OSError:
        return False
