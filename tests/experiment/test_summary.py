"""Tests of experiment/summary.py: the published program's lines and figures, and our own beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import CASES

from command.intervals import mean_interval, wilson_interval
from experiment.judgements import published_count
from experiment.summary import nudged_characters, nudged_words, summarise

FIVE_ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement")


@pytest.mark.parametrize(
    "nudging_words, pieces, nudged, words",
    [
        (["The answer", " is", " end"], ["The answer was", " is six", " end"], 3, 6),  # the ending is not counted
        ([" so ", "", " \n", "four", "end"], [" so ", "", " \n", "four", "end"], 2, 4),  # nor is what is blank
        (["two words "], ["two words ", "more"], 1, 3),  # the only nudge is the ending: "", one word as it is split
        ([], ["a b"], 1, 2),
        ([" ", "\n"], [" ", "\n"], 1, 2),
        ([], [], 1, 1),
        (["a", "b", "c", "d", "end"], ["a", "b", "c", "d", "end"], 1, 1),  # glued together they are one word
        (["one\ntwo", "end"], ["one\ntwo three", "end"], 1, 2),  # words are split at blanks alone
    ],
)
def test_nudged_words(nudging_words, pieces, nudged, words):
    record = {"all_nudging_words": nudging_words, "all_completions": pieces}
    assert nudged_words(record) == (nudged, words)


# What the published program counts on its own recorded outputs: nudged words per answer, and their mean share in percent.
PUBLISHED_FIGURES = {
    "nudging_gamma0.3_loops": (20.666666666666668, "5.3"),
    "nudging_gamma0.4": (9.333333333333334, "8.3"),
    "nudging_gamma0.4_short": (5.166666666666667, "9.1"),
    "nudging_gamma0.5_small_chunks": (31.583333333333332, "21.3"),
    "nudging_gamma0.6_olmo": (47.25, "23.0"),
}
TO_TWO_DECIMALS = {"nudging_gamma0.4": 8.34, "nudging_gamma0.4_short": 9.09, "nudging_gamma0.5_small_chunks": 21.35}


def by_hand(record: dict) -> tuple[int, int]:
    """The published count without splitting anything: a text of n blanks has n + 1 words."""
    words, kept = 1, []
    for piece in record["all_completions"]:
        words += piece.count(" ")
    for nudge in record["all_nudging_words"]:
        if nudge.strip():
            kept.append(nudge.strip())
    blanks = 0
    for nudge in kept[:-2]:
        blanks += nudge.count(" ") + 1
    blanks += kept[-2].count(" ") if len(kept) > 1 else 0
    return min(blanks + 1, words), words


class TestRecordedOutputs:
    def test_every_nudging_case_has_its_figures(self):
        assert set(PUBLISHED_FIGURES) == {name for name, case in CASES.items() if case["exp"] == "nudging"}

    @pytest.mark.parametrize("name", PUBLISHED_FIGURES)
    def test_the_published_figures(self, name):
        records = CASES[name]["records"]
        mean, percent = PUBLISHED_FIGURES[name]
        summary = summarise(records, "rule")
        assert summary.published_lines() == [
            f"num_q: {len(records)}, mean_num_nudging: {mean}, mean_ratio_nudging: {percent}%"
        ]
        if name in TO_TWO_DECIMALS:
            assert round(100 * summary.fields["mean_ratio_nudging"], 2) == TO_TWO_DECIMALS[name]
        assert [nudged_words(record) for record in records] == [by_hand(record) for record in records]

    @pytest.mark.parametrize(
        "name, share", [("nudging_gamma0.4", "10.5 %"), ("nudging_gamma0.5_small_chunks", "17.3 %")]
    )
    def test_our_own_figure_stands_beside_it(self, name, share):
        summary = summarise(CASES[name]["records"], "rule")
        shown = dict(line.split("  ", 1) for line in summary.table().splitlines()[1:-1])
        assert shown["nudged characters, of all"].strip() == share
        assert shown["intervention rate, as published"].strip() == f"{PUBLISHED_FIGURES[name][1]} %"

    @pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["exp"] != "nudging"])
    def test_other_experiments_have_no_intervention_rate(self, name):
        summary = summarise(CASES[name]["records"], "rule")
        assert summary.published_lines() == [] and "nudg" not in summary.table()


# Blanks, other white space and line ends in all places; mostly few, so that nudges are blank or missing now and then.
WORDS = st.text(st.sampled_from("ab \n\t\u00a0."), max_size=8)
ROUNDS = st.lists(st.tuples(WORDS, WORDS), max_size=6)


def of_rounds(rounds: list[tuple[str, str]]) -> dict:
    """The record of an answer: in each round the nudging model's words, and the base model's."""
    return answer(all_nudging_words=[n for n, _ in rounds if n], all_completions=[n + base for n, base in rounds])


@given(st.lists(ROUNDS, min_size=1, max_size=5), st.integers(0, 2))
def test_any_answers_are_counted_as_published(answers, failed):
    records = [of_rounds(rounds) for rounds in answers]
    fields = summarise([*records, *[{"error": "no server"}] * failed], "judge").fields
    counts = [by_hand(record) for record in records]
    assert [nudged_words(record) for record in records] == counts
    assert fields["num_q"] == len(answers)
    assert fields["mean_num_nudging"] == pytest.approx(sum(n for n, _ in counts) / len(counts))
    assert fields["mean_ratio_nudging"] == pytest.approx(sum(n / words for n, words in counts) / len(counts))
    assert 0 < fields["mean_ratio_nudging"] <= 1
    nudged = "".join(nudge for rounds in answers for nudge, _ in rounds)
    base = "".join(base for rounds in answers for _, base in rounds)
    assert (fields["nudged_characters"], fields["characters"]) == (len(nudged), len(nudged) + len(base))
    if nudged + base:
        assert fields["nudged_character_share"] == len(nudged) / len(nudged + base)


@pytest.mark.parametrize("pieces, nudged", [(["ab", " c"], (4, 4)), (["ab cde"], (4, 6)), ([], (0, 0))])
def test_nudged_characters_are_never_more_than_there_are(pieces, nudged):
    """A foreign record may have words that are not in its answer."""
    assert nudged_characters({"all_nudging_words": ["ab", " d"], "all_completions": pieces}) == nudged


def answer(correct: int | None = None, **more) -> dict:
    return {"raw_answer": "6", "scores": None if correct is None else {"correct": correct}} | more


def nudged(correct: int, nudges: int, words: int) -> dict:
    """An answered record of n words, of which the first are nudged."""
    pieces = ["w"] + [" w"] * (words - 1)
    return answer(correct, all_nudging_words=[*pieces[:nudges], "ending"], all_completions=pieces, stop_reason="length")


def rated(**scores: int) -> dict:
    mean = sum(scores.values()) / len(scores)
    return answer() | {"scores": {a: {"score": s, "reason": ""} for a, s in scores.items()} | {"mean": mean}}


class TestSummarise:
    def test_rule(self):
        records = [answer(1), answer(0), answer(1), answer(), {"error": "no server"}]
        summary = summarise(records, "rule", seconds=2.5)
        expected = {"samples": 5, "answered": 4, "failed": 1, "scored": 3, "unscored": 1, "correct": 2, "seconds": 2.5}
        assert summary.fields.items() >= expected.items()
        assert summary.fields["accuracy"] == 2 / 3
        assert summary.fields["accuracy_interval_95"] == wilson_interval(2, 3)
        assert summary.published_lines() == ["num_sample 3 correct 2 ratio_rule 0.6667"]
        assert summary.warnings() == []

    @pytest.mark.parametrize(
        "counted, n, name", [(True, 2, "unreadable_counted_as_published"), (False, 1, "unreadable_judgements")]
    )
    def test_judge_with_unreadable_judgements(self, counted, n, name):
        scores = published_count("judge") | {"judge": "j"} if counted else None
        unreadable = answer() | {"scores": scores, "judge_replies": {"judge": "j", "replies": ["?"]}}
        summary = summarise([answer(1), unreadable], "judge")
        assert (summary.fields[name], summary.fields["scored"]) == (1, n)
        assert summary.published_lines()[0] == f"num_sample {n} correct 1 ratio_gpt {1 / n:.4f}"
        assert "judgements that cannot be read" in summary.table()

    def test_just_eval(self):
        records = [
            rated(**dict.fromkeys(FIVE_ASPECTS, 5)),
            rated(**{a: score for score, a in enumerate(FIVE_ASPECTS, 1)}),
        ]
        summary = summarise(records, FIVE_ASPECTS)
        assert summary.fields["scoring"] == "just_eval"
        assert summary.fields["mean_score"] == 4
        assert summary.fields["mean_score_interval_95"] == mean_interval([5, 3])
        assert summary.published_lines() == [
            "Average helpfulness score: 3.0",
            "Average clarity score: 3.5",
            "Average factuality score: 4.0",
            "Average depth score: 4.5",
            "Average engagement score: 5.0",
        ]

    @pytest.mark.parametrize(
        "scores, shown", [((4, 4, 5), "4.33"), ((1, 2, 2), "1.67"), ((5, 5), "5.0"), ((2,), "2.0")]
    )
    def test_averages_have_three_digits_at_most(self, scores, shown):
        summary = summarise([rated(safety=score) for score in scores], ("safety",))
        assert summary.published_lines() == [f"Average safety score: {shown}"]

    def test_just_eval_of_one_answer_has_no_interval(self):
        summary = summarise([rated(safety=4)], ("safety",))
        assert summary.fields["mean_score_interval_95"] is None
        assert "4.00" in summary.table() and "95" not in summary.table()

    def test_nudging(self):
        records = [nudged(1, nudges=1, words=10), nudged(0, nudges=2, words=10)]
        summary = summarise(records, "rule")
        assert summary.fields["mean_ratio_nudging"] == pytest.approx(0.15)
        lines = [
            "num_q: 2, mean_num_nudging: 1.5, mean_ratio_nudging: 15.0%",
            "num_sample 2 correct 1 ratio_rule 0.5000",
        ]
        assert summary.published_lines() == lines
        assert summary.left_out() == []
        assert str(summary).splitlines()[:4] == [*lines, "", summary.table().splitlines()[0]]
        assert summarise(records[:1], "rule").published_lines()[0].startswith("num_q: 1, mean_num_nudging: 1.0, ")

    def test_samples_that_the_published_lines_leave_out_are_named_below_them(self):
        records = [
            nudged(1, 1, 10),
            nudged(0, 2, 10),
            nudged(1, 2, 10) | {"scores": None},
            *[{"error": "no server"}] * 2,
        ]
        assert str(summarise(records, "judge")).splitlines()[:5] == [
            "num_q: 3, mean_num_nudging: 1.6666666666666667, mean_ratio_nudging: 16.7%",
            "num_sample 2 correct 1 ratio_gpt 0.5000",
            "only 3 of 5 samples are in num_q and its means (2 failed)",
            "only 2 of 5 samples are in the scores (2 failed, 1 unscored)",
            "",
        ]

    def test_answers_without_the_models_words_are_not_in_the_nudging_figures(self):
        summary = summarise([nudged(1, 1, 10), answer(1)], "rule")
        assert summary.published_lines()[0].startswith("num_q: 1, ")
        assert summary.left_out() == ["only 1 of 2 samples are in num_q and its means"]

    @pytest.mark.parametrize("shares, unscored", [(1, 0), (0, 1), (0, 3)])
    def test_without_scores_no_line_leaves_any_out(self, shares, unscored):
        summary = summarise([nudged(1, 1, 10)] * shares + [answer()] * unscored, "judge")
        assert not any("scores" in line for line in summary.left_out())

    @pytest.mark.parametrize("nudges, warns", [(20, False), (21, True)])
    def test_warning_above_a_fifth_of_the_words(self, nudges, warns):
        warnings = summarise([nudged(1, nudges, words=100)], "rule").warnings()
        assert len(warnings) == warns
        assert not warns or "wrote 21 % of the words" in warnings[0]

    def test_usage_time_and_stop_reasons(self):
        def use(**usage):
            return {"base": {"requests": 1, "prompt_tokens": 0, "completion_tokens": 0, "retries": 0} | usage}

        records = [
            answer(1, usage=use(requests=3, prompt_tokens=90), seconds=1.0, stop_reason="stop"),
            answer(1, usage=use(completion_tokens=40, retries=3), seconds=2.0, stop_reason="stop"),
            answer(1, stop_reason="length", usage={}),
            {"error": "no server", "usage": use(requests=99), "seconds": 99.0},
        ]
        fields = summarise(records, "rule").fields
        assert fields["per_answer"] == {
            "base": pytest.approx({"requests": 2, "prompt_tokens": 45, "completion_tokens": 20, "retries": 1.5})
        }
        assert fields["seconds_per_answer"] == 1.5
        assert fields["stop_reasons"] == {"stop": 2, "length": 1}

    @pytest.mark.parametrize("scoring", ["rule", "judge", FIVE_ASPECTS])
    @pytest.mark.parametrize("records", [[], [{"error": "no server"}], [answer()]])
    def test_nothing_scored(self, records, scoring):
        summary = summarise(records, scoring)
        assert summary.published_lines() == [] and summary.left_out() == [] and summary.warnings() == []
        assert "accuracy" not in summary.fields and "mean_score" not in summary.fields
        assert "answers" in summary.table()
