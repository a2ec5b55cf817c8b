"""An answer of a pair and its record."""

from dataclasses import dataclass, field, replace

from answering.endings import Part
from language_models.interface import Usage
from nudging import Piece
from utils import clean_answer, count_tokens

# Why an answer ends that is whole; all else has cut it off.
WHOLE = ("nudging_model_stop", "repeated_nudging_words", "stop_sequence", "stop")


@dataclass
class Answer:
    """An answer and its record; `str(answer)` is its text.

    `raw_text` is what the models wrote, `text` the same as run_api.py records it (without white space and repetitions at its end).
    `pieces`: who wrote what. `stop_reason` is one of nudging_model_stop, repeated_nudging_words, stop_sequence, round, length,
    max_tokens, context_length, of one model alone stop or length, and cancelled of an answer that nobody read to its end. `usage`:
    what was asked of each model.
    """

    pieces: list[Piece] = field(default_factory=list)
    stop_reason: str = "cancelled"
    usage: dict[str, Usage] = field(default_factory=dict)
    _last: int = -1

    def add(self, part: Part) -> None:
        """Record what comes next."""
        if part.number == self._last:
            piece = self.pieces[-1]
            self.pieces[-1] = replace(piece, text=piece.text + part.piece.text)
        else:
            self.pieces.append(part.piece)
        self._last = part.number

    def __str__(self) -> str:
        return self.text

    @property
    def raw_text(self) -> str:
        """All that the models wrote."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def text(self) -> str:
        """The answer as run_api.py records it."""
        return clean_answer(self.raw_text)

    @property
    def nudging_words(self) -> list[str]:
        """The words of the nudging model, round by round."""
        return [piece.text for piece in self.pieces if piece.by == "nudging"]

    @property
    def rounds(self) -> int:
        """In how many rounds it wrote."""
        return len(self.nudging_words)

    @property
    def rate(self) -> float:
        """The share of the answer's cl100k_base tokens that the nudging model wrote, 0 to 1."""
        words, whole = sum(map(count_tokens, self.nudging_words)), count_tokens(self.raw_text)
        return min(1.0, words / max(1, whole))  # words by themselves may be more tokens than they are side by side

    @property
    def finish_reason(self) -> str:
        """ "stop" where the answer is whole, "length" where it was cut off."""
        return "stop" if self.stop_reason in WHOLE else "length"
