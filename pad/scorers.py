"""Reward models that score whole answers: what text each is given, and which of its outputs is the score.

The kind is told by the model's configuration, never by its name.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from command.errors import OptionError
from language_models.interface import ModelError
from language_models.local.loading import config_length, load_config, load_model, load_tokenizer
from pad.answers import Answered, chat_turns, is_dialogue
from pad.armorm import is_armorm, load_armorm, objective

if TYPE_CHECKING:
    pass

HUMAN = "\n\nHuman: {}\n\nAssistant:"
DEFAULT_LABEL = "HUMOR"


class Scorer:
    """Scores of answers by one output of a reward model.

    Args:
        name: a folder or hub id: ArmoRM, or any sequence classifier.
        tokenizer: another one than the model's own, as ARGS has it.
        dimension: the output by number or label; needed where there are several (a label HUMOR is found by itself).
        text_format: "native", the text that the model was trained on, or "upstream", the published program's.
        say: told what is scored.

    Raises:
        OptionError, ModelError: it cannot be loaded, or has no such output.
    """

    def __init__(
        self,
        name: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tokenizer: str | None = None,
        dimension: str | None = None,
        text_format: str = "native",
        load_in_4bit: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ):
        config = load_config(name)
        loading = {"device": device, "dtype": dtype, "load_in_4bit": load_in_4bit}
        self.device, self.text_format = device, text_format
        if is_armorm(config):
            self.output, self.kind = objective(dimension), "chat"
            self.tokenizer = load_tokenizer(tokenizer or name)
            self._backbone, self._head = load_armorm(name, **loading)
            self._classifier = None
        else:
            if not any("SequenceClassification" in a for a in config.architectures or []):
                raise OptionError(
                    f"{name} is {' '.join(config.architectures or ['a model'])}, which gives no scores; name a classifier"
                )
            self.output = _output(config, dimension, name)
            self.tokenizer = load_tokenizer(tokenizer or name)
            self.kind = "answer" if config.num_labels > 1 else "chat" if self.tokenizer.chat_template else "pair"
            self._classifier = load_model("AutoModelForSequenceClassification", name, **loading)
            self._backbone, self._head = self._classifier.base_model, getattr(self._classifier, "score", None)
        self.vocabulary = config.get_text_config().vocab_size
        self.longest = min(config_length(config), self.tokenizer.model_max_length)
        texts = {"answer": "the answer alone", "chat": "the chat template", "pair": "Human: ... Assistant: ..."}
        given = texts[self.kind] if text_format == "native" else "the published program's text"
        say(
            f"{name}: output {self.output} of {self._head.out_features if self._head else config.num_labels}, given {given}"
        )

    def scores(self, answers: list[Answered], batch_size: int = 8) -> Iterator[list[float]]:
        """The scores of answers, batch by batch, in order."""
        for start in range(0, len(answers), batch_size):
            yield self._batch([self.encode(answer) for answer in answers[start : start + batch_size]])

    def encode(self, answered: Answered) -> list[int]:
        """Token ids of what the model reads: never longer than it can; of a pair the question loses its beginning."""
        if self.text_format == "upstream" and self.kind != "chat":
            text = published_text(answered, pair=self.kind == "pair")
            return self.tokenizer(text)["input_ids"][: self.longest]
        if self.kind == "answer":
            return self.tokenizer(answered.answer, truncation=True, max_length=self.longest)["input_ids"]
        if self.kind == "chat":
            turns = chat_turns(answered.question, answered.answer)
            return self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)[-self.longest :]
        question = answered.question if is_dialogue(answered.question) else HUMAN.format(answered.question)
        return self._pair(question, answered.answer)

    def _pair(self, question: str, answer: str) -> list[int]:
        ids = self.tokenizer(question, answer)["input_ids"]
        if len(ids) <= self.longest:
            return ids
        alone = self.tokenizer(answer)["input_ids"]
        if len(alone) + self.tokenizer.num_special_tokens_to_add(pair=True) >= self.longest:
            return alone[: self.longest]
        self.tokenizer.truncation_side = "left"
        return self.tokenizer(question, answer, truncation="only_first", max_length=self.longest)["input_ids"]

    @torch.inference_mode()
    def _batch(self, texts: list[list[int]]) -> list[float]:
        largest, known = max(map(max, filter(None, texts)), default=0), self.vocabulary
        if largest >= known:
            raise OptionError(f"the tokenizer gives the id {largest}, and the model knows {known}; see --tokenizer")
        width = max(1, *map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : max(1, len(text))] = 1
        try:
            values = self._values(ids.to(self.device), mask.to(self.device))[:, self.output].float()
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"out of GPU memory ({reason}); lower --batch_size, or try --load_in_4bit") from None
        if not values.isfinite().all():
            raise ModelError("a score is not a number; try --dtype bfloat16 or float32")
        return values.tolist()

    def _values(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self._head is None:
            return self._classifier(input_ids=ids, attention_mask=mask).logits
        # The classifiers' own pooling searches for pad ids, which is wrong where pad is the end of sequence.
        hidden = self._backbone(input_ids=ids, attention_mask=mask)[0]
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return self._head(last)


def _output(config, dimension: str | None, name: str) -> int:
    labels = {str(label): int(i) for label, i in (config.label2id or {}).items()}
    if dimension is None:
        if config.num_labels == 1:
            return 0
        found = {label.upper(): i for label, i in labels.items()}.get(DEFAULT_LABEL)
        if found is None:
            raise OptionError(f"--dimension is needed for {name}: its outputs are {', '.join(labels)}")
        return found
    numbered = labels | {str(i): i for i in range(config.num_labels)}
    if dimension not in numbered:
        raise OptionError(f"--dimension has no choice {dimension!r}; the outputs of {name} are {', '.join(numbered)}")
    return numbered[dimension]


def published_text(answered: Answered, pair: bool) -> str:
    """The text that the published program scores, flaws included: a transcript whose first role words are replaced.

    For the GPT-2 reward models (`pair`) the first "assistant" and the first "user" anywhere in it, even in the question.
    """
    text = f"user\n\n{answered.prompt}assistant\n\n{answered.answer}"
    if pair:
        text = text.replace("assistant", " Assistant:", 1).replace("user", "Human:", 1)
    return text
