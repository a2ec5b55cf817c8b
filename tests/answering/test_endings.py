"""Where an answer ends: over pieces that are cut anywhere, what comes out is what the whole text says."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from answering.answer import Answer
from answering.endings import Part, StopIndex, StopSequences, TokenLimit
from answering.yardstick import Cl100kTokenizer
from nudging import Piece

PIECES = st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=8)
STOPS = st.lists(st.text("ab \n", min_size=1, max_size=5), max_size=4)


def parts_of(texts: list[str]) -> list[Part]:
    return [Part(Piece(text, "nudging" if i % 2 else "base", i / 10), i) for i, text in enumerate(texts)]


@given(PIECES, STOPS)
@example(["aab ", "b"], ["b ", "ab b"])  # the second begins before the first, and ends behind it
@example(["aab ", "a"], ["b ", "ab b"])
@example(["aab "], ["b ", "ab b"])
def test_the_text_ends_before_the_first_stop_sequence(texts, stops):
    ending, out = StopSequences(StopIndex(stops)), []
    whole = ""
    for part in parts_of(texts):
        whole += part.piece.text
        out += ending.add(part)
        given_out = "".join(one.piece.text for one in out)
        # What is held back may begin a stop sequence, and nothing else is.
        held = whole[len(given_out) :]
        assert ending.found or not held or any(stop.startswith(held) and stop != held for stop in stops)
        if ending.found:
            break
    else:
        out += ending.rest()
    text = "".join(texts)
    places = [text.find(stop) for stop in stops if stop in text]
    assert "".join(one.piece.text for one in out) == (text[: min(places)] if places else text)
    assert ending.found == bool(places)
    # Each part is a part of its piece, with who wrote it.
    for number in range(len(texts)):
        same = [one for one in out if one.number == number]
        assert texts[number].startswith("".join(one.piece.text for one in same)) and all(
            one.piece.top_prob == number / 10 for one in same
        )


class Words:
    """A tokenizer of words with their spaces, and bytes of what is no word."""

    name, chat_template, special_tokens = "words", None, {}

    def __init__(self):
        self.texts: list[str] = []
        self.calls = 0

    def encode(self, text, special=False):
        self.calls += 1
        found = re.findall(r" ?[a-z]+|.|\n", text)
        for one in found:
            if one not in self.texts:
                self.texts.append(one)
        return [self.texts.index(one) for one in found]

    def decode(self, ids):
        return "".join(self.texts[i] for i in ids)

    def count(self, text):
        return len(self.encode(text))


@given(st.lists(st.text("abc .\n", min_size=1, max_size=9), max_size=12), st.integers(1, 12))
def test_the_text_has_no_more_tokens_than_the_limit(texts, most):
    tokenizer = Words()
    limit, out = TokenLimit(tokenizer, most), []
    for part in parts_of(texts):
        out += limit.add(part)
        if limit.reached:
            break
    given_out, text = "".join(one.piece.text for one in out), "".join(texts)
    assert text.startswith(given_out)
    if not limit.reached:
        assert given_out == text and tokenizer.count(text) < most
        return
    # A word that was given out in parts may be one token of the whole, so that less than the limit is left of it.
    assert tokenizer.count(given_out) <= most
    assert tokenizer.count(text) >= most


@given(st.text(max_size=60), st.integers(1, 30), st.integers(1, 7))
def test_cl100k_base_is_cut_between_its_tokens(text, most, size):
    tokenizer = Cl100kTokenizer()
    texts = [text[i : i + size] for i in range(0, len(text), size)]
    limit, out = TokenLimit(tokenizer, most), []
    for part in parts_of(texts):
        out += limit.add(part)
        if limit.reached:
            break
    given_out = "".join(one.piece.text for one in out)
    assert text.startswith(given_out) and tokenizer.count(given_out) <= most


def test_a_long_answer_is_seldom_cut_into_tokens():
    tokenizer = Words()
    limit = TokenLimit(tokenizer, 400)
    for part in parts_of(["word "] * 399):
        assert list(limit.add(part)) == [part]
    assert tokenizer.calls < 40


def test_words_that_are_more_tokens_one_by_one_are_no_more_than_the_whole_answer():
    answer = Answer()
    for number, letter in enumerate("abc"):
        answer.add(Part(Piece(letter, "nudging"), number))
    assert answer.rate == 1.0
