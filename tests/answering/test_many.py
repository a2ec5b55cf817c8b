"""Several questions at once: what cannot be asked is said before any is, and Ctrl-C ends all that is being written."""

import threading

import pytest
from served_pair import BASE, NUDGING
from waiting import HANG

from answering.answer import Answer
from answering.conversations import ConversationError
from answering.many import AnswersError, answers_side_by_side
from answering.sampling import AskedError
from language_models.cancelling import Cancelled
from nudged_pair import NudgedPair

QUESTIONS = [f"How many days are in {number} weeks?" for number in range(6)]


@pytest.fixture
def pair(server):
    hosts = {"base_host": server.host, "nudging_host": server.host}
    with NudgedPair.load(BASE, NUDGING, **hosts, say=lambda words: None) as pair:
        yield pair


@pytest.mark.parametrize("ask", ["answer", "stream", "answers"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_token": 5}, "max_token; there are: .*max_tokens"),
        ({"by": "both"}, "by must be one of pair, base, nudging"),
        ({"top_prob_thres": 2}, "top_prob_thres"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(pair, ask, asked, said):
    with pytest.raises(AskedError, match=said):
        getattr(pair, ask)(QUESTIONS if ask == "answers" else QUESTIONS[0], **asked)


@pytest.mark.parametrize("questions", ["How many days?", None, 3])
def test_one_question_is_no_list_of_letters(pair, questions):
    with pytest.raises(ConversationError, match="answers takes a list of questions"):
        pair.answers(questions)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True])
def test_threads_are_a_number(pair, num_threads):
    with pytest.raises(AskedError, match="num_threads must be a whole number from 1"):
        pair.answers(QUESTIONS, num_threads=num_threads)


def test_any_iterable_of_questions(pair):
    assert pair.answers([]) == []
    texts = [answer.text for answer in pair.answers((question for question in QUESTIONS), max_tokens=3)]
    assert texts == [pair.answer(question, max_tokens=3).text for question in QUESTIONS]


def test_what_was_answered_is_not_lost(pair):
    with pytest.raises(AnswersError, match="1 of 3 questions were not answered; the first: question 1") as raised:
        pair.answers([QUESTIONS[0], [{"role": "nobody", "content": ""}], QUESTIONS[1]], max_tokens=3)
    assert [answer is not None for answer in raised.value.answers] == [True, False, True]
    assert list(raised.value.errors) == [1]


class Endless:
    """A stream that ends when it is cancelled."""

    def __init__(self):
        self.answer, self.cancelled, self.begun = Answer(), threading.Event(), threading.Event()

    def __iter__(self):
        self.begun.set()
        assert self.cancelled.wait(HANG), "nobody cancelled it"
        raise Cancelled
        yield

    def cancel(self):
        self.cancelled.set()

    def close(self):
        pass


def test_an_interrupt_ends_what_is_being_written():
    streams = [Endless() for _ in range(6)]

    def begin(index: int) -> Endless:
        if index:
            return streams[index]
        assert streams[1].begun.wait(HANG) and streams[2].begun.wait(HANG)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers_side_by_side(len(streams), begin, 3)
    assert streams[1].cancelled.is_set() and streams[2].cancelled.is_set()
