"""What the decoding loops talk to: tokens, completions, and the interface of a language model."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from command.errors import UserError
from language_models.tokenizing import TextTokenizer

REPLACEMENT = "\ufffd"  # what stands in a text for bytes that are no whole character
SEEDS = 2**32 - 1  # servers take seeds below it; llama.cpp takes this one for "any"
CHARACTER_TOKENS = 4  # at most: a character is four bytes at most (UTF-8), and a token one byte at least


class ModelError(UserError):
    """A model could not answer, after all retries; the message says what, where and what to do.

    `status` is the HTTP status of the last answer, where there was one.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class TransientError(ModelError):
    """A failure that may pass: the same request, sent again later or to another server, may be answered.

    `unreachable`: there was no connection, or it was cut. `retry_after`: seconds after which the server wants to be asked again.
    `unreadable`: there was a reply that could not be made sense of.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        unreachable: bool = False,
        retry_after: float | None = None,
        unreadable: bool = False,
    ):
        super().__init__(message, status)
        self.unreadable = unreadable
        self.unreachable = unreachable
        self.retry_after = retry_after


class ProbabilityError(ModelError):
    """A model's log-probabilities are missing, or cannot be what they are called: asking again brings the same."""


class ContextLengthError(ModelError):
    """The prompt leaves too little room in the model's context window for the tokens asked for."""


class SeedError(ModelError):
    """A server refuses requests that have a seed."""


class DeviceLostError(ModelError):
    """The device that computes a model has stopped working for this process: nothing that is asked of it will be answered."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    `text` is its slice of the completion's text; the end of sequence is a token with the text "".
    `top` holds the most probable tokens at its position as (text, natural log-probability), most probable first, no text twice.
    `count` is how many of the model's own tokens it is: several where a server shows those of one character as one.
    """

    text: str
    top: tuple[tuple[str, float], ...]
    count: int = 1

    @property
    def top_prob(self) -> float:
        """Probability of the most probable token at this position, 0 to 1."""
        return min(1.0, math.exp(self.top[0][1]))  # servers round, some to a log-probability just above 0


def whole_characters(choice: str, tokens: Iterable[Token]) -> str:
    """A chosen text up to a character of which a listed token has a part alone; what a model itself has written stays as it is.

    Args:
        tokens: the models' own at that place.
    """
    return choice if any(token.text == choice for token in tokens) else choice.partition(REPLACEMENT)[0]


# What stands for an end of sequence that a server leaves out of its log-probabilities: its probability counts as 1.
END_OF_SEQUENCE = Token("", (("", 0.0),))


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a model is to continue a prompt; the fields are called as in requests to /v1/completions, which are made of them.

    `max_tokens`: most tokens to write, in the model's own. `temperature` and `top_p`: sampling; temperature 0 is greedy.
    `logprobs`: how many of the most probable tokens to report at each position; None for no tokens at all. `seed`: with the same
    one the same is drawn again; None for any.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    logprobs: int | None = None
    seed: int | None = None

    def after(self, text: str) -> "SamplingParams":
        """The same for a call after so much of an answer: its seed is another one, so that it does not draw the same numbers again.

        The seed depends on the first one and the text alone.
        """
        if self.seed is None:
            return self
        return replace(self, seed=(self.seed + len(text)) % SEEDS)


@dataclass
class Usage:
    """What was asked of a model: requests that were answered, tokens in and out of them, and retries on the way."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0

    def add(self, other: "Usage") -> None:
        """Add another count to this one."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.retries += other.retries


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's continuation of a prompt.

    `tokens` are there when log-probabilities were asked for: their texts joined are `text`, and there is one at least, but where
    max_tokens were less than a character. A character that max_tokens have cut is left out, as vLLM does.
    `finish_reason` is "stop" after an end of sequence, "length" when max_tokens were written.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a chat model replies; `finish_reason` is "length" where a token limit has cut it off, None where it is not told."""

    text: str
    finish_reason: str | None = None


class TokenStream(Protocol):
    """A continuation that is read token by token; closing it ends the writing of further tokens.

    `finish_reason` is None until the last token has been read, then "stop" (after an end of sequence, itself a token with the
    text "") or "length". Where no log-probabilities were asked for, `top` of the tokens is empty, and several tokens may come as
    one. `usage` is what was asked of the model up to now. Reading raises what `LanguageModel.stream` does.
    """

    finish_reason: str | None
    usage: Usage

    def __iter__(self) -> Iterator[Token]: ...

    def __next__(self) -> Token: ...

    def close(self) -> None:
        """End the writing; harmless where it has ended."""
        ...


class LanguageModel(Protocol):
    """A model that continues a text. Implementations can be called from many threads at once.

    `runs_ahead`: the tokens of a stream are written whether they are read or not (a server's), rather than each when it is asked
    for (a model's in this process).
    """

    name: str
    runs_ahead: bool

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """Continue a prompt.

        Args:
            prompt: the text before; the beginning-of-sequence token is the model's own business.
            params: how.

        Raises:
            ContextLengthError: the prompt and params.max_tokens do not fit into the context window.
            ModelError: no answer after all retries.
        """
        ...

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> TokenStream:
        """Continue a prompt token by token.

        Args:
            prompt, params: as for `complete`.
            draft: a text with which the continuation may well begin. A model that reads several tokens as fast as it writes one
                can look at it; what is written does not depend on it.

        Raises:
            ContextLengthError, ModelError: as `complete`, here or while the stream is read.
        """
        ...


def rides_along(model: LanguageModel, params: SamplingParams) -> bool:
    """Whether the rest of a stream is written beside the model's other work once its beginning has been read.

    Such a stream says whether something of it is `at_hand`, to be read without waiting. Not so of most models.
    """
    return getattr(model, "rides_along", False) and not params.temperature and params.logprobs is None


class ChatModel(Protocol):
    """A model that replies to instructions and a question. `num_threads`: how many threads may ask at once."""

    name: str
    num_threads: int

    def ask(self, instructions: str, question: str) -> ChatReply:
        """The reply with the most probable words.

        Raises:
            ModelError: no answer after all retries.
        """
        ...


class SharedModel(Protocol):
    """A model of a run, which all samples share.

    `usage` is what was asked of it in all, `usage_by_host` that of each server (or of this process), `report` what model it is;
    both as JSON has them. `packages` are the installed packages that have a part in its answers.
    """

    name: str
    usage: Usage
    usage_by_host: dict[str, dict]
    report: dict | list[dict]
    packages: tuple[str, ...]

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it."""
        ...

    def streams(self, logprobs: bool) -> bool:
        """Whether continuations can be streamed, with log-probabilities if need be."""
        ...

    @property
    def context_length(self) -> int | None:
        """How many tokens prompt and answer may have together; None where it is not known. A server is asked once."""
        ...

    def tokenizer(self) -> TextTokenizer | None:
        """The model's own tokenizer; None where its server has no routes for it. That is found out once."""
        ...

    def check_alive(self, seconds: float) -> None:
        """See that the model answers, by a request of its own that nobody counts.

        Args:
            seconds: that a server may stay silent.

        Raises:
            ModelError: it does not.
        """
        ...


class ModelAround:
    """A language model around another one, `model`, of which it tells what that tells."""

    model: LanguageModel

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def runs_ahead(self) -> bool:
        return self.model.runs_ahead

    @property
    def rides_along(self) -> bool:
        return getattr(self.model, "rides_along", False)


@dataclass
class Metered(ModelAround):
    """A language model as one sample sees it: the same answers, and a count of what the sample asked for."""

    model: LanguageModel
    usage: Usage = field(default_factory=Usage)

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """As the model's own `complete`, counted."""
        completion = self.model.complete(prompt, params)
        self.usage.add(completion.usage)
        return completion

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> "MeteredStream":
        """As the model's own `stream`, counted when it ends or is closed."""
        return MeteredStream(self.model.stream(prompt, params, draft), self.usage)


class StreamAround:
    """A token stream around another one, of which it tells what that tells."""

    def __init__(self, stream: TokenStream):
        self.stream = stream

    @property
    def finish_reason(self) -> str | None:
        return self.stream.finish_reason

    @property
    def usage(self) -> Usage:
        return self.stream.usage

    @property
    def at_hand(self) -> bool:
        return self.stream.at_hand

    def __iter__(self) -> Iterator[Token]:
        return self


class MeteredStream(StreamAround):
    """A token stream whose usage is added to a sample's once, when its last token has been read, it fails, or it is closed."""

    def __init__(self, stream: TokenStream, total: Usage):
        super().__init__(stream)
        self._total: Usage | None = total

    def __next__(self) -> Token:
        try:
            token = next(self.stream)
        except BaseException:
            self._count()
            raise
        if self.stream.finish_reason is not None:
            self._count()
        return token

    def close(self) -> None:
        """End the writing, and count."""
        self.stream.close()
        self._count()

    def _count(self) -> None:
        if self._total is not None:
            self._total.add(self.stream.usage)
            self._total = None
