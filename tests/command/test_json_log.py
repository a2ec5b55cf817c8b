"""Tests of command/json_log.py: what was appended is read again, wherever a kill has cut the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.files import ResultsError
from command.json_log import JsonLog, json_lines, read_json, whole_lines, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=6)


@given(ENTRIES, ENTRIES, st.data())
def test_entries_behind_a_cut(tmp_path_factory, before, after, data):
    path = tmp_path_factory.mktemp("log") / "x.jsonl"
    content = json_lines(before).encode()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    log = JsonLog(path, "--output_dir")
    log.open()
    for entry in after:
        log.append(entry)
    log.close()
    read = [value for _, value in whole_lines(path.read_text(encoding="utf-8"))]
    assert read == before[:whole] + after
    log.rewrite(reversed(read))
    assert list(whole_lines(path.read_text(encoding="utf-8"))) == list(enumerate(reversed(read), 1))


def test_lines_that_are_no_json_are_numbered():
    assert list(whole_lines('{"a": 1}\nnothing\n[2]\n{"torn"')) == [(1, {"a": 1}), (2, None), (3, [2])]


def test_an_entry_is_there_when_append_returns(tmp_path):
    log = JsonLog(tmp_path / "x.jsonl", "--output_dir")
    log.open()
    log.append({"a": 1})
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"a": 1}
    log.close()


def test_a_folder_that_is_not_there_and_a_disk_that_is_full(tmp_path):
    with pytest.raises(ResultsError, match="choose another --out_file"):
        JsonLog(tmp_path / "no/x.jsonl", "--out_file").open()
    log = JsonLog(tmp_path / "x.jsonl", "--out_file")
    log._file = open("/dev/full", "wb")
    with pytest.raises(ResultsError, match="the same command continues"):
        log.append({"a": 1})


@given(JSON)
def test_json_files(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "x.json"
    assert read_json(path, "start afresh") == {}
    path.write_text(json.dumps(content), encoding="utf-8")
    if isinstance(content, dict):
        assert read_json(path, "start afresh") == content
        write_json(path, content)
        assert read_json(path, "start afresh") == content
    else:
        with pytest.raises(ResultsError, match="start afresh"):
            read_json(path, "start afresh")
