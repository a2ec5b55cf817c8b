"""The rules of --judge rule against answers that a person has read: the bundled models' own, to each judged data set.

tests/fixtures/labelled_answers/NAME.jsonl: an answer, the options' texts as far as the answer has them, and what a person reads in
it who knows the question: null for nothing, or for two different things. Labels were given before the rules' readings were seen.
"""

import json
from pathlib import Path

import pytest

from datasets_loader import DATA_SETS
from experiment.reading import read_choice, read_coin, read_plausible, read_yes_no
from experiment.reading_words import read_date, read_word

LABELLED = Path(__file__).parents[1] / "fixtures/labelled_answers"
READERS = {"yes_no": read_yes_no, "coin": read_coin, "plausible": read_plausible, "date": read_date, "word": read_word}

ASSERTED = "what the question asks is asserted, without yes or no"
PREMISE = "the only date is what the question or the calculation begins with"

# Where rule and person differ, by how the answer begins, and why.
KNOWN = {
    "arc_challenge": {
        "A car moving along a flat surface is an example": "one option's text, then another's label in another sentence",
        "C. fields of sagebrush can be a better description": "another option is argued for later, without its label",
    },
    "mmlu": {"B. less likely to have the same genes": "one option's label with most of another's text"},
    "csqa": {},
    "strategyqa": {
        "The skull is formed as one whole bone.": ASSERTED,
        "John George Bice was born": ASSERTED,
        "It can be. While there are many": "can it be: it can be",
        "Ahura Mazda's rivalry with Zeus is": ASSERTED,
        "Malcolm X used Unicode": ASSERTED,
    },
    "coin_flip": {
        "To answer this question, we need to analyze the possible outcomes of the coin flip.\n\nIf": "two cases",
    },
    "sports": {
        '1. "Malkin" is a fictional character': "plausible is said of other statements",
        "If statement is": "a condition that is but repeated",
    },
    "date": {
        "In this scenario, we have a wedding": PREMISE,
        "To find the day of the month in MM/DD/YYYY, we need to convert the date to the number": PREMISE,
        "To convert the date 6 May 1992": PREMISE,
        "To solve this, we need to convert 12/31/1929": PREMISE,
        "We'll never forget today": PREMISE,
        "9/7 is the day 9/7 of 2003.": "month and day stand apart from the year",
        "In this case, we can simply add": PREMISE,
    },
    "last_letter_concat": {
        'The answer is "JAY-Z".': "a hyphen within a word",
        "Santé\nSanté\nCryte": "a letter that is none of the 26",
    },
}  # fmt: skip


def labelled(name: str) -> list[dict]:
    return [json.loads(line) for line in (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def reading(name: str, row: dict, answer: str) -> str | None:
    kind = DATA_SETS[name].reads
    return read_choice(answer, row["options"]) if kind == "choice" else READERS[kind](answer)


def test_every_judged_data_set_has_30_answers_of_both_sorts():
    assert (
        {path.stem for path in LABELLED.glob("*.jsonl")}
        == {name for name in DATA_SETS if DATA_SETS[name].reads}
        == {*KNOWN}
    )
    for name in KNOWN:
        labels = [row["read"] for row in labelled(name)]
        assert len(labels) >= 30 and len({row["answer"] for row in labelled(name)}) == len(labels)
        assert labels.count(None) >= 10 and len(labels) - labels.count(None) >= 10


@pytest.mark.parametrize("name", KNOWN)
def test_rules_read_what_a_person_reads(name):
    differing = [row for row in labelled(name) if reading(name, row, row["answer"]) != row["read"]]
    unknown = [row for row in differing if not row["answer"].startswith(tuple(KNOWN[name]))]
    assert not unknown
    assert len(differing) == len(
        KNOWN[name]
    )  # else one of them is read by now: take it away here, and in docs/research.md


@pytest.mark.parametrize("name", KNOWN)
def test_the_documented_agreement_holds(name):
    rows = labelled(name)
    agreed = len(rows) - len(KNOWN[name])
    text = (Path(__file__).parents[2] / "docs/research.md").read_text(encoding="utf-8")
    assert f"| {name} | {agreed} of {len(rows)} |" in text


@pytest.mark.parametrize("name", KNOWN)
def test_blanks_around_an_answer_change_nothing(name):
    for row in labelled(name):
        assert reading(name, row, f" \n{row['answer']}\n \n") == reading(name, row, row["answer"])
