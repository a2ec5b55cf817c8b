"""Tests of command/console.py: exit codes, and lines that a terminal can bear."""

import signal

import pytest

from command.console import LONGEST_SHOWN, Command, visible
from command.errors import OptionError, UserError
from command.stopping import Terminated
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


def test_other_errors_are_not_hidden_unless_they_are_named():
    with pytest.raises(OSError, match="gone"):
        COMMAND.run(raising(OSError("gone")))
    assert COMMAND.run(raising(OSError("gone")), errors=(OSError,)) == 2


def test_texts_of_others_are_cut(capsys):
    COMMAND.note("a" * 10 * LONGEST_SHOWN)
    assert len(capsys.readouterr().err) < LONGEST_SHOWN + 100
    assert visible("a\x00\ud800\u202eb") == "a\\x00\\ud800\\u202eb"
