"""JSON of files that others may have touched: what cannot be used of it is told in plain words."""

import json
from collections.abc import Iterator
from typing import Any

# What is read is copied, compared and written again by code that calls itself once for each level.
MOST_LEVELS = 100
# Digits of a whole number; Python reads and writes no more of them.
MOST_DIGITS = 4300


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, has a key twice in an object, a number of thousands of digits or lists in lists in lists.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        value = json.loads(text, object_pairs_hook=each_key_once)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in text.rstrip() else f"column {error.colno}"
        raise ValueError(f"not JSON: {error.msg}, {where}") from None
    except _OddObject:
        raise
    except ValueError:  # what Python says of it names a function of Python
        raise ValueError(f"a number in it has more than {MOST_DIGITS} digits") from None
    if _levels_exceed(value):
        raise ValueError(_TOO_DEEP)
    return value


_TOO_DEEP = f"lists or objects in it lie in one another more than {MOST_LEVELS} deep"


class _OddObject(ValueError):
    pass


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for a decoder's object_pairs_hook (ValueError: a key stands in it twice)."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise _OddObject(f"the key {json.dumps(twice)} stands twice in an object")
    return found


def _levels_exceed(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(whole: Any) -> Iterator[Any]:
    return iter(whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ())
