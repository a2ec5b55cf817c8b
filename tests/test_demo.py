"""scripts/demo.sh from the first step to the report, with the real models; and again, with nothing left to do."""

import re
import subprocess
import time

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_the_demo_twice(tmp_path):
    def demo() -> tuple[str, float]:
        began = time.monotonic()
        command = [str(REPOSITORY / "scripts/demo.sh"), str(tmp_path / "demo")]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=1500)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout, time.monotonic() - began

    shown, seconds = demo()
    rows = [line for line in shown.splitlines() if line.startswith("| gsm8k")]
    assert [row.split("|")[2].strip() for row in rows] == ["base only", "nudging only", "nudging", "ensemble"]
    assert [int(row.split("|")[5]) for row in rows] == [24, 24, 24, 4]
    assert re.search(r"open \S+report\.html in a browser", shown)
    report = (tmp_path / "demo" / "report.html").read_text()
    assert "demo-base" in report
    # models of this size get some of the questions right
    assert re.search(r"\d+\.\d % \(", rows[1]) and " 0.0 %" not in rows[1]
    again, seconds_again = demo()
    assert [line for line in again.splitlines() if line.startswith("| gsm8k")] == rows
    assert seconds_again < seconds / 2
