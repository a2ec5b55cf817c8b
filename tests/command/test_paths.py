"""Tests of command/paths.py."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.paths import decoded, expanded, is_file, is_folder, read_text, user_path, why_not_writable

MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE}
MARKS["utf-32-be"] = codecs.BOM_UTF32_BE


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert user_path("~/data") == tmp_path / "data" and is_folder("~/data")
    assert expanded("a~/b") == "a~/b" and expanded("~nobody-at-all/x") == "~nobody-at-all/x"


@pytest.mark.parametrize("text", ["x" * 300, "x/" * 5000, "a\0b", "~nobody-at-all", "\ud800", "/dev/null/x", ""])
def test_names_that_nothing_can_have_are_nothing(text):
    assert not is_folder(text) and not is_file(text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
def test_text_in_utf_8_with_and_without_a_mark(text):
    text = text.removeprefix("\ufeff")
    assert decoded(text.encode()) == decoded(codecs.BOM_UTF8 + text.encode()) == text


@pytest.mark.parametrize("encoding", MARKS)
@given(marked=st.booleans(), rest=st.text(st.characters(max_codepoint=0x2FFF, exclude_characters="\0"), max_size=9))
def test_other_encodings_are_told_by_name(encoding, marked, rest):
    text = '{"' + rest  # as data and results begin
    with pytest.raises(ValueError, match=f"it is in {encoding[:6].upper()}; save it as UTF-8"):
        decoded(MARKS[encoding] * marked + text.encode(encoding))


def test_bytes_that_are_no_text_at_all():
    with pytest.raises(ValueError, match="line 1 is no text in UTF-8: byte 0xe9"):
        decoded("caf\xe9".encode("latin-1"))
    assert decoded(bytes(8)) == "\0" * 8  # what a crash may leave of a file is for its reader to refuse


def test_a_file(tmp_path):
    (tmp_path / "a").write_bytes(codecs.BOM_UTF8 + "ä".encode())
    assert read_text(tmp_path / "a") == "ä"


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    assert why_not_writable(tmp_path / "a/b") == why_not_writable(tmp_path) == ""
    (tmp_path / "file").write_text("")
    assert why_not_writable(tmp_path / "file/b") == f"{tmp_path}/file is no folder"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert why_not_writable(tmp_path / "a/b") == f"{tmp_path} cannot be written to"
