"""What a row of one's own questions means: a question, prompt or conversation, and with it an answer, a context, an id."""

import json
import math

from datasets_loader import DataError, Example
from questions.files import Row

ASKED = ("question", "prompt", "messages")
NAMES = (*ASKED, "answer", "context", "id")
ROLES = ("system", "user", "assistant")
ELSEWHERE = "keep it in a column of another name, which stands in the records under columns"


def examples_of(rows: list[Row]) -> list[Example]:
    """The questions of all rows, in order. Without ids, a row's place from 0 is its id, as in the data sets.

    Raises:
        DataError: a row is no question, some rows have ids and others none, or an id stands there twice.
    """
    examples = [example_of(row, i) for i, row in enumerate(rows)]
    told = [_value(row, "id") is not None for row in rows]
    if any(told) and not all(told):
        raise DataError(f"{rows[told.index(False)].where}: it has no id, and others have; all rows need one, or none")
    first: dict[str, Row] = {}
    for row, example in zip(rows, examples, strict=True):
        other = first.setdefault(str(example.id), row)
        if other is not row:
            raise DataError(f"{row.where}: the id {example.id!r} is that of {other.where} too; ids must differ")
    return examples


def example_of(row: Row, place: int) -> Example:
    """The question of a row.

    A question or prompt is asked as it is written, behind the context, which ends with a blank line unless it ends with a line's
    end of its own. Of a conversation the last turn is the question, and the turns before it are its history.

    Raises:
        DataError: it is none; the message names place and column.
    """
    _check_names(row)
    present = [name for name in ASKED if _value(row, name) is not None]
    if len(present) != 1:
        if present:
            raise DataError(f"{row.where}: there is {' and '.join(present)} in it; a row has one of these")
        columns = ", ".join(map(repr, row.values)) or "none"
        raise DataError(f"{row.where}: there is no question, prompt or messages in it (its columns: {columns})")
    history: tuple[tuple[str, str], ...] = ()
    if present == ["messages"]:
        *history, (_, question) = turns_of(row)
    else:
        question = _text(row, present[0])
    context = _text(row, "context") if _value(row, "context") is not None else ""
    if context and not context.endswith("\n"):
        context += "\n\n"
    return Example(
        id=_id(row, place),
        question=question,
        gold=_answer(row),
        context=context,
        history=tuple(history),
        columns={name: value for name, value in row.values.items() if _known(name) is None},
    )


def _known(name: str) -> str | None:
    """Which of NAMES a column's name is, in capitals or not."""
    small = name.strip().lower()
    return small if small in NAMES else None


def _check_names(row: Row) -> None:
    known = [_known(name) for name in row.values]
    for name in NAMES:
        if known.count(name) > 1:
            written = [repr(one) for one in row.values if _known(one) == name]
            raise DataError(f"{row.where}: {' and '.join(written)} are both the column {name}")


def _value(row: Row, name: str) -> object:
    """What a row has in a column of NAMES; None for null, and for an empty cell or text."""
    value = next((value for written, value in row.values.items() if _known(written) == name), None)
    empty = isinstance(value, str) and not value.strip() and name not in ASKED
    return None if empty or value == "" else value


def _text(row: Row, name: str) -> str:
    value = _value(row, name)
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {name} must be a text; it is {_shown(value)}")
    return _sound(row, name, value)


def _sound(row: Row, name: str, text: str) -> str:
    if not text.strip():
        raise DataError(f"{row.where}: {name} is empty")
    if "\0" in text:
        raise DataError(f"{row.where}: {name} holds a NUL character, which no prompt can; is the file a text in UTF-8?")
    return text


def _answer(row: Row) -> str:
    value = _value(row, "answer")
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{row.where}: answer must be a text or a number; it is {_shown(value)}: {ELSEWHERE}")
    return _sound(row, "answer", value).strip()


def _id(row: Row, place: int) -> int | str:
    value = _value(row, "id")
    if value is None:
        return place
    if isinstance(value, str):
        return _sound(row, "id", value).strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(f"{row.where}: id must be a text or a whole number; it is {_shown(value)}")


def turns_of(row: Row) -> list[tuple[str, str]]:
    """The turns of a row's messages as (role, text), the last one the user's; in a table a cell holds them as JSON.

    Raises:
        DataError: they are something else; the message names the place.
    """
    value = _value(row, "messages")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.where}: messages must be a list of JSON ({error})") from None
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.where}: messages must be a list of role and content; it is {_shown(value)}")
    turns = [_turn(row, f"messages[{i}]", one) for i, one in enumerate(value)]
    if turns[-1][0] != "user":
        raise DataError(
            f"{row.where}: the last of messages must be the user's, which is answered; it is of the role {turns[-1][0]}"
        )
    return turns


def _turn(row: Row, place: str, message: object) -> tuple[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise DataError(f"{row.where}: {place} must be an object with role and content; it is {_shown(message)}")
    if message["role"] not in ROLES:
        raise DataError(f"{row.where}: {place}.role is {_shown(message['role'])}; there are: {', '.join(ROLES)}")
    if more := [key for key, value in message.items() if key not in ("role", "content") and value is not None]:
        raise DataError(f"{row.where}: {place} has {more[0]!r} beside role and content, which no prompt would hold")
    if not isinstance(message["content"], str):
        raise DataError(f"{row.where}: {place}.content must be a text; it is {_shown(message['content'])}")
    return message["role"], _sound(row, f"{place}.content", message["content"])


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."
