"""Places of an answer, compared between models: how probable the base model's first choice is, and what the aligned model writes.

A place is where a token of the aligned model begins. Models are compared where tokens of all of them begin at the same character:
what a model thinks inside of its own token is no choice between words. All other places are counted, by the reason.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.kinds import kind_of
from language_models.interface import REPLACEMENT
from language_models.scored_text import ScoredToken

LOGPROBS = 5  # of each place; ranks up to it are told
AGREE, WEAK, DISAGREE = "agree", "weakly disagree", "disagree"
CLASSES = (AGREE, WEAK, DISAGREE)
WEAK_RANK = 3  # of the base model, down to which a token disagrees weakly (arXiv 2410.09300, section 2)
NO_BOUNDARY = "no token of {role} begins there"
CHARACTER = "inside of a character of several tokens"
NOT_TOLD = "no log-probabilities of {role}"
PART = "the aligned model would write a part of a character"
FIRST = "the first token lies in the prompt, too"


@dataclass(frozen=True)
class Place:
    """One place: `answer` is the answer's number, `start` the offset of the token `text` in it, `relative` that as a share of it.

    `aligned_token` is the aligned model's most probable token, `own` whether the text has it there. `base_rank` and `small_rank`
    are its ranks in the lists of the base model and of the small aligned one, 0 beyond them; `small_rank` is None where the
    aligned model is the small one. Probabilities are from 0 to 1.
    """

    answer: int
    start: int
    relative: float
    text: str
    kind: str
    aligned_token: str
    aligned_prob: float
    own: bool
    base_token: str
    base_prob: float
    base_rank: int
    small_rank: int | None = None

    @property
    def agreement(self) -> str:
        """One of CLASSES."""
        return AGREE if self.base_rank == 1 else WEAK if 1 < self.base_rank <= WEAK_RANK else DISAGREE


def same_tokens(scores: Iterable[dict[str, Sequence[ScoredToken]]]) -> bool:
    """Whether all models cut all answers in the same way: then tokens are compared letter by letter (see `rank`)."""
    return all(len({tuple((t.start, t.text) for t in tokens) for tokens in one.values()}) == 1 for one in scores)


def rank(token: str, top: Sequence[tuple[str, float]], exact: bool) -> int:
    """The rank, from 1, of a token in a list of another model; 0 where it is not there.

    Where the models cut texts differently (not `exact`) a token is another one where one's text begins the other's: " 12" and " 1"
    go on alike. The end of sequence ("") is itself alone.
    """

    def same(other: str) -> bool:
        begins = (
            not exact
            and token
            and other
            and REPLACEMENT not in other
            and (token.startswith(other) or other.startswith(token))
        )
        return token == other or bool(begins)

    return next((number for number, (other, _) in enumerate(top, 1) if same(other)), 0)


def compare(
    number: int, text: str, scores: dict[str, Sequence[ScoredToken]], exact: bool
) -> tuple[list[Place], Counter[str]]:
    """The places of one answer, and how many cannot be compared, by the reason.

    Args:
        number: the answer's.
        text: the answer.
        scores: by role: "base", "nudging" (the small aligned model), and "aligned" where there is a large one.
        exact: see `rank`.
    """
    lead = "aligned" if "aligned" in scores else "nudging"
    others = {role: {t.start: t for t in reversed(scores[role])} for role in scores if role != lead}
    ends = {role: _inside(scores[role]) for role in scores}
    places, left_out = [], Counter()
    if not scores[lead] or scores[lead][0].start:
        left_out[FIRST] += 1
    for token in scores[lead]:
        at = {role: tokens.get(token.start) for role, tokens in others.items()}
        if reason := _why_not(token, at, ends, lead):
            left_out[reason] += 1
            continue
        base, (aligned, logprob) = at["base"], token.top[0]
        places.append(
            Place(
                number,
                token.start,
                token.start / len(text),
                token.text,
                kind_of(text, token.start, token.start + len(token.text)),
                aligned,
                min(1.0, math.exp(logprob)),
                aligned == token.text,
                base.top[0][0],
                min(1.0, math.exp(base.top[0][1])),
                rank(aligned, base.top, exact),
                rank(aligned, at["nudging"].top, exact) if lead == "aligned" else None,
            )
        )
    return places, left_out


def _inside(tokens: Sequence[ScoredToken]) -> set[int]:
    """The numbers (identities) of tokens that go on with, or begin, a character that another one ends."""
    return {id(b) for a, b in itertools.pairwise(tokens) if not a.text} | {id(t) for t in tokens if not t.text}


def _why_not(
    token: ScoredToken, at: dict[str, ScoredToken | None], inside: dict[str, set[int]], lead: str
) -> str | None:
    if id(token) in inside[lead]:
        return CHARACTER
    for role, other in at.items():
        if other is None:
            return NO_BOUNDARY.format(role=role)
        if id(other) in inside[role]:
            return CHARACTER
    for role, other in (at | {lead: token}).items():
        if not other.top:
            return NOT_TOLD.format(role=role)
    if REPLACEMENT in token.top[0][0]:
        return PART
    return None
