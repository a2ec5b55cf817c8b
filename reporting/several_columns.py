"""The columns of a table of runs that tell of several answers to each question; see experiment.several."""

from collections.abc import Callable

import pandas as pd

from experiment.diversity import MEASURES

_WITH_INTERVALS = ("pass_at_n", *MEASURES)
COLUMNS = (
    "questions",
    "answers_per_question",
    *(f"{name}{part}" for name in _WITH_INTERVALS for part in ("", "_low", "_high", "_questions")),
)
_HEADINGS = {
    "pass_at_n": ("Share with a right answer, pass@N", "{:.3f}"),
    **{name: (one.words[0].upper() + one.words[1:], one.form) for name, one in MEASURES.items()},
}


def columns_of_several(figures: dict) -> dict:
    """A run's figures, by COLUMNS; None where it has one answer to each question, or lacks one of them."""
    told = {name: None for name in COLUMNS} | {name: figures.get(name) for name in COLUMNS[:2]}
    found = {
        name: (figure["mean"], figure["interval_95"], figure["questions"])
        for name, figure in figures.get("diversity", {}).items()
    }
    if "pass_at_n" in figures:
        found["pass_at_n"] = tuple(figures[f"pass_at_n{part}"] for part in ("", "_interval_95", "_questions"))
    for name, (mean, interval, questions) in found.items():
        low, high = interval or (None, None)
        told |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_questions": questions}
    return told


def shown_of_several(row: pd.Series, number: Callable, interval: Callable) -> dict[str, str]:
    """The same for people, by headings; "" for what is not known.

    Args:
        number, interval: how a number, and a pair of bounds, are written in a form; "" for what is not known.
    """
    shown = {}
    for name, (heading, form) in _HEADINGS.items():
        mean, low, high, questions = (row.get(f"{name}{part}") for part in ("", "_low", "_high", "_questions"))
        told = number(mean, form) + interval(low, high, form)
        shown[f"{heading} (95 % interval)"] = told and told + number(questions, "\nn = {:.0f}")
    return shown
