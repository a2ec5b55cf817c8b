"""Every loader against a second reading of its rows: real ones where they are, and any others in the hub's schema."""

import gzip
import json
import re
from pathlib import Path

import needs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_datasets_loader import HUB, JUST_EVAL_SPLIT, fixture_rows

from datasets_loader import DATA_SETS, Example, fingerprint, load_examples

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
NO_REAL_ROWS = needs.reason(
    "the data sets' real rows, which are not part of this repository, are not there",
    "every data set of the table in docs/experiments.md as ../shared/data/NAME/SPLIT.jsonl.gz, from the Hugging Face hub",
    an_error=False,
)
# Which column is the question and which the gold answer, where nothing else is done to them.
COLUMNS = {
    "gsm8k": ("question", "answer"),
    "svamp": ("question_concat", None),
    "multiarith": ("question", "final_ans"),
    "strategyqa": ("question", None),
    "coin_flip": (None, "targets"),
    "last_letter_concat": ("question", "answer"),
    "justeval": ("input", "output_cand"),
    "justeval_safe": ("input", "output_cand"),
}


def as_published(name: str, row: dict) -> tuple[str, str, str]:
    """Question, gold answer and context of a row, by the paper's program: read again, with other means."""
    if name == "mmlu":
        question = row["question"]
        for i in range(4):
            question = question + "\n" + chr(ord("A") + i) + ". " + row["choices"][i]
        gold = chr(ord("A") + row["answer"]) + ". " + row["choices"][row["answer"]]
        return question, gold, "Subject: " + row["subject"] + "\n"
    if name in ("arc_challenge", "csqa"):
        question, gold = row["question"], ""
        for i, label in enumerate(row["choices"]["label"]):
            line = label + ". " + row["choices"]["text"][i]
            question += "\n" + line
            if label == row["answerKey"]:
                gold = line
        return question, gold, ""
    question_column, gold_column = COLUMNS.get(name, (None, None))
    question = row[question_column] if question_column else row["inputs"]
    gold = row[gold_column] if gold_column else ""
    if name == "svamp":
        gold = row["Equation"] + " = " + row["Answer"]
    elif name == "strategyqa":
        gold = "true" if row["answer"] else "false"
    elif name == "sports":
        question = question[: question.rindex("Plausible/implausible?")]
        gold = "1. yes\n2. plausible" if row["targets"] == ["plausible"] else "1. no\n2. implausible"
    elif name == "date":
        question, gold = re.fullmatch(r".*?Q:(.*)A:.*?", question, re.S)[1], row["targets"][0]
    elif name == "coin_flip":
        question = question[question.index("Q:") + 2 :]
    return question.strip(), gold.strip(), ""


# Blanks of all kinds at the ends and within, and what JSON, line ends or templates could stumble over.
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from(" \n\t\u00a0\u2028:.QA"), max_size=30)
ASKED = TEXT.filter(str.strip)


def choices(labels: st.SearchStrategy[list[str]]) -> st.SearchStrategy[dict]:
    """Rows of ARC and CommonsenseQA."""

    def row(labels: list[str]):
        texts = st.lists(TEXT, min_size=len(labels), max_size=len(labels))
        return st.fixed_dictionaries(
            {
                "question": ASKED,
                "choices": st.fixed_dictionaries({"label": st.just(labels), "text": texts}),
                "answerKey": st.sampled_from([*labels, ""]),
            }
        )

    return labels.flatmap(row)


def rows_of(name: str) -> st.SearchStrategy[dict]:
    """Rows in the hub's schema of a data set."""
    if name == "mmlu":
        four = st.lists(TEXT, min_size=4, max_size=4)
        columns = {"question": ASKED, "subject": TEXT, "choices": four, "answer": st.integers(0, 3)}
    elif name in ("arc_challenge", "csqa"):
        return choices(st.sampled_from(["ABCD", "1234", "ABC", "ABCDE", "123", "A"]).map(list))
    elif name == "svamp":
        columns = {"question_concat": ASKED, "Equation": TEXT, "Answer": st.integers().map(str)}
    elif name == "strategyqa":
        columns = {"question": ASKED, "answer": st.booleans()}
    elif name == "sports":
        inputs = st.builds("{}Plausible/implausible?{}".format, ASKED, TEXT)
        columns = {"inputs": inputs, "targets": st.sampled_from([["plausible"], ["implausible"]])}
    elif name == "date":
        inputs = st.builds("{}Q:{}A:".format, TEXT.filter(lambda text: "Q:" not in text), ASKED)
        columns = {"inputs": inputs, "targets": st.lists(TEXT, min_size=1, max_size=2)}
    elif name == "coin_flip":
        columns = {"inputs": st.builds(" Q:{}".format, ASKED), "targets": TEXT}
    else:
        question, gold = COLUMNS[name]
        columns = {question: ASKED, gold: TEXT}
    return st.fixed_dictionaries(columns)


def loaded(folder: Path, name: str, rows: list[dict], **arguments) -> list[Example]:
    path = folder / name / f"{HUB[name][2]}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(name, data_dir=folder, **arguments)


@pytest.mark.parametrize("name", HUB)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_are_read_as_published(name, data, tmp_path):
    rows = data.draw(st.lists(rows_of(name), min_size=1, max_size=5))
    examples = loaded(tmp_path, name, rows)
    assert [(e.question, e.gold, e.context) for e in examples] == [as_published(name, row) for row in rows]
    assert [example.id for example in examples] == list(range(len(rows)))


def test_which_data_sets_keep_blanks():
    assert [name for name in DATA_SETS if DATA_SETS[name].keeps_blanks] == ["mmlu", "arc_challenge", "csqa"]


@pytest.mark.parametrize("name", HUB)
def test_blanks_at_the_ends_of_a_real_rows_kind(name, tmp_path):
    """The one difference between the data sets, shown by a row that is otherwise the fixture's."""
    row = fixture_rows(name)[0]
    if name in ("mmlu", "arc_challenge", "csqa"):
        row |= {"question": f" \n{row['question']} "}
    else:
        column = COLUMNS.get(name, (None,))[0] or "inputs"
        row |= {column: row[column].replace("Q:", "Q: \n") if "Q:" in row[column] else f" \n{row[column]} "}
    (example,) = loaded(tmp_path, name, [row])
    assert example.question.startswith(" \n") == (name in ("mmlu", "arc_challenge", "csqa"))


@pytest.mark.parametrize(
    "changed", [("q ", "a", "c"), ("q", "a ", "c"), ("q", "a", "c "), ("", "qa", "c"), ("qa", "", "c"), ("q", "ac", "")]
)
def test_a_fingerprint_tells_questions_gold_answers_and_contexts_apart(changed):
    examples = [Example(0, "q", "a", "c"), Example(1, "x", "y")]
    assert fingerprint(examples) != fingerprint([Example(0, *changed), examples[1]])
    assert fingerprint(examples) != fingerprint(examples[::-1]) != fingerprint(examples[:1])
    assert fingerprint(examples) == fingerprint(list(examples))


def real_rows(name: str, split: str) -> list[dict]:
    with gzip.open(SHARED_DATA / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_REAL_ROWS)
class TestRealRows:
    @pytest.mark.parametrize(
        "name, split, rows, with_blanks",
        [
            ("gsm8k", "test", 1319, 0),
            ("gsm8k", "train", 7473, 0),
            ("svamp", "test", 300, 0),
            ("multiarith", "test", 180, 0),
            ("mmlu", "test", 14042, 679),
            ("mmlu", "validation", 1531, 143),
            ("arc_challenge", "test", 1172, 0),
            ("strategyqa", "test", 687, 0),
            ("csqa", "validation", 1221, 0),
            ("csqa", "test", 1140, 0),
            ("sports", "default", 986, 0),
            ("date", "default", 369, 0),
            ("coin_flip", "test", 500, 0),
            ("coin_flip", "train", 1000, 0),
            ("last_letter_concat", "test", 150, 0),
            ("justeval", JUST_EVAL_SPLIT, 800, 0),
            ("justeval_safe", JUST_EVAL_SPLIT, 200, 0),
        ],
    )
    def test_every_row_is_read_as_published(self, name, split, rows, with_blanks):
        examples = load_examples(name, split=split, data_dir=SHARED_DATA)
        assert [example.id for example in examples] == list(range(rows))
        expected = [as_published(name, row) for row in real_rows(name, split)]
        assert [(e.question, e.gold, e.context) for e in examples] == expected
        assert sum(example.question != example.question.strip() for example in examples) == with_blanks
        for example in examples:
            assert example.question.strip()
            assert bool(example.gold) == ((name, split) != ("csqa", "test"))
            assert bool(example.context) == (name == "mmlu")

    @pytest.mark.parametrize("name", HUB)
    def test_fixtures_have_the_schema_of_the_real_rows(self, name):
        real = real_rows(name, HUB[name][2])[0]
        for row in fixture_rows(name):
            assert {key: type(value) for key, value in row.items()} == {key: type(value) for key, value in real.items()}
