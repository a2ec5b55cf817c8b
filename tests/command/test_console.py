"""Tests of command/console.py: exit codes, and lines that a terminal can bear."""

import signal

import pytest

from command.console import LONGEST_SHOWN, Command, visible
from command.errors import OptionError, UserError
from command.stopping import Terminated
from command.unexpected import REPORT, told_with
from datasets_loader import DataError
from language_models.interface import ContextLengthError, TransientError

COMMAND = Command("some_command.py")


@pytest.fixture(autouse=True)
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize("code", [0, 1, 2, 7])
def test_the_works_own_code(code, capsys):
    assert COMMAND.run(lambda: code) == code and capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [UserError, OptionError, DataError, ContextLengthError, TransientError])
def test_errors_that_a_person_can_mend(kind, capsys):
    assert COMMAND.run(raising(kind("the \x1b[2Jdisk is full"))) == 2
    assert capsys.readouterr().err == "some_command.py: error: the \\x1b[2Jdisk is full\n"


def test_a_file_that_cannot_be_used_is_named(capsys, tmp_path):
    assert COMMAND.run(raising(PermissionError(13, "Permission denied", "a.txt"))) == 2
    assert COMMAND.run(lambda: (tmp_path / ("x" * 300)).stat() and 0) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "some_command.py: error: a.txt: Permission denied" and said[1].endswith("File name too long")


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (Terminated(), 143), (Terminated(129), 129)])
def test_interrupts(error, code, capsys):
    assert COMMAND.run(raising(error), interrupted="stopped; it continues") == code
    assert capsys.readouterr().err == "some_command.py: stopped; it continues\n"


def test_other_errors_are_told_with_their_traceback_unless_they_are_named(capsys):
    assert COMMAND.run(raising(OSError("gone"))) == 1
    said = capsys.readouterr().err
    assert said.startswith("some_command.py: unexpected error\nTraceback (most recent call last):\n")
    assert "in work\n" in said and said.endswith(f"OSError: gone\n{REPORT}\n")
    assert COMMAND.run(raising(OSError("gone")), errors=(OSError,)) == 2
    assert capsys.readouterr().err == "some_command.py: error: gone\n"


def test_a_plain_error_with_a_fault_of_the_program_behind_it(capsys):
    assert COMMAND.run(raising(told_with(UserError("it cannot be run"), OSError("gone")))) == 2
    assert capsys.readouterr().err == (
        f"some_command.py: unexpected error\nOSError: gone\n{REPORT}\nsome_command.py: error: it cannot be run\n"
    )


def test_texts_of_others_are_cut(capsys):
    COMMAND.note("a" * 10 * LONGEST_SHOWN)
    assert len(capsys.readouterr().err) < LONGEST_SHOWN + 100
    assert visible("a\x00\ud800\u202eb") == "a\\x00\\ud800\\u202eb"
