"""The Python examples of README.md and docs/python.md, run over a scripted server in the place of the models that they name."""

import re
from collections.abc import Iterator

import pytest
from runs import REPOSITORY
from served_pair import BASE, NUDGING

from nudged_pair import NudgedPair

LOAD = NudgedPair.load.__func__


def blocks(name: str) -> list[str]:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    found = re.findall(r"(?ms)^```python\n(.*?)^```", text)
    return [
        block for block in found if "http://127.0.0.1:8010" not in block
    ]  # those of the server have tests of their own


@pytest.fixture
def load(server, monkeypatch) -> Iterator[list[NudgedPair]]:
    """NudgedPair.load loads the scripted models in the place of the bundled ones; all pairs are closed at the end."""
    loaded = []

    def instead(cls, base: str, nudging: str, **more) -> NudgedPair:
        assert (base, nudging) == ("demo-base", "demo-aligned")
        loaded.append(LOAD(cls, BASE, NUDGING, base_host=server.host, nudging_host=server.host, **more))
        return loaded[-1]

    monkeypatch.setattr(NudgedPair, "load", classmethod(instead))
    yield loaded
    for pair in loaded:
        pair.close()


def run(name: str, capsys) -> list[tuple[str, str]]:
    """Each block and what it prints; they follow one another as the cells of a notebook do."""
    names, said = {}, []
    for block in blocks(name):
        exec(compile(block, name, "exec"), names)
        said.append((block, capsys.readouterr().out))
    return said


def test_the_readme(load, capsys):
    ((_, said),) = run("README.md", capsys)
    assert said.strip() and load[0].settings.top_prob_thres == 0.4


def test_the_notebook(load, capsys):
    said = run("docs/python.md", capsys)
    assert len(said) >= 12 and all(told.strip() for block, told in said if "print(" in block)
    by_block = {block.splitlines()[0]: told for block, told in said}
    assert "[True, False]" in by_block["from nudged_pair import AnswersError"]
    assert "top_prob_thres must be a number from 0 to 1" in by_block["from command.errors import UserError"]
    assert len(load) == 2  # the second has a criterion of its own
    assert load[1].criterion.logprobs == load[1].settings.logprobs == 2
