#!/usr/bin/env python
"""A small reward model out of a language model and a few sentences: for trying reward-guided decoding without a hub.

    python scripts/get_demo_models.py --transformers demo-aligned
    python scripts/fit_scorer.py demo-aligned scripts/demo_data/joy.json models/joy

The backbone stays as it is. Its head is fitted by ridge regression of +1 and -1 on the hidden states of all the sentences' tokens,
as answers in the chat template. The result is a sequence classifier with one output: collect_model_outs.py takes it as --rm (ARGS),
and measure_reward.py scores with it.
"""

from pathlib import Path

from command.console import Command
from command.errors import OptionError
from command.json_text import parsed
from command.options import Parser
from command.paths import read_text, user_path
from language_models.local.loading import load_model, load_tokenizer, pick_device, require_torch


def read_sentences(path: Path) -> tuple[list[str], list[str]]:
    """The sentences under "positive" and "negative" of a JSON file (OptionError: it is no such file)."""
    try:
        content = parsed(read_text(path))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read ({error})") from None
    try:
        found = content["positive"], content["negative"]
        if not all(isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts) for texts in found):
            raise ValueError
        return found
    except (ValueError, KeyError, TypeError):
        raise OptionError(
            f'{path} must hold a JSON object with the keys "positive" and "negative", each a list of texts that is not empty'
        ) from None


def fit(name: str, sentences: tuple[list[str], list[str]], folder: Path) -> list[float]:
    """Write the classifier to a folder; returns the sentences' own scores, means over their tokens."""
    import torch

    positive, negative = sentences
    device = pick_device("auto")
    kind, loading = "AutoModelForSequenceClassification", {"device": device, "dtype": torch.float32, "num_labels": 1}
    classifier = load_model(kind, name, **loading, may_lack=r"^score\.", part=True)  # its head is fitted below
    tokenizer = load_tokenizer(name)
    with torch.inference_mode():
        states = [_states(classifier, tokenizer, text, device) for text in (*positive, *negative)]
        sides = [1.0] * len(positive) + [-1.0] * len(negative)
        targets = torch.cat([torch.full((len(s),), side, device=device) for s, side in zip(states, sides, strict=True)])
        together = torch.cat(states)
        centred = together - together.mean(0)
        # Fewer states than hidden units: the dual form, with a penalty of the states' own size.
        kernel = centred @ centred.T
        kernel += kernel.diagonal().mean() * torch.eye(len(targets), device=device)
        weight = centred.T @ torch.linalg.solve(kernel, targets)
        weight /= (centred @ weight).abs().mean()
        scores = [((s - together.mean(0)) @ weight).mean().item() for s in states]
        classifier.score.weight.copy_(weight[None])
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return scores


def _states(classifier, tokenizer, text: str, device):
    """Hidden states of an answer's tokens, one after the other, and of what ends it: guidance reads beginnings of answers."""
    import torch

    before, answer = "", text
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": text}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        before, _, after = whole.rpartition(text)
        answer = text + after
    first = tokenizer(before, add_special_tokens=not before)["input_ids"]
    ids = first + tokenizer(answer, add_special_tokens=False)["input_ids"]
    return classifier.base_model(torch.tensor([ids], device=device))[0][0, len(first) :]


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a language model: folder, hub id or demo name")
    parser.add_argument("sentences", type=user_path, help='JSON with lists "positive" and "negative"')
    parser.add_argument("folder", type=user_path, help="where the reward model goes")
    options = parser.parse_args(argv)

    def work() -> int:
        require_torch()
        scores = fit(options.model, read_sentences(options.sentences), options.folder)
        shown = ", ".join(f"{score:.1f}" for score in scores)
        print(f"{options.folder}: a reward model; scores of its own sentences: {shown}")
        return 0

    return Command("fit_scorer.py").run(work)
