"""The nudging loop: a base model writes, and where it is uncertain a small aligned model writes the next words.

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300), section 3.
The rules in detail, repetition tests included, are those of the published program, so that answers are the same to the character.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from language_models.interface import ContextLengthError, LanguageModel, Token
from nudging_calls import (
    CompletionRun,
    NudgingSettings,
    Proposal,
    PublishedCalls,
    all_but_last_word,
)
from streamed_calls import StreamedCalls, StreamRun
from utils import clean_answer, count_tokens

Run = CompletionRun | StreamRun

MAX_ROUNDS = 150
MAX_REPEATS = 3
# A chunk of more words than this that stands in the text already is a repetition.
REPETITION_WORDS = 5


@dataclass
class NudgingResult:
    """An answer in the making and its record.

    `nudging_words[i]` are the words of the nudging model that open `pieces[i]`; the pieces joined are the uncleaned answer.
    `base_tokens` counts the base model's tokens in it.
    """

    pieces: list[str] = field(default_factory=list)
    nudging_words: list[str] = field(default_factory=list)
    stop_reason: str = ""
    base_tokens: int = 0

    @property
    def text(self) -> str:
        """The answer so far, uncleaned."""
        return "".join(self.pieces)

    @property
    def answer(self) -> str:
        """The answer, cleaned."""
        return clean_answer(self.text)


class _Nudging:
    """One sample's run of the loop."""

    def __init__(self, calls: PublishedCalls, settings: NudgingSettings):
        self.calls = calls
        self.settings = settings
        self.result = NudgingResult()

    def take_over(self, output: str, proposal: Proposal) -> tuple[str, Run | None]:
        """The nudging words that are kept, and the base model's tokens after them (None: the base model does not take over)."""
        for head in proposal.heads():
            run = self.calls.base_run(output + head, draft=proposal.text[len(head) :])
            # The base model may go on where it agrees with the nudging model's next word, however uncertain it is.
            certain = run.first.top_prob >= self.settings.top_prob_thres
            if certain or proposal.next_word_starts_with(head, run.first.text):
                return head, run
            run.close()
        return all_but_last_word(proposal.text), None

    def base_goes_on(self, output: str, run: Run) -> Iterator[list[Token]]:
        """The base model's tokens after an answer text, piece by piece, until it is uncertain, repeats itself, or ends."""
        s = self.settings
        limit = s.max_token_total - count_tokens(output)
        added = run.first.text
        yield [run.first]
        first_call = True
        while count_tokens(added) < limit:
            chunk = run.chunk()
            read: list[Token] = []
            uncertain = None  # the index of the first uncertain token
            for token in chunk:
                read.append(token)
                if token.top_prob < s.top_prob_thres:
                    uncertain = len(read) - 1
                    break
            # A chunk counts as a repetition if it is one as a whole: it is read on while it could be.
            while (repeated := _text(read) in added) and (token := next(chunk, None)):
                read.append(token)
            accepted = "" if repeated else _text(read[:uncertain])
            if len(accepted.split(" ")) > REPETITION_WORDS and accepted in output + added:
                repeated = True
            if repeated or uncertain is not None:
                run.put_back(read[0 if repeated else uncertain :])
            if repeated:
                return
            added += accepted
            yield read[:uncertain]
            # The end of the call that brought the nudging words to their end does not count as an ending.
            if uncertain is not None or (run.ended and not first_call):
                return
            first_call = False

    def run(self, on_round: Callable[[int, str, str], None] | None) -> NudgingResult:
        result, s = self.result, self.settings
        last_words, repeats, rounds = "", 0, 0
        upcoming: Proposal | None = None
        while count_tokens(output := result.text) < s.max_token_total and rounds < MAX_ROUNDS:
            rounds += 1
            proposal = upcoming or self.calls.propose(output)
            upcoming = None
            run, words, spoken, no_room = None, None, [], None
            if proposal.finish_reason != "stop":
                # Where the models are streamed, the proposal may still turn out to be the answer's end: nothing counts before.
                try:
                    words, run = self.take_over(output, proposal)
                    repeats = repeats + 1 if words == last_words else 0
                    if repeats < MAX_REPEATS and run is not None and not run.empty:
                        for tokens in self.base_goes_on(output + words, run):
                            spoken += tokens
                except ContextLengthError as error:
                    no_room = error
                self.calls.base_run_over(run)
                if not no_room and repeats < MAX_REPEATS and rounds < MAX_ROUNDS:
                    coming = output + words + _text(spoken)
                    if count_tokens(coming) < s.max_token_total:
                        upcoming = self.calls.propose_early(proposal, coming)
                proposal.read_all()
            if proposal.finish_reason == "stop":
                if proposal.text:
                    result.nudging_words.append(proposal.text)
                    result.pieces.append(proposal.text)
                result.stop_reason = "nudging_model_stop"
                if on_round:
                    on_round(rounds, proposal.text, proposal.text)
                return result
            if words is not None and repeats < MAX_REPEATS:
                last_words = words
                result.nudging_words.append(words)
                result.pieces.append(words + _text(spoken))
                result.base_tokens += len(spoken)
            if no_room:
                raise no_room
            if repeats >= MAX_REPEATS:
                result.stop_reason = "repeated_nudging_words"
                return result
            if on_round:
                on_round(rounds, words, result.pieces[-1])
        result.stop_reason = "round" if rounds >= MAX_ROUNDS else "length"
        return result


def _text(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def nudge(
    base: LanguageModel,
    nudging: LanguageModel,
    base_prompt: str,
    nudging_prompt: str,
    settings: NudgingSettings,
    on_round: Callable[[int, str, str], None] | None = None,
    calls: str = "published",
) -> NudgingResult:
    """Answer one prompt by nudging (paper, section 3).

    Args:
        base: the large base model; must give log-probabilities.
        nudging: the small aligned model.
        base_prompt, nudging_prompt: the prompt in each model's own template, before any answer text.
        settings: see NudgingSettings.
        on_round: called after every round with (round number from 1, nudging words, piece of this round).
        calls: "published" or "streamed", how the models are asked (see nudging_calls and streamed_calls), which the
            answer does not depend on.

    Returns:
        The answer with its record. `stop_reason` is one of nudging_model_stop, repeated_nudging_words, round, length,
        context_length (a prompt no longer fits into a model's context window; the text so far is kept).

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    kind = {"published": PublishedCalls, "streamed": StreamedCalls}[calls]
    asking = kind(base, nudging, base_prompt, nudging_prompt, settings)
    loop = _Nudging(asking, settings)
    try:
        return loop.run(on_round)
    except ContextLengthError:
        loop.result.stop_reason = "context_length"
        return loop.result
    finally:
        asking.close()
