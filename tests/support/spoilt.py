"""Hypothesis strategies for files that somebody has spoilt: a value of any shape at any place, a key gone, a key more."""

import copy
import math

from hypothesis import strategies as st

TEXTS = st.sampled_from(["", "x", "3", "gsm8k", "a\nb", "\x1b[31m", "ä", "\ud800", "{", "$HOME"]) | st.text(max_size=8)
NUMBERS = st.integers(-3, 40) | st.sampled_from([10**400, -(2**70), math.nan, math.inf, -math.inf, 0.5]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def places(content, above: tuple = ()) -> list[tuple]:
    """The way to every value within a dict or list."""
    if not isinstance(content, dict | list):
        return []
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    return [way for key, value in entries for way in ((*above, key), *places(value, (*above, key)))]


@st.composite
def spoilt(draw, content, values=VALUES) -> tuple[object, tuple]:
    """A copy in which one place is spoilt, and the way there."""
    changed = copy.deepcopy(content)
    way = draw(st.sampled_from(places(changed)))
    holder = changed
    for key in way[:-1]:
        holder = holder[key]
    how = draw(st.sampled_from(["another", "another", "another", "gone", "more"]))
    if how == "gone":
        del holder[way[-1]]
    elif how == "more" and isinstance(holder, dict):
        way = (*way[:-1], draw(st.sampled_from(["new", f"{way[-1]}s", "x y"])))
        holder[way[-1]] = draw(values)
    else:
        holder[way[-1]] = draw(values)
    return changed, way
