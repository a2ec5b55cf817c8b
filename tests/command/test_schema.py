"""Tests of command/schema.py: what does not fit is told in one sentence, by key, rule and value."""

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, StrictInt

from command.errors import OptionError
from command.schema import Count, Number, Rule, Text, WholeOrNull, closed_table, open_table, read_as, shown


@closed_table
class Closed:
    topk: Count
    weight: Number = 1
    mode: Annotated[Literal["a", "b"] | None, Rule("must be a, b or null")] = None
    seed: WholeOrNull = None


@open_table
class Inner:
    name: Text
    sizes: list[Annotated[StrictInt, Field(ge=0), Rule("must be a size")]] = Field(default_factory=list)


@open_table
class Outer:
    inner: list[Inner] = Field(default_factory=list)
    table: dict[str, Count] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Closed, {"topk": 0}, "f: topk must be a whole number from 1; it is 0"),
        (Closed, {"topk": True}, "f: topk must be a whole number from 1; it is true"),
        (Closed, {"topk": "3"}, 'f: topk must be a whole number from 1; it is "3"'),
        (Closed, {"topk": 1, "weight": float("nan")}, "f: weight must be a finite number; it is NaN"),
        (Closed, {"topk": 1, "mode": ["ä"]}, 'f: mode must be a, b or null; it is ["ä"]'),
        (Closed, {"topk": 1, "seed": -1}, "f: seed must be a whole number from 0, or null; it is -1"),
        (Closed, {"weight": "x"}, "f: 'topk' is missing"),
        (Closed, {"topK": 1}, "f has an unknown key 'topK' (is 'topk' meant?); known are: topk, weight, mode, seed"),
        (Closed, {"x\n": 1}, "f has an unknown key 'x\\n'; known are: topk, weight, mode, seed"),
        (Closed, [1], "f must be a table of keys and values; it is [1]"),
        (Outer, {"inner": [{"name": "a"}, {"sizes": []}]}, "f: 'inner[1].name' is missing"),
        (Outer, {"inner": [{"name": "a", "sizes": [1, -1]}]}, "f: inner[0].sizes[1] must be a size; it is -1"),
        (Outer, {"inner": {}}, "f: inner must be a list; it is {}"),
        (Outer, {"inner": [3]}, "f: inner[0] must be a table of keys and values; it is 3"),
        (Outer, {"\ud800": 1}, 'f has a key with half a character (a surrogate by itself); it is "\ud800"'),
        (Outer, {"table": {"a b": 0}}, "f: table.a b must be a whole number from 1; it is 0"),
        (Outer, {"table": {"a\nb": 0}}, "f: table.'a\\nb' must be a whole number from 1; it is 0"),
    ],
)
def test_what_does_not_fit(kind, value, said):
    with pytest.raises(OptionError) as error:
        read_as(kind, value, "f", OptionError)
    assert str(error.value) == said
    with pytest.raises(OptionError) as error:
        read_as(kind, value, "f", OptionError, remedy="mend it")
    assert str(error.value) == f"{said}; mend it"


def test_what_fits():
    assert read_as(Closed, {"topk": 3, "weight": 2}, "f", OptionError) == Closed(3, 2)
    # What a model has written may hold half of a character.
    assert read_as(Inner, {"name": "\ud800"}, "f", OptionError).name == "\ud800"
    assert isinstance(read_as(Closed, {"topk": 3, "weight": 2}, "f", OptionError).weight, int)
    assert read_as(Outer, {"inner": [{"name": "", "new": 1}], "new": {}}, "f", OptionError) == Outer([Inner("")])


@pytest.mark.parametrize("wrong", [{"topk": 0}, {"topk": 1, "weight": 10**400}, {"topk": 1, "more": 1}, {}])
def test_a_table_cannot_be_made_with_what_does_not_fit(wrong):
    with pytest.raises(ValueError):
        Closed(**wrong)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=40))
def test_a_shown_value_is_one_short_line(value):
    assert len(shown(value)) < 130 and not set("\n\r\t\x00\x1b") & set(shown(value))


def test_values_that_no_text_can_show():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "too long to be shown (list)" and shown(10**5000) == "too long to be shown (int)"
    while deep:  # taken apart by hand: the interpreter would do it by recursion
        deep = deep.pop()
