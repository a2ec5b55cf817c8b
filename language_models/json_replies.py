"""The JSON object in a reply of a model that was asked for one, read as a person would read it.

Models think aloud, write prose around the object, put it into a block of code, and write LaTeX, quotes and newlines into its texts
as they are. What is read is what stands there: an object that breaks off is none.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator

UNREADABLE_TRIES = 3
ENOUGH_REPLIES = 10  # before a judge of which most replies cannot be read is asked no more
QUOTED = 200
LONGEST_REASON = 400  # characters
_NAMES = r"think(?:ing)?|thought|reason(?:ing)?|reflection"
# What a model thinks before it answers, by the marks of the usual families: whole, begun before the reply, or broken off.
_THOUGHTS = (
    re.compile(
        rf"<({_NAMES})>.*?</\1>|\[THINK\].*?\[/THINK\]|<\|channel\|>analysis.*?(?=<\|channel\|>final)",
        re.DOTALL | re.IGNORECASE,
    ),
    re.compile(rf".*(?:</(?:{_NAMES})>|\[/THINK\])", re.DOTALL | re.IGNORECASE),
    re.compile(rf"(?:<(?:{_NAMES})>|\[THINK\]|<\|channel\|>analysis).*", re.DOTALL | re.IGNORECASE),
)
# A backslash that begins no escape of JSON, LaTeX mostly: \frac is no form feed, and \beta no backspace.
_LONE_BACKSLASH = re.compile(r'(?<!\\)((?:\\\\)*)\\(?!["\\/nrt]|u[0-9a-fA-F]{4})')
_STRICT = json.JSONDecoder(strict=False)  # newlines within texts are taken as they are


class UnreadableObject(ValueError):
    """There is no object of the wanted kind in a reply."""


def reply_objects(text: str, keys: Collection[str]) -> list[dict]:
    """The objects in a reply that have any of some keys, in order; they may lie in other objects.

    Their own keys come back in small letters and without blanks around them.

    Raises:
        UnreadableObject: there is none that is whole.
    """
    answer = _without_thoughts(text)
    for found in (_whole_object(text), _objects(answer), _mended_objects(answer)):
        fitting = [inner for one in found for inner in _with_inner(_plain(one)) if not inner.keys().isdisjoint(keys)]
        if fitting:
            return fitting
    raise UnreadableObject(f"no whole JSON object with {' or '.join(map(repr, keys))} in it")


def schema_with_reason(choices: dict[str, list[int]]) -> dict:
    """The JSON schema of an object with a reason of limited length, and keys with a choice of numbers each."""
    values = {key: {"type": "integer", "enum": numbers} for key, numbers in choices.items()}
    properties = {"reason": {"type": "string", "maxLength": LONGEST_REASON}} | values
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def quoted(text: str) -> str:
    """The beginning of a reply, for messages."""
    text = " ".join(text.split())
    return repr(text if len(text) <= QUOTED else text[:QUOTED] + " ...")


def _without_thoughts(text: str) -> str:
    for marked in _THOUGHTS:
        text = marked.sub("", text)
    return text


def _whole_object(text: str) -> Iterator[dict]:
    """A reply that is an object and nothing else, whatever marks its texts mention."""
    text = _LONE_BACKSLASH.sub(r"\1\\\\", text.strip())
    with contextlib.suppress(ValueError, RecursionError):
        found = _STRICT.decode(text)
        if isinstance(found, dict):
            yield found


def _objects(text: str) -> Iterator[dict]:
    """The objects in a text that are JSON but for newlines and single backslashes in their texts, in order."""
    at = 0
    text = _LONE_BACKSLASH.sub(r"\1\\\\", text)
    while (at := text.find("{", at)) >= 0:
        try:
            found, at = _STRICT.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            yield found


def _mended_objects(text: str) -> Iterator[dict]:
    """The objects in a text whose quotes, commas or keys are no JSON."""
    import json_repair  # few replies need it

    begin, end = text.find("{"), text.rfind("}") + 1
    # What has more that open than close is cut off, and would be closed where it ends.
    if 0 <= begin < end and text.count("{", begin, end) == text.count("}", begin, end):
        found = json_repair.loads(text[begin:end])
        yield from (one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict))


def _plain(found: object) -> object:
    if isinstance(found, list):
        return [_plain(one) for one in found]
    if not isinstance(found, dict):
        return found
    return {key.strip().lower(): _plain(value) for key, value in found.items()}


def _with_inner(found: object) -> Iterator[dict]:
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from _with_inner(value)
    if isinstance(found, dict):
        yield found
