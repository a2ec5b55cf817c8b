"""The nudging loop: a base model writes, and where it is uncertain a small aligned model writes the next words.

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300), section 3.
The rules in detail, repetition tests included, are those of the published program, so that answers are the same to the character.

`nudging_rounds` is the method, as if no proposal of the nudging model ended the answer; `settle`, behind it, leaves out what came
after one that does: so both models can write at the same time. Whatever asks a model raises ContextLengthError where the text no
longer fits into its context window, and ModelError where it does not answer after all retries.
"""

import random
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from decoding.blending import AUTO, BLEND_LOGPROBS, blended_rounds
from decoding.criteria import CRITERIA, Criterion, Place, drawn, number_of
from decoding.peeking import Peek
from decoding.pieces import NudgingResult, Piece, RoundOver, base_piece
from language_models.interface import ContextLengthError, LanguageModel, ModelError, SamplingParams, Token, rides_along
from language_models.proposals import Base, Nudger, Proposal, ProposalEndsAnswer, Run, all_but_last_word
from language_models.readers import Writer
from utils import count_tokens

# The published program's own bounds: an answer has no more rounds, and ends where as many rounds repeat the words before.
MAX_ROUNDS = 150
MAX_REPEATS = 3
REPETITION_WORDS = 5  # a text of more words than this that has been seen is a repetition
ROUNDS_AHEAD = 1  # on servers of fixed speeds answers take a tenth longer with none, and as long with more
ROUNDS_AHEAD_RIDING = 2  # where the rest of a proposal is written beside the next ones


@dataclass(frozen=True)
class NudgingSettings:
    """Settings of the nudging loop; the names are those of the command-line options.

    `top_prob_thres` (gamma in the paper) is a probability: below it the base model counts as uncertain. `threshold` is the number
    of another criterion than top_prob; None: the criterion's own. `blend`: where the base model is uncertain the next token is
    chosen from a mixture (decoding/blending.py), in which the nudging model counts that much, 0 to 1, or "auto"; None: nudging.
    `completion_token_num` and `completion_token_num_nudging` are the tokens asked for per call, in each model's own tokens;
    `max_token_total` is the length of the answer in cl100k_base tokens. `nudging_top_p` is 1 in all experiments, as published (the
    option of that name is for the nudging model alone); `seed` is that of the sampling, None for none.
    """

    top_prob_thres: float = 0.3
    completion_token_num: int = 16
    completion_token_num_nudging: int = 16
    max_token_total: int = 512
    base_temperature: float = 0.0
    base_top_p: float = 0.9
    nudging_temperature: float = 0.0
    nudging_top_p: float = 1.0
    seed: int | None = None
    threshold: float | None = None
    blend: float | str | None = None


# Whether the base model is certain of a token after an answer text.
Certain = Callable[[Token, str], bool]


def nudging_rounds(
    base: Base, nudger: Nudger, settings: NudgingSettings, certain: Certain, criterion: Criterion = CRITERIA["top_prob"]
) -> Generator[Proposal | Piece | RoundOver, None, str]:
    """The nudging loop (paper, section 3), as if no proposal ended the answer; where one does, `settle` ends it.

    Args:
        certain: what the criterion says of a token at a place.

    Yields:
        In each round the nudging model's proposal, the words of it that are kept, the base model's tokens, and RoundOver.

    Returns:
        Why the answer ends: length, repeated_nudging_words or round.

    Raises:
        ProposalEndsAnswer: a proposal has turned out to end the answer.
    """
    answer, last_words, repeats = "", "", 0
    uncertain: Token | None = None
    for _ in range(MAX_ROUNDS):
        if count_tokens(answer) >= settings.max_token_total:
            return "length"
        proposal = nudger.propose(answer)
        proposal.top_prob = uncertain and uncertain.top_prob
        yield proposal
        words, run, uncertain = take_over(base, answer, proposal, certain, criterion)
        repeats = repeats + 1 if words == last_words else 0
        if repeats == MAX_REPEATS:
            return "repeated_nudging_words"
        yield Piece(words, "nudging", proposal.top_prob)
        answer, last_words = answer + words, words
        if run is not None:
            if not run.empty:  # else the base model considers the answer finished, and the nudging model goes on
                limit = settings.max_token_total - count_tokens(answer)
                added, uncertain = yield from base_goes_on(run, answer, limit, certain)
                answer += added
            base.keep(run)
        yield RoundOver()
    return "round"


def take_over(
    base: Base, answer: str, proposal: Proposal, certain: Certain, criterion: Criterion
) -> tuple[str, Run | None, Token | None]:
    """Find the take-over point: the first word of a proposal that the base model writes itself, or where it is certain.

    Returns:
        The words before it, and the base model's tokens after them. Where there is no such point, all words but the last, no
        tokens, and the token that the base model was uncertain of after these words, None where it was not asked.
    """
    head, uncertain = "", None
    if criterion.alone == "nudging":
        proposal.read_all()
        return proposal.text, None, None
    for head in proposal.heads():
        run = base.after(answer, proposal, head)
        # Where it agrees with the nudging model's next word, the base model may be as uncertain as it likes.
        if certain(run.first, answer + head) or (
            criterion.agreement and proposal.next_word_starts_with(head, run.first.text)
        ):
            return head, run, None
        uncertain = run.first
        run.close()
    words = all_but_last_word(proposal.text)
    return words, None, uncertain if words == head else None


def base_goes_on(
    run: Run, before: str, limit: int, certain: Certain
) -> Generator[Piece, None, tuple[str, Token | None]]:
    """The base model's tokens after an answer text, until it is uncertain, repeats itself, or ends.

    Args:
        run: where they come from.
        before: the answer text.
        limit: no call is begun once that many cl100k_base tokens were added.
        certain: whether the base model is certain of a token.

    Returns:
        Their text, and the token that the base model was uncertain of, None where something else ended them.

    Raises:
        ProposalEndsAnswer: no more of them are wanted.
    """
    yield base_piece(run.first)
    added, over, first_call, uncertain = run.first.text, False, True, None
    while not over and count_tokens(added) < limit:
        accepted, over, uncertain = yield from certain_tokens(run, before, added, certain)
        added += accepted
        # The end of the call that brought the nudging words to their end does not count as an ending.
        over = over or (run.ended and not first_call)
        first_call = False
    return added, uncertain


def base_alone(base: Base, nothing: Proposal, max_token_total: int) -> Generator[Piece | RoundOver, None, str]:
    """The base model's answer without the nudging model: until it ends, or has that many cl100k_base tokens."""
    run, answer = base.after("", nothing, ""), ""
    yield Piece("", "nudging")  # the record's pieces are opened by the nudging model's words
    run.put_back([run.first])
    reason = ""
    while not reason:
        before = answer
        for token in run.call():
            answer += token.text
            yield base_piece(token)
        ended = run.ended or answer == before  # a call without text has no end of its own
        reason = "base_model_stop" if ended else "length" * (count_tokens(answer) >= max_token_total)
    yield RoundOver()
    return reason


def certain_tokens(
    run: Run, before: str, added: str, certain: Certain
) -> Generator[Piece, None, tuple[str, bool, Token | None]]:
    """The tokens of one call that count: up to the first uncertain one, and none where they are a repetition as a whole.

    Each is yielded as soon as it is known to count; what is read beyond them is put back.

    Args:
        run, before, certain: as for `base_goes_on`.
        added: the base model's tokens of this round so far.

    Returns:
        Their text, whether the base model goes no further (it is uncertain, or repeats itself), and the uncertain token.
    """
    seen, call = before + added, run.call()
    held: list[Token] = []  # certain tokens that may still turn out to belong to a repetition
    rest: list[Token] = []  # the first uncertain token, and what was read after it
    accepted, uncertain = "", None
    for token in call:
        if not certain(token, seen + accepted):
            rest.append(token)
            uncertain = token
            break
        held.append(token)
        accepted += token.text
        # What goes on from a text that is new cannot have been seen either.
        if accepted not in seen:
            yield from map(base_piece, held)
            held.clear()
    # A call is a repetition if its whole text is one, what follows its uncertain token included.
    whole = accepted + "".join(token.text for token in rest)
    while whole in added and (token := next(call, None)):
        rest.append(token)
        whole += token.text
    if whole in added or (len(accepted.split(" ")) > REPETITION_WORDS and accepted in seen):
        run.put_back(held + rest)
        return "", True, None
    run.put_back(rest)
    yield from map(base_piece, held)
    return accepted, bool(rest), uncertain


def settle(
    rounds: Generator[Proposal | Piece | RoundOver, None, str], ahead: int
) -> Generator[Piece | RoundOver, None, str]:
    """What is final of the rounds, as soon as it is: all that follows a proposal counts only if that one does not end the answer.

    Args:
        rounds: see `nudging_rounds`.
        ahead: in how many rounds the base model may go on while it is not known whether their proposals end the answer.

    Returns:
        Why the answer ends: nudging_model_stop, or the reason of the rounds.

    Raises:
        ModelError: a model did not answer, and no proposal before that ended the answer.
    """
    unsettled: deque[tuple[Proposal, list[Piece | RoundOver]]] = deque()  # proposals, each with what hangs on it
    failure, reason, over = None, "", False
    while not over:
        try:
            event = next(rounds)
        except StopIteration as end:
            reason, over = end.value, True
        except ProposalEndsAnswer:
            over = True
        except ModelError as error:
            failure, over = error, True
        else:
            if isinstance(event, Proposal):
                unsettled.append((event, []))
            elif unsettled:
                unsettled[-1][1].append(event)
            else:
                yield event
        while unsettled and (over or len(unsettled) > ahead or unsettled[0][0].finish_reason is not None):
            proposal, held = unsettled.popleft()
            proposal.read_all()
            if proposal.finish_reason == "stop":
                rounds.close()
                if proposal.text:
                    yield Piece(proposal.text, "nudging", proposal.top_prob)
                yield RoundOver()
                return "nudging_model_stop"
            yield from held
    if failure is not None:
        raise failure
    return reason


def answer_stream(
    base: LanguageModel,
    nudging: LanguageModel,
    base_prompt: str,
    nudging_prompt: str,
    settings: NudgingSettings,
    on_round: Callable[[int, str, str], None] | None = None,
    request_mode: str = "published",
    *,
    result: NudgingResult | None = None,
    criterion: str | Criterion = "top_prob",
    rounds_ahead: int | None = None,
) -> Generator[Piece, None, NudgingResult]:
    """Answer one prompt by nudging (paper, section 3), piece by piece: `for piece in answer_stream(...)`.

    Args:
        base: the large base model; must give log-probabilities.
        nudging: the small aligned model.
        base_prompt, nudging_prompt: the prompt in each model's own template, before any answer text.
        settings: see NudgingSettings.
        on_round: called after every round with (round number from 1, nudging words, piece of this round).
        request_mode: "published" or "streamed" (language_models/readers.py); the answer does not depend on it.
        result: an empty record, to be filled with what has been yielded.
        criterion: when the base model is certain: a key of CRITERIA, or one of one's own.
        rounds_ahead: see `settle`; the answer does not depend on it. None: what suits the nudging model.

    Yields:
        What can no longer be taken back, as soon as that is so; joined it is the uncleaned answer. Closing the generator, or
        letting go of it, ends the writing of both models.

    Returns:
        The answer with its record. `stop_reason` is one of nudging_model_stop, repeated_nudging_words, round, length,
        context_length (a prompt no longer fits into a model's context window; the text so far is kept); of the base model alone
        and of mixtures base_model_stop, blended_stop and no_new_text, too.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    result = NudgingResult() if result is None else result
    rule = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    number_asked = number_of(criterion, settings.threshold, settings.top_prob_thres)
    mixes, seed = settings.blend is not None, settings.seed
    base_params = SamplingParams(
        settings.completion_token_num,
        settings.base_temperature,
        settings.base_top_p,
        max(rule.logprobs, BLEND_LOGPROBS * mixes),
        seed,
    )
    nudging_params = SamplingParams(
        settings.completion_token_num_nudging, settings.nudging_temperature, settings.nudging_top_p, seed=seed
    )
    peeked = max(rule.nudging_logprobs or 0, BLEND_LOGPROBS * mixes)
    if rounds_ahead is None:
        rounds_ahead = ROUNDS_AHEAD_RIDING if rides_along(nudging, nudging_params) else ROUNDS_AHEAD
    with (
        closing(Base(Writer(base, base_prompt, base_params, settings.max_token_total), request_mode)) as large,
        closing(Nudger(nudging, nudging_prompt, nudging_params, large, request_mode)) as small,
        closing(Peek(nudging, nudging_prompt, max(1, peeked), settings.max_token_total, request_mode)) as peek,
    ):

        def certain(token: Token, text: str) -> bool:
            place = Place(token, base_prompt + text, lambda: peek.after(text), seed)
            return rule.certain(place, number_asked)

        def rounds() -> Generator[Proposal | Piece | RoundOver, None, str]:
            if mixes:
                return blended_rounds(
                    large.reader_after,
                    peek,
                    certain,
                    lambda text: random.random() if seed is None else drawn(seed, base_prompt + text, "blend"),
                    weight=None if settings.blend == AUTO else settings.blend,
                    max_token_total=settings.max_token_total,
                    temperature=settings.base_temperature,
                )
            if rule.alone == "base":
                return base_alone(large, small.no_proposal(), settings.max_token_total)
            return nudging_rounds(large, small, settings, certain, rule)

        def events() -> Iterator[Piece | RoundOver]:
            result.stop_reason = yield from settle(rounds(), rounds_ahead)

        number = 1
        try:
            for event in events():
                if isinstance(event, Piece):
                    result.add(event)
                    if event.text:
                        yield event
                    continue
                if on_round:
                    # A round that ends the answer without a word opens no piece of the record.
                    opened = len(result.pieces) == number
                    on_round(number, *((result.nudging_words[-1], result.pieces[-1]) if opened else ("", "")))
                number += 1
        except ContextLengthError as error:
            result.stop_reason, result.context_error = "context_length", error
    return result


def nudge(
    base: LanguageModel,
    nudging: LanguageModel,
    base_prompt: str,
    nudging_prompt: str,
    settings: NudgingSettings,
    on_round: Callable[[int, str, str], None] | None = None,
    request_mode: str = "published",
    **more,
) -> NudgingResult:
    """Answer one prompt by nudging, at one go. All arguments, the result and the errors are those of `answer_stream`."""
    result = NudgingResult()
    for _ in answer_stream(
        base, nudging, base_prompt, nudging_prompt, settings, on_round, request_mode, result=result, **more
    ):
        pass
    return result
