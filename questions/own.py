"""Questions of one's own in the place of a data set: what they are called, how they are asked, and which of them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets_loader import DATA_SETS, INSTRUCTION_PROMPT, DataError, DataSet, Example, sampled
from questions.files import rows_of, stem_of
from questions.rows import examples_of

JUDGE_MODEL = "gpt-4o-mini"
_LONGEST_NAME = 100  # bytes; a folder's name may have 255
# Folders of these names have a meaning below an output folder.
_TAKEN = re.compile(r"all_info|replaced-.*", re.DOTALL)


@dataclass(frozen=True)
class Questions:
    """The questions of a file that are asked, and what has to be said of them."""

    examples: list[Example]
    told: str


def questions_name(path: Path) -> str:
    """What the results of a file of questions are called: its name without ending, made safe for a path.

    Raises:
        DataError: its ending tells no format, or it is the name of a data set, whose results these would be taken for.
    """
    stem = stem_of(path)
    name = re.sub(r"[^\w.-]+", "_", stem.encode(errors="replace").decode()).lstrip(".-")
    if len(name.encode()) > _LONGEST_NAME:
        told = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{told}"
    if not name.strip("_"):
        raise DataError(f"{path}: the results take their name from the file's, and {stem!r} makes none; rename it")
    if name.casefold() in DATA_SETS or _TAKEN.fullmatch(name.casefold()):
        what = "a data set" if name.casefold() in DATA_SETS else "a folder of this program"
        raise DataError(
            f"{path}: {name} is the name of {what}, and its results would be taken for that one's; rename it"
        )
    return name


def own_data_set(system_prompt: str | None, scoring: str) -> DataSet:
    """How questions of one's own are asked.

    They have no prefix such as "Question: ", which belongs to the published prompts of the data sets: a row is asked as it is
    written, so that it may be a question, an instruction or a turn of a conversation.
    """

    def read(row: dict) -> tuple[str, ...]:
        raise AssertionError("rows of one's own are read by questions.rows")

    return DataSet(
        hub_id="",
        read=read,
        splits=(),
        scoring=scoring,
        judge_model=JUDGE_MODEL,
        system_prompt=INSTRUCTION_PROMPT if system_prompt is None else system_prompt,
        question_prefix="",
        keeps_blanks=True,
    )


def load_questions(path: Path, num_samples: int | None = None) -> Questions:
    """The questions of a file, in order, or a sample of them, drawn as from the data sets.

    Raises:
        DataError: the file cannot be read, or a row is no question.
    """
    rows, passed_over = rows_of(path)
    examples = examples_of(rows)
    chosen = [examples[i] for i in sampled(len(examples), num_samples)]
    return Questions(chosen, _told(path, examples, chosen, passed_over))


def _told(path: Path, examples: Sequence[Example], chosen: Sequence[Example], passed_over: Sequence[str]) -> str:
    """What is said of a file: how many questions, how many of them with an answer, and what else is in it."""
    number = f"{len(chosen)} of {len(examples)}" if len(chosen) < len(examples) else f"{len(chosen)}"
    told = [f"{number} in {path}", f"{sum(bool(one.gold) for one in chosen)} with an answer"]
    if conversations := sum(any(role != "system" for role, _ in one.history) for one in chosen):
        told.append(f"{conversations} with earlier turns")
    if own := sum(any(role == "system" for role, _ in one.history) for one in chosen):
        told.append(f"{own} with a system turn of their own")
    columns = dict.fromkeys(name for one in chosen for name in one.columns)
    if columns:
        told.append(f"columns carried along: {', '.join(columns)}")
    if passed_over:
        told.append(f"not read: {', '.join(passed_over)}")
    return "questions: " + ", ".join(told[:2]) + "".join(f"; {one}" for one in told[2:])
