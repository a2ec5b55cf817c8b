"""Files of questions as editors on several systems save them, and as others have spoilt them."""

import codecs
import gzip
import json

import pytest

from datasets_loader import DataError, Example, load_examples

ROW = json.dumps({"question": "Wie gro\xdf?", "answer": "#### 1"}, ensure_ascii=False)


def load(tmp_path, data: bytes, name: str = "test.jsonl") -> list[Example]:
    (tmp_path / "gsm8k").mkdir(exist_ok=True)
    (tmp_path / "gsm8k" / name).write_bytes(data)
    return load_examples("gsm8k", data_dir=tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_marks_before_lines_are_no_text(tmp_path, packed):
    marked = codecs.BOM_UTF8 + ROW.encode() + b"\r\n"
    data = marked * 2  # two such files in one
    examples = load(tmp_path, gzip.compress(data) if packed else data, "test.jsonl" + ".gz" * packed)
    assert [example.question for example in examples] == ["Wie gro\xdf?"] * 2


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "it is in UTF-16;"),
        ("utf-16-be", "it is in UTF-16;"),
        ("utf-32", "it is in UTF-32;"),
        ("latin-1", "line 1 is no text in UTF-8: byte 0xdf"),
    ],
)
def test_other_encodings_are_told(tmp_path, encoding, said):
    with pytest.raises(DataError, match=f"test.jsonl, line 1: .*{said}.*save it as UTF-8"):
        load(tmp_path, ROW.encode(encoding))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            b'{"question": "a", "question": "b", "answer": "#### 1"}',
            r'the key "question" stands twice in an object',
        ),
        (b"[" * 100_000, "lie in one another more than"),
        (b'{"answer": ' + b"9" * 5000 + b"}", "a number in it has more than 4300 digits"),
        (b"\xff", "line 2 is no text in UTF-8: byte 0xff"),
        (b"{,}", "not JSON: "),
    ],
)
def test_lines_that_others_have_spoilt(tmp_path, line, said):
    with pytest.raises(DataError, match=f"test.jsonl, line 2: .*{said}"):
        load(tmp_path, ROW.encode() + b"\n" + line)


def test_a_folder_in_a_files_place(tmp_path):
    (tmp_path / "gsm8k/test.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match="no splits there"):
        load_examples("gsm8k", data_dir=tmp_path)


def test_names_that_no_file_can_have(tmp_path):
    with pytest.raises(DataError, match=r"no splits there .*is no folder: --data_dir is the one above it"):
        load_examples("gsm8k", split="x" * 300, data_dir=tmp_path / "gsm8k")
