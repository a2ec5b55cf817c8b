"""Reward models that score whole answers: what text each is given, and which of its outputs is the score.

The kind is told by the model's configuration, never by its name.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from command.errors import OptionError
from language_models.interface import ModelError
from language_models.local.loading import load_config, load_model, load_tokenizer
from language_models.local.windows import config_length
from pad.answers import Answered, chat_turns, is_dialogue
from pad.armorm import load_armorm
from pad.dimension import described, is_armorm, is_classifier, output_of
from pad.published_text import HUMOR_LENGTH, PUBLISHED_FORMATS, armorm_turns, row_text, transcript

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HUMAN = "\n\nHuman: {}\n\nAssistant:"
FORMATS = {"upstream": "the text of PAD's published program", "args": "the text of ARGS's published program"}


@dataclass
class Scored:
    """Scores of answers by prompt and sample, and what a published program has: the values that it takes the mean of, and rows it
    skips.
    """

    scores: dict[tuple[int, int], float]
    counted: list[float] = field(default_factory=list)
    too_long: int = 0


def check_scorer(name: str, dimension: str | None, text_format: str = "native") -> "PretrainedConfig":
    """The configuration of a reward model.

    Raises:
        OptionError, ModelError: it is not there, gives no scores, has no such output, or reads no text of that format.
    """
    config = load_config(name)
    if not (is_armorm(config) or is_classifier(config)):
        raise OptionError(
            f"{name} is {' '.join(config.architectures or ['a model'])}, which gives no scores; name a classifier"
        )
    if is_armorm(config) and text_format == "args":
        raise OptionError(f"--format args is for sequence classifiers, and {name} is an ArmoRM, which reads chats")
    output_of(config, dimension, name)
    return config


class Scorer:
    """Scores of answers by one output of a reward model.

    Args:
        name: a folder or hub id: ArmoRM, or any sequence classifier.
        tokenizer: another one than the model's own, as ARGS has it.
        dimension: the output by number or label; needed where there are several (a label HUMOR is found by itself).
        text_format: "native", the text that the model was trained on, or a published program's: "upstream" or "args".
        experiment, text_field: of the published programs' texts; see published_text.row_text.
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
        experiment: str = "hhrlhf",
        text_field: str | None = None,
        load_in_4bit: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ):
        config = check_scorer(name, dimension, text_format)
        loading = {"device": device, "dtype": dtype, "load_in_4bit": load_in_4bit}
        self.device, self.text_format = device, text_format
        self.experiment, self.text_field = experiment, text_field
        self.output = output_of(config, dimension, name)
        self.tokenizer = load_tokenizer(tokenizer or name)
        self.armorm = is_armorm(config)
        if self.armorm:
            self.kind = "chat"
            self._backbone, self._head = load_armorm(name, **loading)
            self._classifier = None
        else:
            self.kind = "answer" if config.num_labels > 1 else "chat" if self.tokenizer.chat_template else "pair"
            self._classifier = load_model("AutoModelForSequenceClassification", name, **loading)
            self._backbone, self._head = self._classifier.base_model, getattr(self._classifier, "score", None)
        self.vocabulary = config.get_text_config().vocab_size
        self.longest = min(config_length(config), self.tokenizer.model_max_length)
        self._known: dict[tuple[int, ...], list[float]] | None = None
        self._config, self._told, self.name = config, say, name
        self._cut = HUMOR_LENGTH if config.num_labels > 1 and not self.armorm else None
        self._tell()

    def _tell(self) -> None:
        texts = {"answer": "the answer alone", "chat": "the chat template", "pair": "Human: ... Assistant: ..."}
        given = FORMATS.get(self.text_format, texts[self.kind])
        self._told(f"{self.name}: {described(self._config, self.output)}, given {given}")

    def by(self, dimension: str | None) -> "Scorer":
        """The same model by another of its outputs; what it has read for one, it has read for all.

        Raises:
            OptionError: there is no such output.
        """
        if self._known is None:
            self._known = {}
        other = copy.copy(self)
        other.output = output_of(self._config, dimension, self.name)
        if other.output != self.output:
            other._tell()
        return other

    def scores(self, answers: list[Answered], batch_size: int = 8) -> Iterator[list[float]]:
        """The scores of answers, batch by batch, in order; nothing is counted twice or left out."""
        yield from self._scores([self.encode(answer) for answer in answers], batch_size)

    def score(
        self,
        answers: Sequence[Answered],
        batch_size: int = 8,
        *,
        pattern: bool = False,
        done: Callable[[int], None] = lambda _: None,
    ) -> Scored:
        """The scores of answers by `Answered.key`, in a published program's format counted as there.

        There an empty text counts 0.0, and in most cases is scored as well, so that it counts twice; a text of too many tokens
        is skipped. By key an empty text has the score 0.0.

        Args:
            pattern: whether the answers are of one of several files, which PAD's program counts in another way.
            done: told how many more answers are scored.

        Raises:
            OptionError, ModelError: a text cannot be read by the model, or memory is short.
        """
        encoded = {answer.key: self.encode(answer) for answer in answers}
        if self.text_format == "native":
            values = self._each(list(encoded.values()), batch_size, done)
            return Scored(dict(zip(encoded, values, strict=True)), values)
        rules = PUBLISHED_FORMATS[self.text_format]
        empty = {answer.key for answer in answers if not self.published_text(answer)}
        # ArmoRM's rows are never skipped, and a tokenizer without a token in front gives nothing that could be scored.
        too_long = set() if self.armorm else {i for i, ids in encoded.items() if len(ids) >= rules.too_long}
        twice = rules.empty_twice_in_patterns or not pattern
        todo = {
            i: ids[: self._cut] if self.text_format == "upstream" else ids
            for i, ids in encoded.items()
            if i not in too_long and (i not in empty or (twice and ids))
        }
        if longer := [i for i, ids in todo.items() if len(ids) > self.longest and not self.armorm]:
            raise ModelError(
                f"the text of row {longer[0][0]} has {len(todo[longer[0]])} tokens, and the model reads {self.longest}: "
                "the published program stops there; leave out --format"
            )
        values = dict(zip(todo, self._each(list(todo.values()), batch_size, done), strict=True))
        done(len(encoded) - len(todo))
        counted = [
            value for i in encoded for value in ([0.0] if i in empty else []) + ([values[i]] if i in values else [])
        ]
        scores = {i: 0.0 if i in empty else values[i] for i in encoded if i in empty or i in values}
        return Scored(scores, counted, len(too_long))

    def published_text(self, answered: Answered) -> str:
        """The text of an answer by a published program's rules, before it is made into what the model reads."""
        try:
            return row_text(answered.texts, self.text_format, self.experiment, self.text_field)
        except KeyError as error:
            raise OptionError(
                f"row {answered.index} has no text {error} for --format {self.text_format}; name a field by --field"
            ) from None

    def _each(self, texts: list[list[int]], batch_size: int, done: Callable[[int], None]) -> list[float]:
        found: list[float] = []
        for batch in self._scores(texts, batch_size):
            found += batch
            done(len(batch))
        return found

    def _scores(self, texts: list[list[int]], batch_size: int) -> Iterator[list[float]]:
        for start in range(0, len(texts), batch_size):
            yield self._outputs(texts[start : start + batch_size])

    def _outputs(self, texts: list[list[int]]) -> list[float]:
        if self._known is None:
            found = self._batch(texts)[:, self.output].tolist()
        else:
            if any(tuple(text) not in self._known for text in texts):
                self._known |= zip(map(tuple, texts), self._batch(texts).tolist(), strict=True)
            found = [self._known[tuple(text)][self.output] for text in texts]
        if not all(map(math.isfinite, found)):
            raise ModelError("a score is not a number; try --dtype bfloat16 or float32")
        return found

    def encode(self, answered: Answered) -> list[int]:
        """Token ids of what the model reads.

        In the native format never longer than it can; of a pair the question loses its beginning.
        """
        if self.text_format != "native":
            text = self.published_text(answered)
            if self.text_format == "args":
                return self.tokenizer(text)["input_ids"]
            return self._chat(*armorm_turns(text)) if self.armorm else self.tokenizer(transcript(text))["input_ids"]
        if self.kind == "answer":
            return self.tokenizer(answered.answer, truncation=True, max_length=self.longest)["input_ids"]
        if self.kind == "chat":
            turns = chat_turns(answered.question, answered.answer)
            return self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)[-self.longest :]
        question = answered.question if is_dialogue(answered.question) else HUMAN.format(answered.question)
        return self._pair(question, answered.answer)

    def _chat(self, question: str, answer: str) -> list[int]:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)

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
    def _batch(self, texts: list[list[int]]) -> Tensor:
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
            values = self._values(ids.to(self.device), mask.to(self.device)).float()
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"out of GPU memory ({reason}); lower --batch_size, or try --load_in_4bit") from None
        return values

    def _values(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self._head is None:
            return self._classifier(input_ids=ids, attention_mask=mask).logits
        # The classifiers' own pooling searches for pad ids, which is wrong where pad is the end of sequence.
        hidden = self._backbone(input_ids=ids, attention_mask=mask)[0]
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return self._head(last)


def free_cached_memory(device: torch.device) -> None:
    """Give the memory of models that are gone back to the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
