"""How the nudging loop asks its two models: what it needs of them, by the calls of the published program.

streamed_calls.py asks for the same in less time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from language_models.interface import Completion, LanguageModel, Token, TokenStream


@dataclass(frozen=True)
class NudgingSettings:
    """Settings of the nudging loop; the names are those of the command-line options.

    `top_prob_thres` (gamma in the paper) is a probability: below it the base model counts as uncertain.
    `completion_token_num` and `completion_token_num_nudging` are the tokens asked for per call, in each model's own tokens;
    `max_token_total` is the length of the answer in cl100k_base tokens.
    """

    top_prob_thres: float = 0.3
    completion_token_num: int = 16
    completion_token_num_nudging: int = 16
    max_token_total: int = 512
    base_temperature: float = 0.0
    base_top_p: float = 0.9
    nudging_temperature: float = 0.0


def candidate_heads(nudging_text: str) -> Iterator[str]:
    """The texts after which the base model may take over from the nudging model: before each of its words but the first.

    Words are what single spaces separate; newlines stay inside words, empty words (of double spaces) are no places.
    """
    spaces, words = _split_words(nudging_text)
    for i in range(1, len(words)):
        if words[i]:
            yield spaces + " ".join(words[:i])


def all_but_last_word(nudging_text: str) -> str:
    """The text without its last word, which a token limit may have cut; the whole text if it is one word only."""
    spaces, words = _split_words(nudging_text)
    return spaces + " ".join(words[:-1]) if len(words) > 1 else nudging_text


def _split_words(text: str) -> tuple[str, list[str]]:
    rest = text.lstrip(" ")
    return text[: len(text) - len(rest)], rest.split(" ")


class Proposal:
    """The nudging model's next words, read as far as they were needed. `finish_reason` is None until all are."""

    def __init__(self, source: Completion | TokenStream):
        self.text = ""
        self.finish_reason: str | None = None
        self.asked_at = time.monotonic()
        self._stream: TokenStream | None = None
        if isinstance(source, Completion):
            self.text, self.finish_reason = source.text, source.finish_reason
        else:
            self._stream = source

    def read(self) -> None:
        """Wait for one token more."""
        token = next(self._stream, None)
        self.text += token.text if token else ""
        # A stream that has broken for good has no reason, and no more tokens.
        self.finish_reason = self._stream.finish_reason or ("length" if token is None else None)

    def read_all(self) -> None:
        """Wait until the nudging model has written everything."""
        while self.finish_reason is None:
            self.read()

    def heads(self) -> Iterator[str]:
        """See `candidate_heads`; each as soon as it is known."""
        n = 0
        while True:
            heads = list(candidate_heads(self.text))
            if n < len(heads):
                yield heads[n]
                n += 1
            elif self.finish_reason is None:
                self.read()
            else:
                return

    def next_word_starts_with(self, head: str, text: str) -> bool:
        """Whether the word after a head, with its space, starts with a text."""
        while True:
            rest = self.text[len(head) :]
            end = rest.find(" ", 1)
            word = rest if end < 0 else rest[:end]
            # A word that is not yet whole can decide it, too.
            if word.startswith(text) or not text.startswith(word) or end >= 0 or self.finish_reason is not None:
                return word.startswith(text)
            self.read()

    def close(self) -> None:
        """End the writing."""
        if self._stream is not None:
            self._stream.close()


class PublishedCalls:
    """The published program's requests: each asks for a number of tokens and waits for all of them."""

    def __init__(
        self,
        base: LanguageModel,
        nudging: LanguageModel,
        base_prompt: str,
        nudging_prompt: str,
        settings: NudgingSettings,
    ):
        self.base, self.nudging = base, nudging
        self.base_prompt, self.nudging_prompt = base_prompt, nudging_prompt
        self.settings = settings

    def propose(self, text: str) -> Proposal:
        """The nudging model's next words after an answer text."""
        s = self.settings
        return Proposal(
            self.nudging.complete(
                self.nudging_prompt + text,
                max_tokens=s.completion_token_num_nudging,
                temperature=s.nudging_temperature,
            )
        )

    def propose_early(self, current: Proposal, text: str) -> Proposal | None:
        """The next proposal, after an answer text that counts only if the current one does not end the answer; None: not yet."""
        return None

    def base_run(self, text: str, draft: str) -> "CompletionRun":
        """The base model's tokens after an answer text."""
        return CompletionRun(self, text)

    def complete(self, text: str) -> Completion:
        """The base model's next call after an answer text."""
        s = self.settings
        return self.base.complete(
            self.base_prompt + text,
            max_tokens=s.completion_token_num,
            temperature=s.base_temperature,
            top_p=s.base_top_p,
            logprobs=1,
        )

    def base_run_over(self, run: "CompletionRun | None") -> None:
        """Nothing more of a run is wanted in this round. Here, nothing of it is left."""

    def close(self) -> None:
        """Nothing is open."""


class CompletionRun:
    """The base model's tokens after a text, chunk by chunk, each chunk from one call. See StreamRun."""

    def __init__(self, calls: PublishedCalls, text: str):
        self._calls, self._text = calls, text
        self._completion = calls.complete(text)
        self.first = self._completion.tokens[0]
        self._chunk: tuple[Token, ...] | None = self._completion.tokens[1:]

    @property
    def empty(self) -> bool:
        return not self._completion.text

    @property
    def ended(self) -> bool:
        return self._completion.finish_reason == "stop"

    def chunk(self) -> Iterator[Token]:
        if self._chunk is None:
            self._completion = self._calls.complete(self._text)
            self._chunk = self._completion.tokens
        tokens, self._chunk = self._chunk, None
        # Only an accepted chunk is followed by another, and it was accepted whole then.
        self._text += self._completion.text
        return iter(tokens)

    def put_back(self, tokens: list[Token]) -> None:
        pass

    def close(self) -> None:
        pass
