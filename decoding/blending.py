"""BlendIn: where the base model is uncertain, the next token is chosen from a mixture of both models' distributions.

Gan, Li, Luo, "To Intervene or Not: Guiding Inference-time Alignment with Probabilistic Model Blending", ACL 2026 (arXiv
2606.11201), over the text of tokens as in the ensemble of baselines.py, so that the models may have different tokenizers. As in its
published program 100 log-probabilities of each model are mixed, one token is chosen at a time, and the loop has no proposals.
"""

import functools
import math
from collections.abc import Callable, Generator

from decoding.peeking import Peek
from decoding.pieces import Piece, RoundOver, base_piece
from language_models.interface import Token, whole_characters
from language_models.readers import Reader
from utils import count_tokens

BLEND_LOGPROBS = 100
AGREEMENT_BONUS = 0.1
AUTO = "auto"

# What stands for the base model's own token where it is half a character, which has no text yet; no token's text is this.
HALF = "\ud800"

Distribution = dict[str, float]  # probabilities by the texts of tokens, "" for the end of sequence


def distribution(token: Token, ended: bool, half: str | None) -> Distribution:
    """The probabilities that a model lists at a place, by text, most probable first.

    Args:
        ended: whether the model's own token is the end of sequence; else an own token without text is half a character.
        half: what stands for that; None leaves it out, since another model cannot write it.
    """
    probs = {text: min(1.0, math.exp(logprob)) for text, logprob in token.top}
    if token.text or ended:
        return probs
    return {text or half: p for text, p in probs.items() if text or half is not None}


def blend_weight(p: Distribution, q: Distribution) -> float:
    """How much the nudging model's distribution q counts beside the base model's p, 0 to 1 (2606.11201): its confidence relative to
    both, and a little more where the base model knows its most probable token, too."""
    highest_p, highest_q = max(p.values(), default=0.0), max(q.values(), default=0.0)
    if not highest_q:
        return 0.0
    agreed = p.get(max(q, key=q.__getitem__), 0.0)
    return min(1.0, max(0.0, highest_q / (highest_p + highest_q) + AGREEMENT_BONUS * agreed))


def blend(p: Distribution, q: Distribution, weight: float | None) -> Distribution:
    """weight * q + (1 - weight) * p by text, the base model's texts first; absent from a list is 0. None: `blend_weight`."""
    weight = blend_weight(p, q) if weight is None else weight
    return {text: weight * q.get(text, 0.0) + (1 - weight) * p.get(text, 0.0) for text in (*p, *q)}


def choose(mixture: Distribution, temperature: float, chance: Callable[[], float]) -> str | None:
    """The most probable text of a mixture, the first of equal ones; at a temperature above 0 a drawn one. None where there is none.

    Args:
        chance: gives numbers from 0 to 1, evenly distributed.
    """
    likely = {text: p for text, p in mixture.items() if p > 0}
    if not likely:
        return None
    if not temperature:
        return max(likely, key=likely.__getitem__)
    highest = max(likely.values())
    weights = {text: (p / highest) ** (1 / temperature) for text, p in likely.items()}
    left = chance() * math.fsum(weights.values())
    for text, weight in weights.items():
        left -= weight
        if left < 0:
            return text
    return text


def blended_rounds(
    read_base: Callable[[str], Reader],
    peek: Peek,
    certain: Callable[[Token, str], bool],
    chance: Callable[[str], float],
    *,
    weight: float | None,
    max_token_total: int,
    temperature: float,
) -> Generator[Piece | RoundOver, None, str]:
    """An answer token by token: the base model's own where it is certain, else one of the mixture.

    Args:
        read_base: a reader of the base model's tokens after an answer text.
        peek: the nudging model's distribution after one.
        certain: whether the base model is certain of a token after an answer text.
        chance: a number from 0 to 1 for what is drawn after an answer text.
        weight: of the nudging model's distribution, 0 to 1; None: `blend_weight` at each place.
        max_token_total: the answer ends once it has that many cl100k_base tokens.
        temperature: of what is drawn from a mixture; 0: its most probable token.

    Returns:
        Why the answer ends: length, base_model_stop (the base model's own end of sequence), blended_stop (a mixture's), or
        no_new_text (no listed token can be written down).

    Raises:
        ContextLengthError, ModelError: see Reader.
    """
    choices = _choices(read_base, peek, certain, chance, weight, max_token_total, temperature)
    opened = False
    while True:
        try:
            piece = next(choices)
        except StopIteration as end:
            yield RoundOver()
            return end.value
        if piece.by == "nudging" and opened:
            yield RoundOver()
        elif piece.by == "base" and not opened:
            yield Piece("", "nudging")  # the record's pieces are opened by the nudging model's words
        opened = True
        yield piece


def _choices(
    read_base, peek: Peek, certain, chance, weight: float | None, max_token_total: int, temperature: float
) -> Generator[Piece, None, str]:
    """The tokens of `blended_rounds`: those that the base model has not written itself count as the nudging model's."""
    answer, reader = "", None
    try:
        while count_tokens(answer) < max_token_total:
            if reader is None:
                reader = read_base(answer)
                reader.begin_call()
            token = reader.read()
            if token is None:  # the call is over
                reader.begin_call()
                token = reader.read()
            if token is None:
                return "base_model_stop"
            ends = reader.ended
            choice = "" if ends else token.text or HALF
            if not certain(token, answer):
                theirs = peek.after(answer)
                mixture = blend(
                    distribution(token, ends, HALF), distribution(theirs, peek.ends_after(answer), None), weight
                )
                choice = choose(mixture, temperature, functools.partial(chance, answer))
                if choice and choice != HALF:
                    choice = whole_characters(choice, (token, theirs))
                    if not choice:
                        return "no_new_text"
                if choice is None:
                    return "no_new_text"
            if not choice:
                return "base_model_stop" if ends else "blended_stop"
            if choice in (token.text, HALF):
                answer += token.text
                yield base_piece(token)
                continue
            answer += choice
            reader.close()
            reader = None
            yield Piece(choice, "nudging", token.top_prob)
        return "length"
    finally:
        if reader is not None:
            reader.close()
