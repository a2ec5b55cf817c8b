"""What analyses count, against direct slow computations over random places; kinds and nudges of texts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.analyses import (
    ALL,
    ANALYSES,
    IN_TOP,
    LARGE,
    NUDGED,
    NUDGES,
    OF_ALL,
    OF_BOTH,
    OF_DISAGREEING,
    OF_NUDGES,
    RATE,
)
from analysis.answers import Answer
from analysis.kinds import KINDS, kind_of, units_of
from analysis.nudges import Unit, nudged_spans, units
from analysis.places import Place, compare, rank, same_tokens
from analysis.published import PUBLISHED, beside
from command.intervals import grouped_wilson_interval
from language_models.scored_text import ScoredToken

UNIT = st.floats(0, 1)
PLACE = st.builds(
    Place, st.integers(0, 4), st.integers(0, 9), st.floats(0, 0.999), st.just("x"), st.sampled_from(KINDS), st.just("x"), UNIT,
    st.booleans(), st.just("y"), UNIT, st.integers(0, 5), st.integers(0, 5),
)  # fmt: skip
NUDGE = st.builds(
    Unit, st.integers(0, 4), st.integers(0, 9), st.floats(0, 0.999), st.sampled_from(KINDS), st.booleans()
)
CLASS = {1: "agree", 2: "weakly disagree", 3: "weakly disagree"}


def in_tenth(value, label):
    """Whether a value from 0 to 1 lies in a tenth such as 0.1-0.2, the last one with its end."""
    low, high = map(float, label.split("-"))
    # Bins begin a rounding error early, so that 0.3 lies in the one that begins with it.
    return low - 1e-10 <= value < high - 1e-10 or (high == 1 and value >= 1 - 1e-10)


def below(label):
    return float(label.rpartition(" ")[2]) if label.startswith("top-1") else math.inf


def agreement(place):
    return CLASS.get(place.base_rank, "disagree")


# For each analysis: which places a row is over, and which of them it counts, by its label and series.
DIRECT = {
    "uncertainty": lambda p, label, series: (series == ALL or in_tenth(p.base_prob, label),
                                             in_tenth(p.base_prob, label) if series == ALL else agreement(p) == series),
    "agreement": lambda p, label, series: {
        ALL: (True, p.base_prob < below(label)),
        OF_DISAGREEING: (agreement(p) == "disagree", p.base_prob < below(label)),
        OF_BOTH: (agreement(p) != "agree", p.base_prob < below(label)),
    }.get(series, (p.base_prob < below(label), agreement(p) == series)),
    "small_and_large": lambda p, label, series: (agreement(p) == label, series == IN_TOP and p.small_rank in (1, 2, 3)),
    "kinds": lambda p, label, series: {RATE: (p.kind == label, agreement(p) == "disagree"),
                                       OF_ALL: (agreement(p) == "disagree", p.kind == label)}[series],
    "positions": lambda p, label, series: (in_tenth(p.relative, label), agreement(p) == series),
    "nudged_kinds": lambda u, label, series: {NUDGED: (label in ("all", u.kind), u.nudged),
                                              OF_NUDGES: (u.nudged, u.kind == label)}[series],
    "nudged_positions": lambda u, label, series: (in_tenth(u.relative, label), series == NUDGED and u.nudged),
}  # fmt: skip


def test_every_analysis_is_computed_in_another_way_too():
    assert DIRECT.keys() == ANALYSES.keys()


@pytest.mark.parametrize("name", ANALYSES)
@given(data=st.data())
def test_an_analysis_counts_what_it_says(name, data):
    analysis = ANALYSES[name]
    things = data.draw(st.lists(NUDGE if analysis.needs == NUDGES else PLACE, min_size=1, max_size=30))
    rows = analysis.rows(things)
    assert {row.series for row in rows} >= set(analysis.series)
    assert len({(row.label, row.series) for row in rows}) == len(rows)
    for row in rows:
        over = [
            (thing, counted) for thing in things for of, counted in [DIRECT[name](thing, row.label, row.series)] if of
        ]
        assert (row.n, row.count) == (len(over), sum(counted for _, counted in over))
        answers = sorted({thing.answer for thing, _ in over})
        assert row.answers == len(answers)
        if over:
            groups = [[int(counted) for thing, counted in over if thing.answer == a] for a in answers]
            assert (row.low, row.high) == pytest.approx(grouped_wilson_interval(groups))
            assert row.low <= row.share <= row.high
        else:
            assert row.share is row.low is row.high is None


def test_published_figures_stand_beside_rows_that_there_are():
    place = Place(0, 0, 0.0, "x", "content word", "x", 0.5, True, "y", 0.05, 0, 0)
    tables = {
        name: one.rows([Unit(0, 0, 0.0, "digits", True)] if one.needs == NUDGES else [place])
        for name, one in ANALYSES.items()
    }
    assert [published for published, _ in beside(tables)] == list(PUBLISHED)
    assert {published.analysis for published, _ in beside(tables)} <= ANALYSES.keys()
    assert LARGE in {ANALYSES[published.analysis].needs for published in PUBLISHED}


@pytest.mark.parametrize(
    "text, piece, kind",
    [
        ("Sure. The", "Sure", "discourse word"),
        ("Sure. The", " The", "first word of a sentence"),
        ("Sure.", ".", "punctuation"),
        ("is 12.5 km", " 12", "digits"),
        ("is 12.5 km", " km", "content word"),
        ("so is it", " is", "function word"),
        ("a\n\nb", "\n\n", "newline"),
        ("a  b", " ", "blank"),
        ("bread", "ead", "inside a word"),
        ("I don't", "'t", "inside a word"),
        ("I don't", " don", "content word"),
        ("x ≈ 3", " ≈", "punctuation"),
        ("- **Total", "Total", "content word"),
        ('He said: "No."\nWhy', "Why", "function word"),
        ("A: Berlin", " Berlin", "first word of a sentence"),
    ],
)
def test_kinds(text, piece, kind):
    start = text.index(piece)
    expected = "first word of a sentence" if piece == "Why" else kind
    assert kind_of(text, start, start + len(piece)) == expected


@given(st.text(alphabet=st.sampled_from("ab .\n'’1,?é日-"), min_size=1, max_size=30), st.data())
def test_every_piece_has_a_kind_and_units_leave_out_blanks_alone(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert kind_of(text, start, end) in KINDS
    covered = {at for a, b in units_of(text) for at in range(a, b)}
    assert not {at for at in range(len(text)) if at not in covered and text[at].strip()}
    assert all(kind_of(text, a, b) != "blank" for a, b in units_of(text))


PARTS = st.lists(st.tuples(st.text("ab \n", max_size=4), st.text("cd \n", max_size=4)), max_size=5)


@given(PARTS)
def test_nudges_lie_where_the_record_says(parts):
    text = "".join(words + rest for words, rest in parts)
    answer = Answer("one", text, (), tuple(w for w, _ in parts), tuple(w + rest for w, rest in parts))
    nudged = [i for a, b in nudged_spans(answer) for i in range(a, b)]
    owners = [owner for words, rest in parts for owner in "n" * len(words) + "b" * len(rest)]
    assert nudged == [i for i, owner in enumerate(owners) if owner == "n"]
    found, odd = units([answer])
    assert not odd
    assert all(unit.nudged == (owners[unit.start] == "n") for unit in found)
    assert not text or nudged_spans(Answer("one", text + "!", (), answer.nudging_words, answer.pieces)) is None


def scored(*pieces, top=None):
    """Tokens of pieces, each with itself as the most probable one."""
    found, at = [], 0
    for piece in pieces:
        found.append(ScoredToken(at, piece, -0.5, ((piece, -0.5), *(top or ()))))
        at += len(piece)
    return tuple(found)


def test_models_are_compared_where_tokens_of_all_begin_and_the_rest_is_counted():
    text = "a bread é!"
    lead = scored("a", " br", "ead", " ", "", "é", "!")
    base = scored("a", " bread", " ", "é", "!")
    places, left_out = compare(7, text, {"base": base, "nudging": lead}, same_tokens([{"base": base, "nudging": lead}]))
    assert [place.start for place in places] == [0, 1, 7, 9]
    assert left_out == {"no token of base begins there": 1, "inside of a character of several tokens": 2}
    assert len(places) + sum(left_out.values()) == len(lead)
    assert [place.base_rank for place in places] == [1, 1, 1, 1]  # " br" begins " bread"
    assert {place.answer for place in places} == {7} and places[0].small_rank is None


def test_the_large_aligned_model_leads_and_the_small_one_is_ranked():
    small = scored("a", " b", top=((" c", -1.0), (" d", -2.0)))
    large = (ScoredToken(0, "a", -1, ((" d", -0.1),)), ScoredToken(1, " b", -1, ((" x", -0.1),)))
    places, _ = compare(0, "a b", {"base": scored("a", " b"), "nudging": small, "aligned": large}, True)
    assert [(p.aligned_token, p.own, p.base_rank, p.small_rank, p.agreement) for p in places] == [
        (" d", False, 0, 3, "disagree"),
        (" x", False, 0, 0, "disagree"),
    ]


def test_tokens_are_the_same_by_whole_texts_or_by_beginnings():
    top = [(" then", -1.0), ("", -2.0), (" the", -3.0)]
    assert [rank(" the", top, exact) for exact in (True, False)] == [3, 1]
    assert [rank("", top, exact) for exact in (True, False)] == [2, 2]
    assert rank(" a", top, False) == 0


def test_a_part_of_a_character_is_not_compared():
    lead = (ScoredToken(0, "a", -1, (("\ufffd", -0.1),)), ScoredToken(1, "b", -1, (("b", -0.1),)))
    places, left_out = compare(0, "ab", {"base": scored("a", "b"), "nudging": lead}, True)
    assert [place.start for place in places] == [1]
    assert left_out == {"the aligned model would write a part of a character": 1}
    assert rank(" ", [(" \ufffd", -0.1)], False) == 0
