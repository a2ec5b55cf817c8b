"""What a model thinks of a text that is there already: the most probable tokens at each of its tokens (teacher forcing).

One interface for a model of this process (local/text_scores.py: passes over the text) and one behind a server
(hosted/text_scores.py: the log-probabilities of an echoed prompt, or one request for each place).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from language_models.interface import REPLACEMENT, LanguageModel, SamplingParams


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One token of a text, by the model's own tokenizer.

    `start` is its first character's offset in the text and `text` its slice: of a character that spans several tokens the last
    one has it, and the others are "". `logprob` is its own natural log-probability, None where it is not told; `top` has the most
    probable tokens at its place as (text, natural log-probability), most probable first, no text twice; () where none are told.
    """

    start: int
    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]


class TextScorer(Protocol):
    """Scores texts; safe to use from many threads. `how` says in a few words how that is done, once a text was scored."""

    name: str
    how: str

    def score(self, prompt: str, text: str, logprobs: int) -> tuple[ScoredToken, ...]:
        """The tokens of a text behind a prompt.

        Prompt and text are cut into tokens as one. A token that lies in both is left out, so that the first one may not begin at
        the text's beginning; from there on their texts joined are the text.

        Args:
            prompt, text: the text is scored; neither is empty.
            logprobs: how many of the most probable tokens are told at each place, at least 1.

        Raises:
            ContextLengthError: both together do not fit into the context window.
            ModelError: the model does not answer, or its tokenizer does not give the text back.
        """
        ...


def tokens_of(slices: Sequence[str], skipped: int) -> list[tuple[int, str, int]]:
    """The tokens that begin in a text which stands behind `skipped` characters: offset in it, slice, and number among all."""
    found, at = [], -skipped
    for number, piece in enumerate(slices):
        # Of a token without characters at the very beginning nobody knows whether it is the prompt's: those that follow tell.
        if at >= 0 and (found or piece):
            found.append((at, piece, number))
        at += len(piece)
    return found


def most_probable(top: Sequence[tuple[str, float]], count: int) -> tuple[tuple[str, float], ...]:
    """The most probable ones of a list that may have the text's own token besides."""
    return tuple(sorted(top, key=lambda pair: -pair[1])[:count])


def without_empty(top: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """A list, most probable first, in which "" stands for a part of a character: so it is written down, once."""
    found: dict[str, float] = {}
    for listed, logprob in top:
        found.setdefault(listed or REPLACEMENT, logprob)
    return tuple(found.items())


def cut_together(slices: Sequence[str], names: Sequence[str]) -> list[str]:
    """Slices in which a token that ends within a character is "": what it has before that (a blank) goes to the next one.

    Args:
        names: the tokens' own texts, a part of a character as replacement characters.
    """
    found, before = [], ""
    for piece, name in zip(slices, names, strict=True):
        piece, before = before + piece, ""
        if name.endswith(REPLACEMENT) and piece.strip() == name.rstrip(REPLACEMENT).strip():
            piece, before = "", piece
        found.append(piece)
    if before:
        found[-1] += before
    return found


def place_by_place(
    model: LanguageModel, prompt: str, tokens: Sequence[tuple[int, str]], text: str, logprobs: int
) -> tuple[ScoredToken, ...]:
    """Score a text by one request of one token for each place: for servers that echo no log-probabilities.

    The text before a place is cut into tokens by itself here, which may be other ones than within the whole text.

    Args:
        tokens: offset and slice of each, by the model's tokenizer.

    Raises:
        ContextLengthError, ModelError: see LanguageModel.complete.
    """
    found, inside = [], False
    for start, piece in tokens:
        top = ()
        if not inside and piece:  # a server cannot be asked from the middle of a character
            asked = model.complete(prompt + text[:start], SamplingParams(1, logprobs=logprobs))
            top = most_probable(asked.tokens[0].top, logprobs) if asked.tokens else ()
            if asked.finish_reason == "length":  # "" is a part of a character then, and no end of sequence
                top = without_empty(top)
        own = None if REPLACEMENT in piece else dict(top).get(piece)
        found.append(ScoredToken(start, piece, own, top))
        inside = not piece
    return tuple(found)
