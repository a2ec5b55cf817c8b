"""Files of questions of one's own: what is read is what was written, and what cannot be read is told with its place."""

import codecs
import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command.errors import UserError
from datasets_loader import DATA_SETS, DataError, fingerprint
from questions.files import FORMATS
from questions.own import load_questions, own_data_set, questions_name


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def load(folder: Path, name: str, content: str | bytes):
    return load_questions(written(folder, name, content)).examples


def error_of(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(DataError) as error:
        load(folder, name, content)
    told = str(error.value)
    assert name in told and "\n" not in told
    return told


# Texts as prompts are: of any language, over lines, with what tables use as marks. No NUL, and not blank.
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), st.sampled_from("\",;\t\n'{}[]"))
).filter(str.strip)
ONE_LINE = TEXTS.map(lambda text: " ".join(re.sub(r"[\n]", " ", text).split())).filter(bool)
ANSWERS = st.none() | TEXTS.map(str.strip)
ROWS = st.fixed_dictionaries(
    {}, optional={"answer": ANSWERS, "context": TEXTS, "topic": st.text(st.characters(exclude_categories=["Cs"]))}
).flatmap(lambda row: TEXTS.map(lambda text: row | {"question": text}))


def as_table(rows: list[dict], delimiter: str) -> str:
    names = sorted({name for row in rows for name in row})
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter=delimiter)
    table.writerows([names, *([row.get(name) for name in names] for row in rows)])
    return out.getvalue()


WRITERS = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    ".json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1),
    ".csv": lambda rows: as_table(rows, ","),
    ".tsv": lambda rows: as_table(rows, "\t"),
}


@settings(max_examples=40)
@given(rows=st.lists(ROWS, min_size=1, max_size=4), packed=st.booleans(), marked=st.booleans())
@pytest.mark.parametrize("ending", WRITERS)
def test_what_is_asked_is_what_was_written(tmp_path_factory, ending, rows, packed, marked):
    data = (codecs.BOM_UTF8 if marked else b"") + WRITERS[ending](rows).encode()
    examples = load(tmp_path_factory.mktemp("x"), "my" + ending + ".gz" * packed, data)
    assert [example.question for example in examples] == [row["question"] for row in rows]
    assert [example.gold for example in examples] == [(row.get("answer") or "") for row in rows]
    assert [example.id for example in examples] == list(range(len(rows)))
    for row, example in zip(rows, examples, strict=True):
        context = row.get("context", "")
        assert example.context == context + ("\n\n" if context and not context.endswith("\n") else "")
        assert example.columns.get("topic", "") == row.get("topic", "")


@given(lines=st.lists(ONE_LINE, min_size=1, max_size=5), ends=st.sampled_from(["\n", "\r\n", "\n\n  \n"]))
def test_lines_of_text(tmp_path_factory, lines, ends):
    examples = load(tmp_path_factory.mktemp("x"), "my.txt", ends.join(lines))
    assert [example.question for example in examples] == [line.strip() for line in lines]


MESSAGES = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=4)


@settings(max_examples=40)
@given(before=MESSAGES, last=TEXTS, as_cell=st.booleans())
def test_conversations(tmp_path_factory, before, last, as_cell):
    turns = [*before, ("user", last)]
    messages = [{"role": role, "content": text, "name": None} for role, text in turns]
    folder = tmp_path_factory.mktemp("x")
    if as_cell:
        (example,) = load(folder, "my.csv", as_table([{"messages": json.dumps(messages)}], ","))
    else:
        (example,) = load(folder, "my.jsonl", json.dumps({"messages": messages}))
    assert (*example.history, ("user", example.question)) == tuple(turns)


@pytest.mark.parametrize(
    ("name", "content", "questions"),
    [
        ("my.json", '["a", {"prompt": "b"}]', ["a", "b"]),
        ("my.json", '{"questions": [{"Question": "a"}]}', ["a"]),
        ("my.jsonl", '"a"\n\n{"prompt": "b"}\n', ["a", "b"]),
        ("my.CSV", " Question , ANSWER ,\na,1,\n,,\n\nb,,\n", ["a", "b"]),
        ("my.csv", "question,prompt\na,\n,b\n", ["a", "b"]),
        ("my.jsonl", "\ufeff" + '"a"\n' + "\ufeff" + '"b"\n', ["a", "b"]),
        ("my.csv", "question\n" + "x" * 200_000 + "\n", ["x" * 200_000]),
    ],
)
def test_forms_that_people_write(tmp_path, name, content, questions):
    assert [example.question for example in load(tmp_path, name, content)] == questions


@pytest.mark.parametrize(("told", "gold"), [(7, "7"), (2.5, "2.5"), (True, "true"), (" B ", "B"), (None, ""), ("", "")])
def test_answers(tmp_path, told, gold):
    (example,) = load(tmp_path, "my.jsonl", json.dumps({"question": "q", "answer": told}))
    assert example.gold == gold


def test_what_is_told_of_a_file(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    own = [{"role": "system", "content": "S"}, {"role": "user", "content": "c"}]
    rows = [{"question": "q", "answer": 1, "level": 2}, {"messages": turns, "topic": "x"}, {"messages": own}]
    path = written(tmp_path, "my.json", json.dumps({"version": 1, "data": rows}))
    assert load_questions(path).told == (
        f"questions: 3 in {path}, 1 with an answer; 1 with earlier turns; 1 with a system turn of their own; "
        "columns carried along: level, topic; not read: version"
    )
    assert load_questions(path, 2).told.startswith(f"questions: 2 of 3 in {path}, ")


FAULTS = [
    ("my.csv", "question,answer\na,1\nb,2,3\n", "line 3: it has 3 cells and the first line has 2"),
    ("my.csv", "question,answer\na\n", "line 2: it has 1 cell and the first line has 2"),
    ("my.csv", 'question,answer\n"a\nb",1\n"c,2\n', "line 4: cannot be read as a row of a table"),
    ("my.csv", 'question\n"a"b\n', "line 2: cannot be read as a row of a table"),
    ("my.csv", "question;answer\na;1\n", "its columns seem to be parted by ';'"),
    ("my.tsv", "question,answer\na,1\n", "its columns seem to be parted by ','"),
    ("my.csv", "question,question\na,b\n", "two columns have the name 'question'"),
    ("my.csv", "question,Question\na,b\n", "'question' and 'Question' are both the column question"),
    ("my.csv", "question,\na,b\n", "line 2: there is a value in column 2, which has no name"),
    ("my.csv", "question,answer\n", "has no questions in it"),
    (
        "my.csv",
        "text,answer\na,1\n",
        "line 2: there is no question, prompt or messages in it (its columns: 'text', 'answer')",
    ),
    ("my.csv", 'messages\n"[{"\n', "messages must be a list of JSON"),
    ("my.txt", "\n \n", "has no questions in it"),
    ("my.txt", "What is\0b\n", "line 1: question holds a NUL character"),
    ("my.txt", "a\nb".encode("utf-16"), "it is in UTF-16; save it as UTF-8"),
    ("my.csv", "question\ngro\xdf\n".encode("latin-1"), "line 2 is no text in UTF-8: byte 0xdf"),
    ("my.jsonl", '{"question": "a"}\n{"question": }\n', "line 2: not JSON"),
    ("my.jsonl", "[\n", "line 1: not JSON: Expecting value, column 2 (is the whole file one list? name it .json)"),
    ("my.json", '{"question": "a"}\n{"question": "b"}\n', "(is each line an object of its own? name it .jsonl)"),
    ("my.json", '{"rows": []}', "an object with one under data or questions"),
    ("my.json", '{"data": [], "questions": []}', "an object with one under data or questions"),
    ("my.json", "3", "must be a list of questions"),
    ("my.json", "[3]", "row 1: must be an object with a question, or a text; it is 3"),
    ("my.json", "[]", "has no questions in it"),
    ("my.json", '["a", " "]', "row 2: question is empty"),
    (
        "my.jsonl",
        '{"question": "a", "prompt": "b"}',
        "line 1: there is question and prompt in it; a row has one of these",
    ),
    ("my.jsonl", '{"question": 3}', "line 1: question must be a text; it is 3"),
    ("my.jsonl", '{"question": "a", "context": ["b"]}', 'context must be a text; it is ["b"]'),
    (
        "my.jsonl",
        '{"question": "a", "answer": ["b"]}',
        'answer must be a text or a number; it is ["b"]: keep it in a column',
    ),
    ("my.jsonl", '{"question": "a", "answer": NaN}', "answer must be a text or a number; it is NaN"),
    ("my.jsonl", '{"question": "a", "id": 1}\n{"question": "b"}', "line 2: it has no id, and others have"),
    ("my.jsonl", '{"question": "a"}\n{"question": "b", "id": 1}', "line 1: it has no id, and others have"),
    ("my.jsonl", '{"question": "a", "id": 1}\n{"question": "b", "id": "1"}', "line 2: the id '1' is that of"),
    ("my.jsonl", '{"question": "a", "id": 1.5}', "id must be a text or a whole number; it is 1.5"),
    ("my.jsonl", '{"messages": []}', "messages must be a list of role and content; it is []"),
    ("my.jsonl", '{"messages": ["hi"]}', 'messages[0] must be an object with role and content; it is "hi"'),
    (
        "my.jsonl",
        '{"messages": [{"role": "tool", "content": "a"}]}',
        'messages[0].role is "tool"; there are: system, user',
    ),
    (
        "my.jsonl",
        '{"messages": [{"role": "user", "content": ["a"]}]}',
        'messages[0].content must be a text; it is ["a"]',
    ),
    ("my.jsonl", '{"messages": [{"role": "user", "content": " "}]}', "messages[0].content is empty"),
    (
        "my.jsonl",
        '{"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}',
        "messages[0] has 'tool_calls' beside",
    ),
    ("my.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', "the last of messages must be the user's"),
    ("my.jsonl.gz", b"", "has no questions in it"),
]


@pytest.mark.parametrize(("name", "content", "said"), FAULTS, ids=range(len(FAULTS)))
def test_what_cannot_be_read_is_told_with_its_place(tmp_path, name, content, said):
    assert said in error_of(tmp_path, name, content)


def test_files_that_are_none(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"question\na\n")[:-9])
    for name, said in (
        ("no.csv", "there is no file"),
        ("folder.csv", "there is no file"),
        ("torn.csv.gz", "cannot be read"),
    ):
        with pytest.raises(DataError, match=said):
            load_questions(tmp_path / name)


@given(data=st.binary(max_size=60), ending=st.sampled_from(list(FORMATS)))
def test_any_bytes_are_read_or_refused_in_plain_words(tmp_path_factory, data, ending):
    try:
        examples = load(tmp_path_factory.mktemp("x"), f"my{ending}", data)
    except UserError as error:
        assert "my" + ending in str(error)
    else:
        assert all(example.question.strip() for example in examples)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["question", "messages", "role", "content", "answer", "id", "data", "x"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_refused_in_plain_words(tmp_path_factory, value):
    try:
        examples = load(tmp_path_factory.mktemp("x"), "my.json", json.dumps([value]))
    except UserError as error:
        assert "my.json" in str(error)
    else:
        assert all(example.question.strip() for example in examples)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my.csv", "my"),
        ("deep/my data (v2).jsonl.gz", "my_data_v2_"),
        ("Fragen zur Größe.txt", "Fragen_zur_Größe"),
        ("..hidden.txt", "hidden"),
        ("a.b.json", "a.b"),
    ],
)
def test_names_of_results(file, name):
    assert questions_name(Path(file)) == name


def test_a_long_name_is_cut_and_stays_one_of_a_kind():
    names = {questions_name(Path("ö" * 200 + end + ".csv")) for end in "ab"}
    assert len(names) == 2 and all(len(name.encode()) < 130 for name in names)


@pytest.mark.parametrize("stem", [*DATA_SETS, "GSM8K", "all_info", "replaced-x"])
def test_a_name_that_is_taken_is_refused(stem):
    with pytest.raises(DataError, match="its results would be taken for that one's; rename it"):
        questions_name(Path(f"there/{stem}.csv"))


@pytest.mark.parametrize(
    ("file", "said"), [("my.xlsx", ".jsonl, .json, .csv"), ("???.csv", "makes none"), (".csv", "makes none")]
)
def test_a_file_without_a_name_for_results(file, said):
    with pytest.raises(DataError, match=re.escape(said)):
        questions_name(Path(file))


def test_samples_are_drawn_as_from_the_data_sets(tmp_path):
    path = written(tmp_path, "my.txt", "".join(f"q{i}\n" for i in range(50)))
    found = load_questions(path, 4).examples
    # numpy.random.seed(609); numpy.random.choice(50, 4, replace=False)
    import numpy as np

    expected = np.random.RandomState(609).choice(50, 4, replace=False).tolist()
    assert [example.id for example in found] == expected and [e.question for e in found] == [f"q{i}" for i in expected]


def test_the_turns_before_a_question_are_part_of_the_fingerprint(tmp_path):
    def told(first: str) -> str:
        turns = [{"role": "assistant", "content": first}, {"role": "user", "content": "q"}]
        return fingerprint(load(tmp_path, "my.jsonl", json.dumps({"messages": turns})))

    assert told("a") != told("b") and told("a") == told("a")


def test_how_they_are_asked():
    data_set = own_data_set(None, "none")
    assert (
        data_set.is_own and data_set.question_prefix == "" and data_set.system_prompt == "You are a helpful assistant."
    )
    assert not any(one.is_own for one in DATA_SETS.values())
