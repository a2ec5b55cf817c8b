"""Scorers of answers: the table of them, and functions of one's own."""

import copy
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from command.errors import OptionError
from command.paths import is_file, user_path
from command.unexpected import plain
from experiment import reading, reading_words
from experiment.rules import last_number, rule_score


@dataclass(frozen=True)
class Scorer:
    """Scores an answer: `score` gives {"correct": 0 or 1, ...} of a record, or None where it cannot be scored.

    A function of one's own may give {"score": 0 to 1, ...} instead. `what` says in words what is read in an answer.
    """

    score: Callable[[dict], dict | None]
    what: str = ""


def _rule(record: dict) -> dict | None:
    gold = record["gold_answer"]
    return None if last_number(gold) is None else rule_score(record["raw_answer"], gold)


# What a judge's scores are known by.
_TAKEN = ("judge", "mean", "scores", "unreadable", "unreadable_aspects")


def _reading(read: Callable[[dict], str | None], gold: Callable[[str], str | None]) -> Callable[[dict], dict | None]:
    """A scorer that compares what is read in an answer with what the gold answer says.

    An answer in which nothing can be read is wrong, and told apart by "read": None.
    """

    def score(record: dict) -> dict | None:
        wanted = gold(record["gold_answer"])
        if wanted is None:
            return None
        found = read(record)
        return {"correct": int(found == wanted), "read": found}

    return score


def _of_answer(read: Callable[[str], str | None]) -> Callable[[dict], str | None]:
    return lambda record: read(record["raw_answer"])


def _gold_label(gold: str) -> str | None:
    """The label of "B. text", or of "B" alone."""
    found = re.match(r"\s*\(?([A-Z]|[1-9])(?:[.):]|\s*$)", gold)
    return found[1] if found else None


def _gold_yes_no(gold: str) -> str | None:
    """Yes or no: the gold answers of the data sets are yes, true, "1. yes" and the like."""
    found = re.match(r"\s*(?:1\.\s*)?(yes|true|no|false)\b", gold, re.IGNORECASE)
    return None if found is None else "yes" if found[1].lower() in ("yes", "true") else "no"


def _choice(record: dict) -> str | None:
    return reading.read_choice(record["raw_answer"], reading.options_of(record["question"]))


# To add a scorer: one entry here, and a row in docs/research.md.
SCORERS = {
    "rule": Scorer(_rule, "the last number"),
    "choice": Scorer(_reading(_choice, _gold_label), "the label of the option that is chosen"),
    "yes_no": Scorer(_reading(_of_answer(reading.read_yes_no), _gold_yes_no), "yes or no, true or false"),
    "coin": Scorer(_reading(_of_answer(reading.read_coin), _gold_yes_no), "whether the coin is still heads up"),
    "plausible": Scorer(_reading(_of_answer(reading.read_plausible), _gold_yes_no), "plausible or not, yes or no"),
    "date": Scorer(
        _reading(_of_answer(reading_words.read_date), reading_words.read_date), "a date, the stated or the last one"
    ),
    "word": Scorer(
        _reading(_of_answer(reading_words.read_word), lambda gold: reading_words.letters(gold) or None), "one word"
    ),
}
BY_RULE = "rule: "


def name_of_rule(scorer: str) -> str:
    """How scores by a rule of ours are called in the place of a judge, with the version of the rules."""
    return f"{BY_RULE}{scorer} (version {reading.VERSION})"


def own_scorer(told: str) -> Scorer:
    """The scorer FILE.py:function. The function is called with a copy of a record.

    It gives True or False, 1 or 0, a number between them, an object of JSON with "correct" (1 or 0) or "score" (0 to 1) in it, or
    None where the answer cannot be scored.

    Raises:
        OptionError: there is no such file or function, or the file cannot be run.
    """
    file, _, name = told.rpartition(":")
    if not file.endswith(".py") or not is_file(file):
        raise OptionError(f"--scoring {told}: there is no file {file}; it takes FILE.py:function")
    path = user_path(file).absolute()
    spec = importlib.util.spec_from_file_location(f"scoring_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # of modules beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise OptionError(f"--scoring {told}: {file} cannot be run: {plain(error)}") from None
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, name, None)
    if not callable(function):
        raise OptionError(f"--scoring {told}: there is no function {name!r} in {Path(file)}")
    return Scorer(lambda record: _scores(function(copy.deepcopy(record))))


def _scores(value: object) -> dict | None:
    """What a function of one's own has given, as scores (ValueError: it is none of what it may give)."""
    if value is None:
        return None
    scores = value if isinstance(value, dict) else {"score": value}
    number = scores.get("correct", scores.get("score"))
    try:
        number = float(number)
    except (TypeError, ValueError):
        number = math.nan
    whole = number in (0, 1)
    if not 0 <= number <= 1 or ("correct" in scores and not whole):
        raise ValueError(
            f"it gave {value!r}, and not True, False, a number from 0 to 1, None, or an object with correct (1 or 0) or "
            "score (0 to 1)"
        )
    if taken := [name for name in _TAKEN if name in scores]:
        raise ValueError(f"it gave {taken[0]!r}, which has a meaning of its own in scores; name it otherwise")
    if not isinstance(value, dict):
        return {"correct": int(number)} if whole else {"score": number}
    scores = scores | ({"correct": int(number)} if "correct" in scores else {"score": number})
    json.dumps(scores)  # raises what the results cannot hold
    return scores
