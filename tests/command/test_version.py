"""The version is one number, wherever it is told."""

import re
from pathlib import Path

import pytest
import yaml

from command import provenance

REPOSITORY = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_it_is_the_same_everywhere():
    (number, date), *_ = re.findall(r"(?m)^## (\d+\.\d+\.\d+), (\d{4}-\d{2}-\d{2})$", CHANGELOG)
    assert (number, date) == (provenance.version(), CITATION["date-released"])
    assert CITATION["version"] == provenance.version()


def test_without_the_file_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.version() is None and provenance.version_and_commit() == "unknown version"


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[project", "project = 3\n"])
def test_a_file_that_does_not_tell_it(text, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.version() is None


def test_the_citation_names_the_papers():
    assert CITATION["cff-version"] == "1.2.0" and "license" not in CITATION
    papers = [CITATION["preferred-citation"], *CITATION["references"]]
    assert [paper["identifiers"][0]["value"] for paper in papers] == [
        "arXiv:2410.09300",
        "arXiv:2410.04070",
        "arXiv:2402.01694",
    ]
    for paper in papers:
        assert {"type", "title", "authors"} <= paper.keys()
        assert paper["url"].endswith(paper["identifiers"][0]["value"].removeprefix("arXiv:"))
