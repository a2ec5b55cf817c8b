"""Scorers of answers: the table of them, and a function of one's own."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass

from command.errors import OptionError
from command.unexpected import plain
from experiment.rules import last_number, rule_score


@dataclass(frozen=True)
class Scorer:
    """Scores an answer: `score` gives {"correct": 0 or 1, ...} of a record, or None where it cannot be scored."""

    score: Callable[[dict], dict | None]


def _rule(record: dict) -> dict | None:
    gold = record["gold_answer"]
    return None if last_number(gold) is None else rule_score(record["raw_answer"], gold)


def own_scorer(told: str) -> Scorer:
    """A function of one's own, FILE.py:function (OptionError: there is none)."""
    file, _, name = told.rpartition(":")
    try:
        function = runpy.run_path(file)[name]
    except Exception as error:
        raise OptionError(f"--scoring {told}: {plain(error)}") from None

    def score(record: dict) -> dict | None:
        value = function(record)
        if value is None or isinstance(value, dict):
            return value
        return {"correct": int(value)} if value in (0, 1) else {"score": value}

    return Scorer(score)


SCORERS = {"rule": Scorer(_rule)}
