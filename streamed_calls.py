"""The nudging loop's models asked by streams: the published calls' tokens at the published calls' places, with less waste.

What the published calls throw away is saved: base tokens after the first uncertain one, and time in which only one of the two
models writes.
"""

import time
from collections.abc import Callable, Iterator

from language_models.interface import END_OF_SEQUENCE, LanguageModel, ModelError, Token
from language_models.readers import Continuation, Writer
from nudging_calls import NudgingSettings, Proposal, PublishedCalls, candidate_heads

# The base model's stream is left open while the nudging model writes its first token if it goes on by this many at most.
MOST_AHEAD = 1.5
NOTICEABLE = 0.002  # seconds: who waited that long had to wait


class StreamedCalls(PublishedCalls):
    """Streams of both models: each token is looked at as it comes, and a stream is closed where nothing of it is needed any more.

    - The base model is asked as soon as the nudging model's first word is known, while that one still writes on.
    - The nudging model is asked for its next proposal as soon as the base model has written, while it still writes the last one.
    - The base model's stream stays open beyond its uncertain token: if the nudging model writes that very token, the next ones
      are on their way already. (Only where the nudging model is quick enough, see MOST_AHEAD.)
    - Of a model in this process, which writes only when it is read, the whole proposal is known first and is handed on as a draft.
    """

    def __init__(
        self,
        base: LanguageModel,
        nudging: LanguageModel,
        base_prompt: str,
        nudging_prompt: str,
        settings: NudgingSettings,
    ):
        super().__init__(base, nudging, base_prompt, nudging_prompt, settings)
        options = {"temperature": settings.base_temperature, "top_p": settings.base_top_p, "logprobs": 1}
        self._writer = Writer(base, base_prompt, settings.completion_token_num, settings.max_token_total, options)
        self._reading: Continuation | None = None
        self._tail: Continuation | None = None  # what a run that is over for this round leaves to the next one
        self._proposals: list[Proposal] = []  # the last two
        self._proposal_seconds = 0.0  # that the nudging model needs for a whole proposal
        self._wait = 0.0  # seconds that the nudging model needed for its first token, the last time

    def propose(self, text: str) -> Proposal:
        s = self.settings
        proposal = Proposal(
            self.nudging.stream(
                self.nudging_prompt + text,
                max_tokens=s.completion_token_num_nudging,
                temperature=s.nudging_temperature,
            )
        )
        self._proposals = [*self._proposals[-1:], proposal]
        if not self.base.runs_ahead:
            proposal.read_all()
        elif self._tail is not None:
            self._watch(proposal, self._tail)
        return proposal

    def propose_early(self, current: Proposal, text: str) -> Proposal | None:
        if current.finish_reason is not None or not self.nudging.runs_ahead:
            return None
        try:
            return self.propose(text)
        except ModelError:  # to be said when it is this proposal's turn
            return None

    def _watch(self, proposal: Proposal, tail: Continuation) -> None:
        """Read the first word, and close the base model's stream as soon as it is another one than it has written."""
        began = time.monotonic()
        while proposal.finish_reason is None and next(candidate_heads(proposal.text), None) is None:
            proposal.read()
            if began:
                self._wait, began = time.monotonic() - began, 0.0
            coming = tail.at_hand
            if not (coming.startswith(proposal.text) or proposal.text.startswith(coming)):
                tail.close()
                return

    def base_run(self, text: str, draft: str) -> "StreamRun":
        tail, self._tail = self._tail, None
        if tail is not None and not tail.follow(text):
            tail.close()
            tail = None
        proposal = self._proposals[-1]
        self._reading = tail or Continuation(self._writer, text, draft)
        return StreamRun(self._reading, lambda: self._ends_the_answer(proposal))

    def _ends_the_answer(self, proposal: Proposal) -> bool:
        """Whether a proposal has turned out to be the answer's end; it is not waited for before it should be there."""
        began = time.monotonic()
        if proposal.finish_reason is None and began - proposal.asked_at >= self._proposal_seconds:
            proposal.read_all()
            waited = time.monotonic() - began > NOTICEABLE
            took = time.monotonic() - proposal.asked_at
            self._proposal_seconds = took if waited else min(took, self._proposal_seconds)
        return proposal.finish_reason == "stop"

    def base_run_over(self, run: "StreamRun | None") -> None:
        """Keep what has been read too much, for the next round could begin with it."""
        if run is None:
            return
        keep = self.settings.base_temperature == 0 and self._writer.most_calls > 1
        too_slow = self.base.runs_ahead and self._wait > MOST_AHEAD * self._writer.seconds_per_token
        if not keep or too_slow:
            run.close()
        if keep:
            self._tail = run.tokens

    def close(self) -> None:
        for open_one in (self._tail, self._reading, *self._proposals):
            if open_one is not None:
                open_one.close()


class StreamRun:
    """The base model's tokens after a text, in chunks as long as the published calls', each token read when it is needed."""

    def __init__(self, tokens: Continuation, unwanted: Callable[[], bool]):
        """
        Args:
            tokens: where they come from.
            unwanted: whether no more of them are wanted, asked before each.
        """
        self.tokens = tokens
        self._unwanted = unwanted
        self._size = tokens.writer.call_tokens
        tokens.begin_call()
        self.first = tokens.read() or END_OF_SEQUENCE
        self._in_first_call = True

    @property
    def empty(self) -> bool:
        """Whether the first call's text is empty: the base model considers the answer finished."""
        read: list[Token] = []
        found = bool(self.first.text)
        while not found and len(read) < self._size - 1 and (token := self.tokens.read()):
            read.append(token)
            found = bool(token.text)
        self.tokens.put_back(read)
        return not found

    @property
    def ended(self) -> bool:
        """Whether the call whose tokens were read ended with the end of sequence."""
        return self.tokens.ended

    def chunk(self) -> Iterator[Token]:
        """The tokens of the next call; of the first call all but `first`."""
        token, size = self.first, self._size
        if self._unwanted():
            return
        if self._in_first_call:
            size -= 1
        else:
            if self.ended:
                self.tokens.ask_again()
            self.tokens.begin_call()
        for i in range(size):
            if self._unwanted() or (self.ended and (i or self._in_first_call)):
                break
            token = self.tokens.read()
            if token is None:
                break
            yield token
        self._in_first_call = False
        if token is not None and not token.text and not self.ended:
            self.tokens.ask_again()  # half a character: the next call writes it anew

    def put_back(self, tokens: list[Token]) -> None:
        """Have the last tokens be read again, in the next round."""
        self.tokens.put_back(tokens)

    def close(self) -> None:
        """End the writing; what was put back stays."""
        self.tokens.close()
