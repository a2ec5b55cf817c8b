"""What of a run's files is read back, as tables of fields: files of other versions, of the published program, or mended by hand.

A field that an earlier version or the published program did not write has a default; of fields that are not here nothing is asked.
"""

from dataclasses import field, fields, make_dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, StrictInt, TypeAdapter

from command.schema import Count, Number, Rule, Seconds, Text, TextOrNull, Whole, WholeOrNull, open_table
from language_models.interface import Usage

_NUMBER = TypeAdapter(Number)
# Means of them are taken, which a number of hundreds of digits has not.
_Uses = Annotated[StrictInt, Field(ge=0, le=10**15), Rule("must be a number of requests or tokens")]


def _sound(scores: object) -> object:
    """Scores that are counted or shown; what is no object, or has aspects and no mean (as published), is read by scores_of."""
    if not scores or not isinstance(scores, dict):
        return scores
    if "mean" in scores:
        parts = [part["score"] for part in scores.values() if isinstance(part, dict) and "score" in part]
        for value in (scores["mean"], *parts):
            _NUMBER.validate_python(value)
    if not isinstance(scores.get("judge"), str | None):
        raise ValueError
    return scores


@open_table
class LogLine:
    """A line of a log: a record, or more of one."""

    index: Whole


_Usage = open_table(make_dataclass("_Usage", [(count.name, _Uses, 0) for count in fields(Usage)], frozen=True))


@open_table
class _Turn:
    role: Text
    content: Text


@open_table
class FailedRecord:
    """The record of a sample that has no answer."""

    question: Text
    index: Whole = 0
    answer_number: Count = 1
    answers: Count = 1
    history: list[_Turn] = field(default_factory=list, kw_only=True)


@open_table
class AnswerRecord(FailedRecord):
    """The record of an answer."""

    raw_answer: Text = field(kw_only=True)
    all_nudging_words: list[Text] = field(default_factory=list)
    all_completions: list[Text] = field(default_factory=list)
    stop_reason: TextOrNull = None
    scores: Annotated[object, AfterValidator(_sound), Rule("must hold scores: an object with numbers, or null")] = None
    usage: dict[str, _Usage] | None = None
    seconds: Seconds = 0


@open_table
class _Session:
    start: Text = ""
    seconds: Seconds = 0


@open_table
class RunMetadata:
    """run.json."""

    settings: dict = field(default_factory=dict)
    scoring: TextOrNull = None
    all_settings: dict = field(default_factory=dict)
    samples: WholeOrNull = None
    samples_of_all_shards: Whole = 0
    sessions: list[_Session] = field(default_factory=list)
