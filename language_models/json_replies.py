"""The JSON object in a reply of a model that was asked for one, read as a person would read it.

Models think aloud, write prose around the object, put it into a block of code, and write LaTeX, quotes and newlines into its texts
as they are. What is read is what stands there: an object that breaks off is none.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator

UNREADABLE_TRIES = 3
ENOUGH_REPLIES = 10  # before a judge of which most replies cannot be read is asked no more
QUOTED = 200
LONGEST_REASON = 400  # characters
# What a model thinks before it answers, between the marks of the usual families: <think> and the like, Magistral, Kimi, Command,
# Gemma, and the channels of gpt-oss. A thought that has begun before the reply has an end alone, one that breaks off a beginning.
_NAMES = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reason",
    "reasoning",
    "reflection",
    "analysis",
    "scratchpad",
    "seed:think",
)
_THOUGHTS = (
    *((rf"<{name}(?:\s[^<>]*)?>", rf"</{name}>") for name in _NAMES),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|(?:START_|begin_of_)(?:thinking|thought)\|>", r"<\|END_(?:of_)?(?:thinking|thought)\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
    ("<unused94>thought", "<unused95>"),
    (r"<\|channel\|>(?:analysis|commentary)", r"<\|channel\|>final"),
)
_MARKS = re.compile(
    "|".join(f"(?P<begin{i}>{begin})|(?P<end{i}>{end})" for i, (begin, end) in enumerate(_THOUGHTS)), re.IGNORECASE
)
# A backslash that begins no escape of JSON, LaTeX mostly: \frac is no form feed, and \beta no backspace.
_LONE_BACKSLASH = re.compile(r'(?<!\\)((?:\\\\)*)\\(?!["\\/nrt]|u[0-9a-fA-F]{4})')
_STRICT = json.JSONDecoder(strict=False)  # newlines within texts are taken as they are
_STRICT_BEGIN = re.compile(r'\{\s*["}]')
# Not the brackets of a set, of LaTeX, or around another object.
_BEGIN = re.compile(r"""\{(?=\s*(?:["'“‘}\\]|\w+\s*:|/[/*]))""")
_BRACES = re.compile(r"[{}]")
_PLAIN_VALUE = re.compile(r"-?\d[\d.]*|true|false|null|none", re.IGNORECASE)
_BEHIND_A_VALUE = r"""\s*["'”’\\]*\s*(?:[,}\]\n#]|//|/\*|["'“‘]\w|\Z)"""


class ReplyTally:
    """Counts a model's replies that can be read and that cannot, from many threads.

    `hopeless`: most of them could not, of ten at least.
    """

    def __init__(self):
        self.hopeless = False
        self._counts = Counter[bool]()
        self._lock = threading.Lock()

    def add(self, readable: bool) -> None:
        """Count a reply."""
        with self._lock:
            self._counts[readable] += 1
            self.hopeless |= self._counts.total() >= ENOUGH_REPLIES and self._counts[False] > self._counts[True]


class UnreadableObject(ValueError):
    """There is no object of the wanted kind in a reply."""


def reply_objects(text: str, keys: Collection[str]) -> list[dict]:
    """The objects in a reply that have any of some keys, in order; they may lie in other objects.

    Their own keys come back in small letters and without blanks around them.

    Raises:
        UnreadableObject: there is none that is whole.
    """
    spans = list(_objects(_LONE_BACKSLASH.sub(r"\1\\\\", _without_thoughts(text))))
    whole, broken = ([one for one in spans if isinstance(one, kind)] for kind in (dict, str))
    for found in (whole, map(_mended, broken)):
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
    """A text with blanks for what is only thought; marks that an object's texts mention are none."""
    thoughts, begun, kind = [], None, ""
    for mark in _MARKS.finditer(_without_objects(text)):
        side, number = re.fullmatch(r"(begin|end)(\d+)", mark.lastgroup).groups()
        if begun is None and side == "begin":
            begun, kind = mark.start(), number
        elif side == "end" and (begun is None or number == kind):
            thoughts.append((begun or 0, mark.end()))
            begun = None
    for begin, end in [*thoughts, *([(begun, len(text))] if begun is not None else [])]:
        text = text[:begin] + " " * (end - begin) + text[end:]
    return text


def _without_objects(text: str) -> str:
    """A text with blanks for the objects in it that are JSON but for newlines and single backslashes in their texts."""
    readable = re.sub(r'\\[^"]', "  ", text)  # as long as the text, and without escapes that are none
    parts, at, kept = [], 0, 0
    while begin := _STRICT_BEGIN.search(readable, at):
        try:
            _, at = _STRICT.raw_decode(readable, begin.start())
        except (ValueError, RecursionError):
            at = begin.start() + 1
        else:
            parts += [text[kept : begin.start()], " " * (at - begin.start())]
            kept = at
    return "".join([*parts, text[kept:]])


def _objects(text: str) -> Iterator[dict | str]:
    """The objects in a text, in order: read where they are JSON, as they stand where their quotes, commas or keys are none.

    What is never closed is cut off, and whatever stands in it is a part of it.
    """
    at = 0
    while begin := _BEGIN.search(text, at):
        try:
            found, at = _STRICT.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            at = _closing(text, begin.start())
            if not at:
                return
            found = text[begin.start() : at]
        yield found


def _closing(text: str, at: int) -> int:
    """Behind the bracket that closes the one at a place; 0 if none does."""
    depth = 0
    for brace in _BRACES.finditer(text, at):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return brace.end()
    return 0


def _mended(text: str) -> dict:
    """An object whose quotes, commas or keys are no JSON; empty where it is unclear which values it has."""
    import json_repair  # few replies need it

    try:
        found = json_repair.loads(text)
    except Exception:  # whatever it stumbles over, the text is no object
        return {}
    return found if isinstance(found, dict) and _stand_there(found, text) else {}


def _stand_there(found: dict, text: str) -> bool:
    """Whether the numbers and truth values of a mended object stand in the text as such, and no others under their names.

    1 is not what <1 or 0> says, nor what the reason quotes.
    """
    values: dict[str, list[str]] = {}
    for inner in _with_inner(found):
        for key, value in inner.items():
            if not isinstance(value, dict | list) and _PLAIN_VALUE.fullmatch(str(value).strip()):
                values.setdefault(key, []).append(str(value).strip())
    for key, told in values.items():
        name = rf"(?<!\w){re.escape(key)}\s*[\"'”’\\]*\s*:"
        value = "|".join(map(re.escape, sorted(set(told) | {one.lower() for one in told})))
        clear = re.findall(rf"""{name}\s*[\"'“‘\\]*\s*(?:{value}){_BEHIND_A_VALUE}""", text, re.IGNORECASE)
        if not len(told) == len(clear) == len(re.findall(name, text, re.IGNORECASE)):
            return False
    return True


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
