"""Tests of command/entry.py: the first and the last moment of a command, in children of this process."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from command import entry
from command.console import Command
from command.secrets import register
from command.stopping import Terminated


def of_child(work: Callable[[], None]) -> tuple[int, str]:
    """The exit code of a child that does some work, and what it says on standard error."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(write, 2)
        sys.stderr = open(2, "w", closefd=False)
        for number in entry.SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        try:
            work()
        finally:
            os._exit(99)
    os.close(write)
    with open(read) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
class TestSignals:
    def test_at_the_start(self, name, code):
        def work() -> None:
            entry.begin("some.py")
            signal.raise_signal(getattr(signal, name))

        assert of_child(work) == (code, "some.py: interrupted before it began\n")

    def test_in_the_work(self, name, code):
        def work() -> None:
            entry.begin("some.py")
            entry.end(lambda: Command("some.py").run(lambda: signal.raise_signal(getattr(signal, name)) or 0))

        assert of_child(work) == (code, "some.py: interrupted\n")

    def test_while_an_earlier_one_is_told(self, name, code):
        def again() -> int:
            raise Terminated(code) if code != 130 else KeyboardInterrupt

        assert of_child(lambda: entry.end(again)) == (code, "")

    def test_in_a_finalizer_where_python_only_prints_it(self, name, code):
        class Finalized:
            def __del__(self):
                signal.raise_signal(getattr(signal, name))

        def work() -> None:
            entry.begin("some.py")
            entry.end(lambda: Command("some.py").run(lambda: Finalized() and None))

        assert of_child(work) == (code, "some.py: interrupted\n")

    def test_at_the_end_the_command_has_its_own_code(self, name, code):
        class Slow:
            def flush(self):
                signal.raise_signal(getattr(signal, name))

        def work() -> None:
            entry.begin("some.py")
            sys.stdout = Slow()
            entry.end(lambda: 7)

        assert of_child(work) == (7, "")


def test_what_is_ignored_stays_so():
    """As under nohup."""

    def work() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        entry.begin("some.py")
        signal.raise_signal(signal.SIGHUP)
        entry.end(lambda: Command("some.py").run(lambda: signal.raise_signal(signal.SIGHUP) or 5))

    assert of_child(work) == (5, "")


@pytest.mark.parametrize(
    ("told", "code", "says"), [(None, 0, ""), (3, 3, ""), ("no such thing", 1, "no such thing\n"), (0, 0, "")]
)
def test_ends_by_themselves(told, code, says):
    assert of_child(lambda: entry.end(lambda: sys.exit(told))) == (code, says)


def test_an_error_that_nobody_expected_is_shown():
    def work() -> int:
        register("sk-live-123")
        return int("sk-live-123")

    code, said = of_child(lambda: entry.end(work))
    assert code == 1 and "unexpected error\nTraceback" in said and "please report it" in said
    assert "invalid literal for int() with base 10: '***'" in said and "sk-live-123" not in said.splitlines()[-2]


def test_output_that_was_lost_outside_of_the_work_is_told():
    def work() -> None:
        sys.stdout = open("/dev/full", "w")
        entry.begin("some.py")
        entry.end(lambda: print("usage: some.py") or 0)

    assert of_child(work) == (0, "some.py: warning: standard output was not written whole (No space left on device)\n")
