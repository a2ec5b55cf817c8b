"""Rows of outputs as question and answer, whoever wrote them: this program, the published ones, or a user by hand."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from datasets_loader import DataError
from utils import without_surrogates

# A Llama-3 chat whose special tokens were dropped: role words stand alone, or glued to the end of the text before.
_TURN = re.compile(r"(?:^|(?<=[^\w\s])|(?<=\n))(?:user|assistant|system)\n\n")
_PREFERENCE = re.compile(r"^\s*\[(?:Guidelines|Principles)\].*?\[Instruction\]\s*", re.DOTALL)
EXPERIMENTS = {
    "hhrlhf": re.compile(r"###\s*Human:|\n\s*Human:"),
    "shp": re.compile(r"Human:"),
}


_DIALOGUE = re.compile(r"\s*Human:.*Assistant:\s*", re.DOTALL)
_SPEAKER = re.compile(r"\s*\b(Human|Assistant):\s*")


@dataclass(frozen=True)
class Answered:
    """A question and its answer. `prompt` has the preference text before the question; `elapsed` is in seconds.

    `texts` are the row's own, by field: what the published programs score. `sample` is the number of the answer, of several to one
    question.
    """

    index: int
    question: str
    answer: str
    prompt: str
    elapsed: float | None = None
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    sample: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from others in one file."""
        return self.index, self.sample


def read_answer(
    row, number: int, where: str, *, experiment: str = "hhrlhf", field: str | None = None, any_response: bool = False
) -> Answered | None:
    """Question and answer of a row; None where the row says that it was skipped. Half a character is U+FFFD.

    The question is `instruction`, or `prompt` without the preference text that ends in [Instruction]. The answer is `result` or
    `output`, or `response` without the prompt that it begins with; of the published program's transcripts it is the turn behind the
    prompt. An invented next turn is cut off, by `experiment`: at a new line with "Human:" (hhrlhf), or at any (shp).

    Args:
        number: of the row, from 0, where it names no `index`.
        where: file, for messages.
        field: the field that holds the answer, where it is none of these.
        any_response: whether a response that does not begin with its prompt is an answer, as the published programs take it.

    Raises:
        DataError: the row has no prompt or no answer.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}, row {number}: not an object")
    if row.get("skipped"):
        return None
    prompt = _text(row, "prompt", number, where)
    question = (
        _text(row, "instruction", number, where)
        if isinstance(row.get("instruction"), str)
        else _PREFERENCE.sub("", prompt, count=1)
    )
    answer = _answer(row, prompt, number, where, field, any_response)
    if cut := EXPERIMENTS[experiment].search(answer):
        answer = answer[: cut.start()]
    index = row_number(row, number)
    elapsed = row.get("elapsed") if isinstance(row.get("elapsed"), int | float) else None
    texts = {name: without_surrogates(text) for name, text in row.items() if isinstance(text, str)}
    sample = row["sample"] if isinstance(row.get("sample"), int) and row["sample"] >= 0 else 0
    return Answered(index, question, answer.strip(), prompt, elapsed, texts, sample)


def row_number(row: dict, number: int) -> int:
    """The number of a row's prompt: its `index`, or where it has none that of the row in its file."""
    return row["index"] if isinstance(row.get("index"), int) and row["index"] >= 0 else number


def is_dialogue(question: str) -> bool:
    """Whether a question is a dialogue "Human: ... Assistant:" that waits for its next line, as in HH-RLHF."""
    return bool(_DIALOGUE.fullmatch(question))


def chat_turns(question: str, answer: str) -> list[dict[str, str]]:
    """Question and answer as messages; the lines of a dialogue are messages of their own."""
    turns = [{"role": "user", "content": question}]
    if is_dialogue(question):
        _, *pieces = _SPEAKER.split(question)
        roles = {"Human": "user", "Assistant": "assistant"}
        turns = [{"role": roles[who], "content": text} for who, text in zip(pieces[:-2:2], pieces[1:-2:2], strict=True)]
    return [*turns, {"role": "assistant", "content": answer}]


def _answer(row: dict, prompt: str, number: int, where: str, field: str | None, any_response: bool) -> str:
    for name in (field,) if field else ("result", "output"):
        if name in row:
            text = _text(row, name, number, where)
            return _after_prompt(text, prompt) if name == "result" and "instruction" not in row else text
    response = _text(row, "response", number, where)
    if any_response:
        return _after_prompt(response.removeprefix(prompt), prompt)
    if not response.startswith(prompt):
        raise DataError(f"{where}, row {number}: its response does not begin with its prompt; name a field by --field")
    return _after_prompt(response[len(prompt) :], prompt)


def _after_prompt(text: str, prompt: str) -> str:
    """The first turn behind the prompt of a transcript; a text that is none is all answer."""
    header = f"{prompt.strip()}assistant\n\n"
    before, found, answer = text.partition(header)
    if not found or before.strip() not in ("", "user"):
        return text
    turn = _TURN.search(answer)
    return answer[: turn.start()] if turn else answer


def _text(row: dict, name: str, number: int, where: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(
            f'{where}, row {number}: there is no text "{name}"; it has {", ".join(map(str, row)) or "nothing"}'
        )
    return without_surrogates(row[name])
