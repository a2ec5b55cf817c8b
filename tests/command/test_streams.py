"""Tests of command/streams.py: whatever becomes of standard output and error, no write raises, and what is lost is known."""

import errno
import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from command.console import Command
from command.errors import UserError
from command.streams import NOBODY_READS, Bearing, bearing_everything, open_closed_descriptors

COMMAND = Command("some_command.py")
FAULTS = [OSError(number, os.strerror(number)) for number in (*NOBODY_READS, errno.ENOSPC, errno.EAGAIN, errno.EDQUOT)]


class Faulty(io.StringIO):
    """A stream of which some calls fail, in turn; an exception stands for a failure."""

    def __init__(self, turns):
        super().__init__()
        self.turns = list(turns)

    def _turn(self):
        if self.turns and (fault := self.turns.pop(0)) is not None:
            raise fault

    def write(self, text):
        self._turn()
        return super().write(text)

    def flush(self):
        self._turn()


TURNS = st.lists(st.none() | st.sampled_from([*FAULTS, ValueError("I/O operation on closed file")]), max_size=12)


@given(TURNS, st.lists(st.text(max_size=9), min_size=1, max_size=6))
def test_every_text_is_taken_and_what_can_be_written_is(turns, texts):
    stream = Bearing(Faulty(turns))
    for text in texts:
        assert stream.write(text) == len(text)
        stream.flush()
    told = [turn for turn in turns[: 2 * len(texts)] if isinstance(turn, OSError)]
    assert stream.fault is (told[-1] if told else None)
    assert (stream.lost is None) == (not told or told[-1].errno in NOBODY_READS)
    kept = [text for number, text in enumerate(texts) if turns[2 * number : 2 * number + 1] in ([], [None])]
    assert stream.getvalue() == "".join(kept)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_work_goes_on_where_nobody_reads(number, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Faulty([OSError(number, "gone")] * 100))

    def work() -> int:
        print("a", flush=True)
        for _ in tqdm(range(3)):
            COMMAND.note("b")
        COMMAND.show("c")
        return 7

    assert COMMAND.run(work) == 7
    assert isinstance(sys.stdout, Faulty)  # what the command has put in its place is gone with it


def test_a_full_disk_is_told_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Faulty([OSError(errno.ENOSPC, "No space left on device")] * 100))
    assert COMMAND.run(lambda: print("a") or 0) == 0
    assert capsys.readouterr().err == (
        "some_command.py: warning: standard output was not written whole (No space left on device)\n"
    )
    assert COMMAND.run(lambda: COMMAND.show("a") or 0) == 2
    assert capsys.readouterr().err == (
        "some_command.py: error: standard output cannot be written (No space left on device)\n"
    )


def test_what_a_signal_says_in_the_middle_of_a_write(tmp_path):
    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

        def fileno(self):
            return file.fileno()

    with (tmp_path / "said").open("w") as file:
        Bearing(Busy()).write("told to stop\n")
    assert (tmp_path / "said").read_text() == "told to stop\n"


def test_no_streams_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with bearing_everything():
        print("to nobody")
    assert sys.stdout is None


def test_closed_descriptors_become_no_file_of_results(tmp_path):
    """In a child, since the descriptors are this process's own."""
    if (child := os.fork()) == 0:
        os.close(1)
        os.close(2)
        open_closed_descriptors()
        log = open(tmp_path / "log", "wb")
        os.write(1, b"x")
        os.write(2, b"x")
        os._exit(0 if log.fileno() > 2 and (tmp_path / "log").stat().st_size == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_show_says_why(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Bearing(Faulty([OSError(errno.EDQUOT, "Disk quota exceeded")])))
    with pytest.raises(UserError, match="Disk quota exceeded"):
        COMMAND.show("a")
