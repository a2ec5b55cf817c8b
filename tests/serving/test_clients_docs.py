"""The examples of the documentation that ask a server: curl lines, and Python."""

import contextlib
import io
import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import needs
import pytest
from runs import REPOSITORY
from served_pair import read_events

SERVER = "http://127.0.0.1:8010"
DOCS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks that ask the server, with their file."""
    for path in DOCS:
        for block in re.findall(rf"(?ms)^```{language}\n(.*?)^```", path.read_text(encoding="utf-8")):
            if SERVER in block:
                yield path.name, block


def curl_commands() -> list:
    """The curl commands of all blocks; one goes on where a line ends in a backslash, or within quotes."""
    found = []
    for name, block in blocks("bash"):
        lines = iter(block.splitlines())
        for line in lines:
            if line.startswith("curl "):
                while not is_whole(line):
                    line += "\n" + next(lines)
                found.append(pytest.param(line, id=f"{name}-{len(found)}"))
    return found


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def test_there_are_examples():
    assert len(curl_commands()) >= 4 and list(blocks("python"))


@pytest.mark.parametrize("command", curl_commands())
def test_curl(served, command):
    needs.programs("curl", packages="curl", why="the curl lines of the documentation are run")
    shown = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace(SERVER, served.url)], capture_output=True, text=True
    )
    assert shown.returncode == 0 and shown.stdout, shown.stderr
    if '"stream": true' in command:
        events = read_events(shown.stdout.replace("\r", ""))
        assert len(events) > 3 and not any("error" in event for event in events)
    elif "/metrics" not in command:
        assert "error" not in json.loads(shown.stdout)


@pytest.mark.parametrize(("name", "block"), list(blocks("python")))
def test_python(served, name, block):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block.replace(SERVER, served.url), name, "exec"), {})
    assert said.getvalue().strip()
