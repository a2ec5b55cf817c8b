"""scripts/demo.sh with the real models: killed in the middle, started again to the report, and again with nothing left to do."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import REPOSITORY

QUESTIONS = 6  # an eighth of the demo's, which would take both processors for minutes
# The demo takes some minutes; without a sign of life for this long, it hangs.
SILENT_SECONDS = 1800


class Demo:
    """One run of the demo, its output in files, in a process group of its own."""

    def __init__(self, folder: Path, name: str):
        self.results, self.out, self.err = folder / "demo", folder / f"{name}.out", folder / f"{name}.err"
        command = [str(REPOSITORY / "scripts/demo.sh"), str(self.results), str(QUESTIONS)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)

    def answers(self, kind: str) -> list[str]:
        """The finished lines in the log of the run of one experiment."""
        marks = {"base_only": "0301_demo-base_", "nudging_only": "0301_demo-aligned_", "nudging": "thres_nudging"}
        logs = [path for path in self.results.rglob("*.jsonl") if marks[kind] in path.name]
        return logs[0].read_text().split("\n")[:-1] if logs else []

    def until(self, done) -> None:
        """Wait for something, as long as the demo shows a sign of life now and then."""
        signs, since = None, time.monotonic()
        while not done():
            now = [self.out.stat().st_size, self.err.stat().st_size, *map(len, map(self.answers, KINDS))]
            if now != signs:
                signs, since = now, time.monotonic()
            assert time.monotonic() - since < SILENT_SECONDS, self.told()
            time.sleep(0.2)

    def told(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self) -> str:
        self.until(lambda: self.process.poll() is not None)
        assert self.process.returncode == 0, self.told()
        return self.out.read_text()


KINDS = ("base_only", "nudging_only", "nudging")


def screen(shown: str) -> str:
    """What the demo shows of its answers, without what it says of its steps."""
    return shown[shown.index("(question ") : shown.index("demo finished")]


def sessions(results: Path) -> list[int]:
    return [len(json.loads(path.read_text())["sessions"]) for path in sorted(results.rglob("*.run.json"))]


def answers_before_a_kill(folder: Path) -> list[str]:
    """Kill a demo between the first answer and the last; what it leaves is in its log.

    Where the machine lets this process wait while the models answer, the kill comes too late, and it is tried once more.
    """
    while True:
        killed = Demo(folder, "killed")
        try:
            killed.until(lambda killed=killed: killed.answers("base_only") or killed.process.poll() is not None)
        finally:
            killed.kill()
        kept = killed.answers("base_only")
        assert kept, killed.told()
        if len(kept) < QUESTIONS:
            return kept
        shutil.rmtree(killed.results)


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_killed_continued_and_repeated(tmp_path):
    kept = answers_before_a_kill(tmp_path)

    continued = Demo(tmp_path, "continued")
    try:
        shown = continued.finish()
        assert f"{len(kept)} of {QUESTIONS} answers are there already" in continued.err.read_text()
        assert [len(continued.answers(kind)) for kind in KINDS] == [QUESTIONS] * 3
        texts = {json.loads(line)["index"]: json.loads(line)["raw_answer"] for line in continued.answers("base_only")}
        assert all(texts[json.loads(line)["index"]] == json.loads(line)["raw_answer"] for line in kept)
        assert f"{QUESTIONS} questions" in shown and "paired difference" in shown
        assert "Nudged: " in shown
        assert "demo-base" in (tmp_path / "demo" / "report.html").read_text()
        made = sessions(tmp_path / "demo")
        assert sorted(made) == [1, 1, 2]
        answers = {path: path.read_bytes() for path in (tmp_path / "demo").rglob("*.jsonl")}

        repeated = Demo(tmp_path, "repeated")
        again = repeated.finish()
    finally:
        continued.kill()
        if "repeated" in locals():
            repeated.kill()
    # Nothing is asked again: no model is started, no session is added, and what is shown is the same.
    assert "serving" not in repeated.err.read_text() and sessions(tmp_path / "demo") == made
    assert {path: path.read_bytes() for path in (tmp_path / "demo").rglob("*.jsonl")} == answers
    assert screen(again) == screen(shown)
