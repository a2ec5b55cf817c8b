"""Tests of command/json_log.py: what was appended is read again, wherever a kill has cut the file."""

import errno
import json
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import files, json_log
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
    first, (number, error), third = whole_lines('{"a": 1}\nnothing\n[2]\n{"torn"')
    assert (first, number, third) == ((1, {"a": 1}), 2, (3, [2]))
    assert isinstance(error, ValueError) and str(error) == "not JSON: Expecting value, column 1"


def test_an_entry_is_there_when_append_returns(tmp_path):
    log = JsonLog(tmp_path / "x.jsonl", "--output_dir")
    log.open()
    log.append({"a": 1})
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"a": 1}
    log.close()


def test_a_folder_that_is_not_there_and_a_disk_that_is_full(tmp_path, monkeypatch):
    with pytest.raises(ResultsError, match="choose another --out_file"):
        JsonLog(tmp_path / "no/x.jsonl", "--out_file").open()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    log = JsonLog(tmp_path / "x.jsonl", "--out_file")
    log.open()
    log.append({"a": 1})

    def fsync(number):
        if log._file and number == log._file.fileno():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_log.os, "fsync", fsync)
    with pytest.raises(ResultsError, match="the same command continues; what it lacks .1 record. is saved in") as told:
        log.append({"a": 2})
    (place,) = (tmp_path / "temporary").iterdir()
    assert str(place) in str(told.value) and place.read_text() == '{"a": 2}\n'
    assert log.path.read_text() == '{"a": 1}\n'


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


class Lost:
    """A log with two entries, and what is said of it."""

    def __init__(self, folder, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        (folder / "temporary").mkdir()
        (folder / "out").mkdir()
        self.temporary, self.said, self.kept = folder / "temporary", [], [{"a": 1}, {"a": 2}]
        self.log = JsonLog(folder / "out/x.jsonl", "--output_dir")
        self.restored = 0
        self.log.open(lambda: self.kept, self.said.append, self.restore)
        for entry in self.kept:
            self.log.append(entry)

    def restore(self):
        self.restored += 1


@pytest.fixture
def lost(tmp_path, monkeypatch):
    found = Lost(tmp_path, monkeypatch)
    yield found
    found.log.close()


@pytest.mark.parametrize("how", ["file deleted", "file moved", "folder deleted", "folder moved", "cut short"])
def test_a_log_that_is_gone_is_written_anew(lost, how):
    path = lost.log.path
    if how == "cut short":
        path.write_text("")
    elif how.startswith("folder"):
        path.parent.rename(path.parent.with_name("aside"))
    else:
        path.rename(path.with_name("aside")) if how == "file moved" else path.unlink()
    lost.log.append({"a": 3}, {"a": 4})
    assert path.read_text() == json_lines([{"a": n} for n in (1, 2, 3, 4)]) and lost.restored == 1
    (line,) = lost.said
    told = "cut short" if how == "cut short" else "deleted or moved"
    assert line == (
        f"warning: {path} was {told} while it was being written; it was written anew with all that is in memory (4 records)"
    )
    lost.log.append({"a": 5})
    assert len(list(whole_lines(path.read_text()))) == 5 and len(lost.said) == 1
    assert not list(lost.temporary.iterdir())


@pytest.mark.parametrize("how", ["another file", "a folder", "a file in the folder's place", "another run"])
@pytest.mark.parametrize("last", ["append", "rewrite"])
def test_what_lies_in_the_place_of_a_log_is_left_alone(lost, how, last):
    path = lost.log.path
    if how == "a file in the folder's place":
        path.parent.rename(path.parent.with_name("aside"))
        path.parent.write_text("mine")
    elif how == "another run":  # which has the lock by now
        path.unlink()

        def taken():
            raise ResultsError("is being written by another run")

        lost.log._restore = taken
    else:
        path.unlink()
        path.mkdir() if how == "a folder" else path.write_text("mine")
    if last == "rewrite" and how in ("another run", "a file in the folder's place"):
        return
    with pytest.raises(ResultsError, match="while it was being written") as told:
        lost.log.append({"a": 3}) if last == "append" else lost.log.rewrite([*lost.kept, {"a": 3}])
    (place,) = lost.temporary.iterdir()
    assert f"all that is in memory (3 records) is saved in {place}" in str(told.value)
    assert place.read_text() == json_lines([{"a": n} for n in (1, 2, 3)])
    assert path.is_dir() or not path.exists() or path.read_text() == "mine"


def test_where_nothing_can_be_saved_it_is_said(lost, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(files.Path, "cwd", lambda: tmp_path / "nowhere")
    monkeypatch.setattr(files.Path, "home", lambda: tmp_path / "nowhere")
    lost.log.path.unlink()
    lost.log.path.write_text("mine")
    with pytest.raises(ResultsError, match="can be saved nowhere .* and is lost"):
        lost.log.append({"a": 3})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("{", "not JSON: "),
        ("[" * 100_000, "more than 100 deep"),
        ('{"a": ' * 101 + "1" + "}" * 101, "more than 100 deep"),
        ('{"a": 1' + "0" * 5000 + "}", "has more than 4300 digits"),
        ('{"a": 1, "b": 2, "a": 3}', 'the key "a" stands twice'),
        ('{"x": [{"\\ud800": 1, "\\ud800": 3}]}', r'the key "\\ud800" stands twice'),
        (b'{"a":\n"\xff"}', "line 2 is no text in UTF-8: byte 0xff"),
        ("[1]", "not a JSON object"),
    ],
)
def test_files_that_are_no_json_object(tmp_path, text, why):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ResultsError, match=why) as told:
        read_json(path, "mend it")
    assert str(told.value).startswith(f"{path} cannot be read (") and str(told.value).endswith("); mend it")


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "pipe", "dangling", "loop"):
        with pytest.raises(ResultsError, match=f"{name} cannot be read"):
            read_json(tmp_path / name, "mend it")
    for name in ("folder", "pipe", "loop"):
        with pytest.raises(ResultsError, match="choose another --out_file"):
            JsonLog(tmp_path / name, "--out_file").open()


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json", "mend it") == {"a": 1}


@given(st.lists(st.dictionaries(st.text(), st.text() | st.none() | st.integers()), min_size=1))
def test_readable_lines(entries):
    text = json_lines(entries, readable=True)
    assert [json.loads(line) for line in text.splitlines()] == entries
    assert all(character.isprintable() or character in "\n\u200c\u200d" for character in text)
    assert text.encode()  # no halves of characters


def test_letters_are_readable():
    assert json_lines([{"a": "höflich 誰 😀 \u202e\ud83d"}], readable=True) == '{"a": "höflich 誰 😀 \\u202e\\ud83d"}\n'
