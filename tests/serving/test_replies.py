"""Chunks as they are written by hand."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from answering.conversations import Prompts
from answering.sampling import Asked
from nudging import Piece
from serving.replies import Reply
from serving.requests import Request
from serving.streaming import event_bytes

TEXTS = st.text(st.characters(), max_size=20) | st.text(
    st.sampled_from('"\\\n\r\t\0\x7f\u2028é🙂\ud83d</script>'), max_size=9
)


def reply(is_chat: bool, usage: bool) -> Reply:
    prompts = [Prompts("a", "b")]
    return Reply(Request("pair@0.3", prompts, Asked(), 1, True, usage, is_chat))


@given(
    st.booleans(),
    st.booleans(),
    TEXTS,
    st.sampled_from(["base", "nudging"]),
    st.none() | st.floats(0, 1),
    st.integers(0, 127),
)
def test_a_chunk_is_that_of_the_json_library(is_chat, usage, text, by, top_prob, index):
    one, piece = reply(is_chat, usage), Piece(text, by, top_prob)
    event = one.piece_event(index, piece)
    assert event == event_bytes(one.piece(index, piece))
    assert json.loads(event.removeprefix(b"data: ")) == one.piece(index, piece)
    assert event.count(b"\n") == 2 and event.endswith(b"\n\n")


@pytest.mark.parametrize("top_prob", [float("nan"), float("inf"), -0.1, 1.5])
def test_no_probability_is_none(top_prob):
    with pytest.raises(ValueError):
        reply(True, False).piece_event(0, Piece("a", "base", top_prob))
