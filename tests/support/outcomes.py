"""A pytest plugin: says which test failed at once, and writes what became of each test for scripts/run_tests.py."""

import json
import os
from pathlib import Path

from scripts.run_tests import OUTCOMES


class Outcomes:
    """Runs in the one process that reports; those that run tests side by side send it what came of them."""

    def __init__(self, config):
        self.config = config
        self.file = Path(os.environ[OUTCOMES]) if OUTCOMES in os.environ else None
        self.counted: set[str] = set()

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed or report.skipped:
            self.add(report)
        elif report.when == "teardown" and report.nodeid not in self.counted:
            self.write(report.nodeid, "passed", "")

    def pytest_collectreport(self, report) -> None:
        if report.failed or report.skipped:
            self.add(report)

    def add(self, report) -> None:
        self.counted.add(report.nodeid)
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            self.write(report.nodeid, "skipped", why.removeprefix("Skipped: "))
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else str(report.longrepr)).strip().splitlines() or [""]
        why = (lines[0] if crash else lines[-1])[:300]
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}): {why}", red=True)
        self.write(report.nodeid, "failed", why)

    def write(self, test: str, outcome: str, why: str) -> None:
        if self.file:
            with self.file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({"test": test, "outcome": outcome, "why": why}) + "\n")
