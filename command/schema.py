"""Tables of fields (pydantic) for what is read from files, and one sentence about what does not fit in them.

@closed_table
class Sampling:
    topk: Count
    seed: Annotated[StrictInt | None, Field(ge=0), Rule("must be a whole number from 0, or null")] = None

sampling = read_as(Sampling, {"topk": 0}, "x.config, line 1", OptionError)
# OptionError: x.config, line 1: topk must be a whole number from 1; it is 0
"""

import dataclasses
import difflib
import functools
import json
import sys
from typing import Annotated, TypeVar

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, InstanceOf, StrictFloat, StrictInt, TypeAdapter
from pydantic import ValidationError as _ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from command.errors import UserError

T = TypeVar("T")
LONGEST_SHOWN = 120
_LARGEST = sys.float_info.max
# Of several faults the first of these is told: what was misspelt is both unknown and missing.
_FIRST = ("unexpected_keyword_argument", "missing")
_NO_TABLE = "must be a table of keys and values"
_NO_RULE = {
    "dataclass_type": _NO_TABLE,
    "dict_type": _NO_TABLE,
    "list_type": "must be a list",
    "string_unicode": "has a key with half a character (a surrogate by itself)",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is said of a value that a field refuses, for whatever reason: its key, these words, and the value."""

    words: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="rule", custom_error_message=self.words
        )


# Scalars are strict: no "3" for 3, no true for 1. A whole number stays one, so that it is written back as it was.
# A text is told by its class alone: pydantic's own check refuses lone surrogates, which a model's answer may hold.
Text = Annotated[InstanceOf[str], Rule("must be a text")]
TextOrNull = Annotated[InstanceOf[str] | None, Rule("must be a text or null")]
# Its bounds leave out NaN, infinities, and whole numbers too large for a float.
Finite = Annotated[StrictInt | StrictFloat, Field(ge=-_LARGEST, le=_LARGEST)]
Number = Annotated[Finite, Rule("must be a finite number")]
Seconds = Annotated[Finite, Field(ge=0), Rule("must be a number of seconds from 0")]
Count = Annotated[StrictInt, Field(ge=1), Rule("must be a whole number from 1")]
Whole = Annotated[StrictInt, Field(ge=0), Rule("must be a whole number from 0")]
WholeOrNull = Annotated[StrictInt | None, Field(ge=0), Rule("must be a whole number from 0, or null")]

# A table that a person writes: every key is known; no other closed one lies in it.
closed_table = dataclass(frozen=True, config=ConfigDict(extra="forbid"))
# A table that is read back: versions before and after this one have other keys.
open_table = dataclass(frozen=True, config=ConfigDict(extra="ignore"))


def read_as(
    kind: type[T],
    value: object,
    where: object,
    error: type[UserError],
    *,
    unknown: str = " has an unknown key {key}{hint}; known are: {known}",
    remedy: str = "",
) -> T:
    """A value of TOML or JSON as what it should be.

    Args:
        kind: a closed or an open table.
        where: file, and line or table.
        error: raised where it does not fit, with where, key, rule and value.
        unknown: how a key is refused, put right behind `where`; the hint is which one may be meant.
        remedy: put behind the message.
    """
    try:
        return _adapter(kind).validate_python(value)
    except _ValidationError as fault:
        raise error(f"{where}{_told(fault, kind, unknown)}{remedy and f'; {remedy}'}") from None


@functools.cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _told(fault: _ValidationError, kind: type, unknown: str) -> str:
    faults = fault.errors(include_url=False)
    first = min(faults, key=lambda one: _FIRST.index(one["type"]) if one["type"] in _FIRST else len(_FIRST))
    key = "".join(map(_step, first["loc"])).removeprefix(".")
    if first["type"] == "missing":
        return f": {key!r} is missing"
    if first["type"] == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(kind)]
        [*_, key] = first["loc"]
        near = difflib.get_close_matches(key, known, 1)
        hint = f" (is {near[0]!r} meant?)" if near else ""
        return unknown.format(key=repr(key), known=", ".join(known), hint=hint)
    words = _NO_RULE.get(first["type"], first["msg"])
    return f"{f': {key}' if key else ''} {words}; it is {shown(first['input'])}"


def _step(part: int | str) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else repr(part)}"


def shown(value: object) -> str:
    """A value for a message, as JSON and mostly also TOML write it, of limited length."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date of TOML
        text = str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return f"too long to be shown ({type(value).__name__})"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."
