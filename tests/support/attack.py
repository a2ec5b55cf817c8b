"""Attacks: what goes wrong around a run, tried on the command in a process of its own, and what has to come of it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runs import REPOSITORY


@dataclass(frozen=True)
class Outcome:
    """What came of a command: its exit code (None: it did not end and was killed), seconds, and what it wrote."""

    exit_code: int | None
    seconds: float
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Attack:
    """One attack: `run` tries it in an empty folder. What must come of it: an exit code, words on standard error, an end in time.

    Args:
        part: the kind of fault, for the table.
        name: what goes wrong, in a few words.
        run: has the command run under attack; may assert more of what it finds.
        exit_code: what it ends with.
        says: a pattern that its standard error has to match somewhere; None where nothing need be said.
        seconds: within which it has to end, on a slow machine too.
    """

    part: str
    name: str
    run: Callable[[Path], Outcome]
    exit_code: int = 0
    says: str | None = None
    seconds: float = 60.0

    def tried(self) -> tuple[Outcome, str]:
        """What came of it, and what is wrong with that ("" where nothing is)."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                outcome = self.run(Path(folder))
        except AssertionError as wrong:
            return Outcome(0, 0.0, "", ""), str(wrong).splitlines()[0]
        if outcome.exit_code is None:
            return outcome, f"did not end within {self.seconds:g} s"
        if outcome.exit_code != self.exit_code:
            return outcome, f"exit code {outcome.exit_code}, not {self.exit_code}"
        if "Traceback" in outcome.stderr:
            return outcome, "a traceback"
        if self.says and not re.search(self.says, outcome.stderr):
            return outcome, f"does not say {self.says!r}"
        return outcome, ""


def run_command(
    script: str, *options: object, seconds: float = 60.0, env: dict[str, str | None] | None = None, **popen: object
) -> Outcome:
    """Run one of the repository's commands to its end, with nothing of the developer's in its environment.

    Args:
        script: its file, such as "run_api.py".
        env: variables to set, or to leave out (None).
        popen: further arguments of subprocess.run.
    """
    clean = {name: value for name, value in os.environ.items() if not re.match(r"OPENAI|HF_|.*_proxy$", name, re.I)}
    clean |= env or {}
    command = [sys.executable, str(REPOSITORY / script), *map(str, options)]
    began = time.monotonic()
    try:
        finished = subprocess.run(
            command,
            env={name: value for name, value in clean.items() if value is not None},
            timeout=seconds,
            check=False,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen),
        )
    except subprocess.TimeoutExpired as late:
        return Outcome(None, time.monotonic() - began, _text(late.stdout), _text(late.stderr))
    took = time.monotonic() - began
    return Outcome(finished.returncode, took, _text(finished.stdout), _text(finished.stderr))


def _text(written: bytes | None) -> str:
    return (written or b"").decode("utf-8", "replace")
