"""Connections that are cut when their time is up."""

import socket

import pytest

from language_models.hosted.deadlines import Deadlines


class Stream:
    """A network stream as httpcore has them."""

    def __init__(self, own: socket.socket | None):
        self.own = own

    def get_extra_info(self, name: str) -> socket.socket | None:
        assert name == "socket"
        return self.own


@pytest.fixture
def ends():
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


def test_what_is_overdue_is_cut_and_what_is_over_is_not(ends):
    mine, other = ends
    mine.settimeout(10)
    deadlines = Deadlines()
    assert not deadlines.is_over(deadlines.cut_after(0.0, Stream(other)))
    key = deadlines.cut_after(0.1, Stream(mine))
    assert mine.recv(1) == b"" and deadlines.is_over(key)


@pytest.mark.parametrize("stream", [None, Stream(None), object()], ids=["none", "without a socket", "another"])
def test_what_cannot_be_cut_ends_no_watch(stream, ends):
    mine, _ = ends
    mine.settimeout(10)
    deadlines = Deadlines()
    deadlines.cut_after(0.0, stream)
    deadlines.cut_after(0.1, Stream(mine))
    assert mine.recv(1) == b""
