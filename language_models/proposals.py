"""The two models of a sample as the nudging loop reads them: the nudging model's proposals, and the base model's runs after them.

Where the models are streamed, what the published calls throw away is saved: base tokens after the first uncertain one, and time in
which only one of the two models writes.
- The base model is asked as soon as the nudging model's first word is known, while that one still writes on.
- The nudging model is asked for its next proposal as soon as the base model has written, while it still writes the last one.
- The base model's stream stays open beyond its uncertain token: if the nudging model writes that very token, the next ones are on
  their way already. It is closed once the nudging model writes other words, and left open only where that one is quick enough.
- Of a base model in this process, which writes only when it is read, the whole proposal is known first and is handed on as a draft.
- Where the nudging model's proposals ride along in passes that it runs anyway, their first words are such a draft, and it is
  seen later whether they end the answer.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from language_models.interface import (
    CHARACTER_TOKENS,
    END_OF_SEQUENCE,
    Completion,
    LanguageModel,
    SamplingParams,
    Token,
    TokenStream,
    Usage,
    rides_along,
)
from language_models.readers import READERS, Reader, Writer, whole_character

# The base model's stream is left open while the nudging model writes its first token if it goes on by this many at most.
MOST_AHEAD = 1.5
NOTICEABLE = 0.002  # seconds: who waited that long had to wait


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


class ProposalEndsAnswer(Exception):
    """A proposal has turned out to end the answer, so that nothing that was begun after it is wanted any more."""


@dataclass
class Pace:
    """How long the nudging model takes for a whole proposal, in seconds; 0 until one has been waited for."""

    proposal_seconds: float = 0.0


class Proposal:
    """The nudging model's next words, read as far as they were needed.

    `finish_reason` is None until all of them are; "stop": they end the answer. Reading raises ModelError where the model does not
    answer after all retries. `top_prob` is set by whoever has asked for it: see Piece of nudging.py.
    """

    top_prob: float | None = None

    def __init__(
        self, source: Completion | TokenStream, again: Callable[[], TokenStream] | None, pace: Pace, rides: bool = False
    ):
        """
        Args:
            source: the words.
            again: asks for more of them, once, where they are less than a character.
            pace: that of the model.
            rides: see `rides_along`.
        """
        self.text = ""
        self._again = again
        self.finish_reason: str | None = None
        self._pace = pace
        self._asked_at = time.monotonic()
        self._stream: TokenStream | None = None
        if isinstance(source, Completion):
            self.text, self.finish_reason = source.text, source.finish_reason
        else:
            self._stream = source
        self.rides = rides and self._stream is not None

    def read(self) -> None:
        """Wait for one token more."""
        token = next(self._stream, None)
        self.text += token.text if token else ""
        # A stream that has broken for good has no reason, and no more tokens.
        self.finish_reason = self._stream.finish_reason or ("length" if token is None else None)
        if self._again and not self.text and self.finish_reason == "length":
            again, self._again, self.finish_reason = self._again, None, None
            self._stream.close()
            self._stream = again()

    def read_all(self) -> None:
        """Wait until the nudging model has written everything."""
        while self.finish_reason is None:
            self.read()

    def look(self) -> None:
        """Read what is there without waiting, of a proposal that rides along."""
        while self.rides and self.finish_reason is None and self._stream.at_hand:
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

    def check(self) -> None:
        """See whether the proposal ends the answer; it is not waited for before it should be there.

        Raises:
            ProposalEndsAnswer: it does.
        """
        began = time.monotonic()
        if self.rides:
            self.look()
        elif self.finish_reason is None and began - self._asked_at >= self._pace.proposal_seconds:
            self.read_all()
            waited = time.monotonic() - began > NOTICEABLE
            took = time.monotonic() - self._asked_at
            self._pace.proposal_seconds = took if waited else min(took, self._pace.proposal_seconds)
        if self.finish_reason == "stop":
            raise ProposalEndsAnswer

    def close(self) -> None:
        """End the writing."""
        if self._stream is not None:
            self._stream.close()


class Run:
    """The base model's tokens after a head of a proposal, call by call, each read when it is needed.

    `first` is the first token of the first call; a call without any counts as an end of sequence.
    """

    def __init__(self, tokens: Reader, proposal: Proposal):
        self.tokens = tokens
        self._proposal = proposal
        tokens.begin_call()
        self.first = tokens.read() or END_OF_SEQUENCE
        self._in_first_call = True

    @property
    def empty(self) -> bool:
        """Whether the first call's text is empty: the base model considers the answer finished."""
        read: list[Token] = []
        found = bool(self.first.text)
        while not found and (token := self.tokens.read()):
            read.append(token)
            found = bool(token.text)
        self.tokens.put_back(read)
        return not found

    @property
    def ended(self) -> bool:
        """Whether the call whose tokens were read ended with the end of sequence."""
        return self.tokens.ended

    def call(self) -> Iterator[Token]:
        """The tokens of the next call; of the first call all but `first`.

        Raises:
            ProposalEndsAnswer: no more of them are wanted.
            ContextLengthError, ModelError: see Reader.
        """
        self._proposal.check()
        if not self._in_first_call:
            self.tokens.begin_call()
        self._in_first_call = False
        while token := self.tokens.read():
            yield token
            self._proposal.check()

    def put_back(self, tokens: list[Token]) -> None:
        """Have the last tokens be read again, in the next round."""
        self.tokens.put_back(tokens)

    def close(self) -> None:
        """End the writing; what was put back stays."""
        self.tokens.close()


class Base:
    """The base model of one sample."""

    def __init__(self, writer: Writer, request_mode: str):
        """
        Args:
            writer: the model; its params ask for as many log-probabilities as the criterion needs.
            request_mode: a key of READERS.
        """
        self.writer = writer
        self._reader = READERS[request_mode]
        self._reading: Reader | None = None
        self._tail: Reader | None = None  # what a run that is over for its round leaves to the next one
        self._wait = 0.0  # seconds that the nudging model needed for its first token, the last time

    def after(self, answer: str, proposal: Proposal, head: str) -> Run:
        """The base model's tokens after an answer text and a head of the proposal that follows it.

        Raises:
            ContextLengthError, ModelError: see Reader.
        """
        text, tail = answer + head, self._tail
        self._tail = None
        if tail is not None and not tail.follow(text):
            tail.close()
            tail = None
        self._reading = tail or self._reader(self.writer, text, proposal.text[len(head) :])
        return Run(self._reading, proposal)

    def reader_after(self, answer: str) -> Reader:
        """What reads the base model's tokens after an answer text; a call of it is still to be begun."""
        self._reading = self._reader(self.writer, answer)
        return self._reading

    def keep(self, run: Run) -> None:
        """Keep what has been read too much of a run that is over for this round, for the next one could begin with it."""
        keep = self.writer.params.temperature == 0 and self.writer.most_calls > 1
        too_slow = self.writer.model.runs_ahead and self._wait > MOST_AHEAD * self.writer.seconds_per_token
        if not keep or too_slow:
            run.close()
        if keep:
            self._tail = run.tokens

    def watch(self, proposal: Proposal) -> None:
        """Read a proposal's first word, and end the writing as soon as it is another one than the base model has written."""
        if not self.writer.model.runs_ahead and not proposal.rides:
            proposal.read_all()
        if self._tail is None:
            return
        began = time.monotonic()
        while proposal.finish_reason is None and next(candidate_heads(proposal.text), None) is None:
            proposal.read()
            if began:
                self._wait, began = time.monotonic() - began, 0.0
            if not self.writer.model.runs_ahead:
                continue  # nothing is written in vain, and what was read may be of use
            coming = self._tail.at_hand
            if not (coming.startswith(proposal.text) or proposal.text.startswith(coming)):
                self._tail.close()
                return

    def close(self) -> None:
        """End all writing."""
        for reader in (self._tail, self._reading):
            if reader is not None:
                reader.close()


class Nudger:
    """The nudging model of one sample."""

    def __init__(self, model: LanguageModel, prompt: str, params: SamplingParams, base: Base, request_mode: str):
        """
        Args:
            model, prompt: the model, and its prompt before any answer text.
            params: those of a proposal.
            base: the base model that the proposals are made for.
            request_mode: a key of READERS.
        """
        self._model, self._prompt, self._params, self._base = model, prompt, params, base
        self._published = request_mode == "published"
        self._pace, self._rides = Pace(), rides_along(model, params)
        self._proposals: list[Proposal] = []  # the last one, and those before that may still be being written

    def propose(self, answer: str) -> Proposal:
        """The next words after an answer text, of which as much is read as the base model needs to know.

        The proposals before may still be being written: the new one counts only if none of them ends the answer.

        Raises:
            ProposalEndsAnswer: one of them does.
            ContextLengthError, ModelError: the model did not answer.
        """
        if self._proposals and not self._model.runs_ahead and not self._rides:
            self._proposals[-1].read_all()
        for proposal in self._proposals:
            proposal.look()
        if any(proposal.finish_reason == "stop" for proposal in self._proposals):
            raise ProposalEndsAnswer
        proposal = Proposal(*self._ask(answer), self._pace, self._rides)
        self._proposals = [*(one for one in self._proposals if one.finish_reason is None), proposal]
        self._base.watch(proposal)
        return proposal

    def no_proposal(self) -> Proposal:
        """One without words, for a base model that writes alone."""
        return Proposal(Completion("", (), "length", Usage()), None, self._pace)

    def _ask(self, answer: str) -> tuple[Completion | TokenStream, Callable[[], TokenStream] | None]:
        """What is written after an answer text, and what is asked for where it shows nothing: see `whole_character`."""
        text, params = self._prompt + answer, self._params.after(answer)
        if self._published:
            return whole_character(self._model, text, params), None
        again = None
        if params.max_tokens < CHARACTER_TOKENS:
            longer = replace(params, max_tokens=CHARACTER_TOKENS)

            def again() -> TokenStream:
                return self._model.stream(text, longer)

        return self._model.stream(text, params), again

    def close(self) -> None:
        """End all writing."""
        for proposal in self._proposals:
            proposal.close()
