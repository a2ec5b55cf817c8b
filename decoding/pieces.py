"""What comes out of a decoding loop of two models: words of the nudging model, tokens of the base model, and their record."""

from dataclasses import dataclass, field
from typing import Literal

from language_models.interface import ContextLengthError, Token
from utils import clean_answer


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: words of the nudging model, or one token of the base model.

    `top_prob` is the base model's top-1 probability there, 0 to 1: at its own token, or at the uncertain one in whose place the
    nudging model's words stand; None where it was not asked (at an answer's beginning, behind a repetition or an end).
    """

    text: str
    by: Literal["nudging", "base"]
    top_prob: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RoundOver:
    """Nothing more comes in this round."""


def base_piece(token: Token) -> Piece:
    """A token of the base model as a part of the answer."""
    return Piece(token.text, "base", token.top_prob)


@dataclass
class NudgingResult:
    """An answer in the making and its record.

    `nudging_words[i]` are the words of the nudging model that open `pieces[i]`; the pieces joined are the uncleaned answer.
    `base_tokens` counts the base model's tokens in it. `context_error` is what was said where a context window ended it.
    """

    pieces: list[str] = field(default_factory=list)
    nudging_words: list[str] = field(default_factory=list)
    stop_reason: str = ""
    base_tokens: int = 0
    context_error: ContextLengthError | None = field(default=None, compare=False)

    def add(self, piece: Piece) -> None:
        """Record what comes next; words of the nudging model open a piece of the record."""
        if piece.by == "nudging":
            self.nudging_words.append(piece.text)
            self.pieces.append(piece.text)
        else:
            self.pieces[-1] += piece.text
            self.base_tokens += 1

    @property
    def text(self) -> str:
        """The answer so far, uncleaned."""
        return "".join(self.pieces)

    @property
    def answer(self) -> str:
        """The answer, cleaned."""
        return clean_answer(self.text)
