"""What a search for a threshold has come to, against direct computation."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from made_runs import failed, nudged_pieces, record

from cluster.threshold_findings import findings
from cluster.threshold_table import caption, figures_table, how_compared, markdown, verdict
from command.files import ResultsError
from experiment.summary import summarise
from reporting.run_pace import Pace
from reporting.run_table import Run
from reporting.told import Told

SCORE = st.sampled_from([0, 1, None, "failed"])


def made(name: str, scores: list, told: Told, length: int = 1, scoring="rule", gold: str = "1") -> Run:
    """A run in which each question has a score, none, or has failed."""
    records = []
    for i, score in enumerate(scores):
        pieces = nudged_pieces(i, 1, length) if told.kind == "nudging" else "It is 1."
        rows = failed(i, f"q{i}", gold, "no answer") if score == "failed" else record(i, f"q{i}", gold, pieces, None)
        if score not in (None, "failed"):
            rows["scores"] = {"correct": score} if scoring == "rule" else {"score": score}
        records.append(rows)
    figures = summarise(records, scoring).fields
    return Run(Path(name), "gsm8k", told, "vllm", True, {}, records, figures, Pace(1.0, 4))


def alone(kind: str, scores: list, **others) -> Run:
    return made(kind, scores, Told(kind, ("large" if kind == "base_only" else "chat",)), **others)


def nudged(threshold: float, scores: list, **others) -> tuple[str, Run]:
    told = Told("nudging", ("large", "chat"), criterion="top_prob", threshold=threshold)
    return "org/chat", made(f"nudging_{threshold}", scores, told, **others)


def mcnemar(a: list, b: list) -> float:
    """By counting all ways in which the questions that differ could have gone."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if {x, y} <= {0, 1} and x != y]
    n, wins = len(pairs), sum(x for x, _ in pairs)
    as_uneven = [k for k in range(n + 1) if math.comb(n, k) <= math.comb(n, wins)]
    return sum(math.comb(n, k) for k in as_uneven) / 2**n


@with_settings(max_examples=50)
@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(SCORE, min_size=n, max_size=n), min_size=3, max_size=6)))
def test_runs_are_compared_over_what_both_have(columns):
    base, chat, *rest = columns
    found = findings(
        [nudged(i / 10, scores) for i, scores in enumerate(rest)],
        alone("base_only", base),
        {"org/chat": alone("nudging_only", chat)},
    )
    for row, scores in zip(found.rows, rest, strict=True):
        for told, other in ((row.to_base, base), (row.to_nudging, chat)):
            both = [(x, y) for x, y in zip(scores, other, strict=True) if {x, y} <= {0, 1}]
            assert (told is None) == (not both)
            if told:
                assert told.n == len(both) and told.p == pytest.approx(mcnemar(scores, other))
                assert told.difference == pytest.approx(sum(x - y for x, y in both) / len(both))
    scored = [i for i, scores in enumerate(rest) if {0, 1} & set(scores)]
    common = [q for q in range(len(base)) if all(rest[i][q] in (0, 1) for i in scored)] if scored else []
    totals = {i: sum(rest[i][q] for q in common) for i in scored}
    assert (found.best is None) == (not any(totals.values())) == bool(found.why_no_best)
    # Nothing is left without a sentence, whatever is missing.
    assert verdict(found) and markdown(found).count("\n") == len(found.runs) + 1 and caption(found, "train")
    assert len(figures_table(found)) == len(columns)
    if found.best is None:
        return
    at = next(i for i, row in enumerate(found.rows) if row is found.best)
    assert totals[at] == max(totals.values()) and found.common == len(common)
    ps = {i: mcnemar(rest[at], rest[i]) for i in scored if i != at}
    order = sorted(ps, key=ps.get)
    raised = {i: min(1, max(ps[j] * (len(ps) - k) for k, j in enumerate(order[: order.index(i) + 1]))) for i in order}
    assert {i: row.p_of_best for i, row in enumerate(found.rows) if row.p_of_best is not None} == pytest.approx(raised)
    assert [row for row in found.rows if row in found.equal] == [
        found.rows[i] for i in sorted(raised) if raised[i] >= 0.05
    ]


def test_of_equal_scores_the_least_intervening_is_best():
    runs = [nudged(0.2, [1, 1, 0], length=1), nudged(0.5, [1, 1, 0], length=9), nudged(0.3, [1, 0, 0], length=1)]
    for order in (runs, runs[::-1]):
        found = findings(order, None, {})
        assert found.best.run.threshold == 0.2 or found.best.intervention <= min(
            row.intervention for row in found.rows[:2]
        )
        assert any("with the same score at every question: threshold 0." in line for line in verdict(found))
    shares = {row.run.threshold: row.intervention for row in findings(runs, None, {}).rows}
    assert shares[0.2] != shares[0.5] and found.best.run.threshold == min((0.2, 0.5), key=shares.get)


def test_what_is_told_apart():
    good, bad = [1] * 12 + [0] * 4, [0] * 16
    found = findings(
        [nudged(0.2, bad), nudged(0.4, good)], alone("base_only", bad), {"org/chat": alone("nudging_only", good)}
    )
    said = " | ".join(verdict(found))
    assert "best: threshold 0.4, 75.0 %" in said and "all others are told apart from it" in said
    assert "+75.0 to the base model alone (p = 0.000), +0.0 to the nudging model alone (p = 1.000)" in said
    assert "McNemar's exact test" in how_compared(found) and "Holm" in how_compared(found)
    lines = [line for line in markdown(found).splitlines() if "0.4" in line]
    assert (
        "s per answer, 4 at a time" in markdown(found)
        and len(lines) == 1
        and "best" in lines[0]
        and "| 0.2 " in markdown(found)
    )
    (row,) = (row for _, row in figures_table(found).iterrows() if row["best"])
    assert (row["to_base"], row["to_base_n"], row["to_base_wins"], row["engine"]) == (0.75, 16, 12, "vllm")


def test_several_nudging_models():
    rows = [(name, nudged(0.2, scores)[1]) for name, scores in (("org/a", [0, 0]), ("org/b", [0, 1]))]
    for (name, run), i in zip(rows, (0, 1), strict=True):
        rows[i] = name, replace(run, told=replace(run.told, models=("large", name[-1])))
    found = findings(rows, None, {name: alone("nudging_only", [1, i]) for i, (name, _) in enumerate(rows)})
    said = " | ".join(verdict(found))
    assert "best: threshold 0.2 with b" in said and "p >= 0.05 by Holm): threshold 0.2 with a" in said
    assert [row.to_nudging.difference for row in found.rows] == [-0.5, -0.5]
    # A row whose single model is not there is compared with the others all the same.
    assert findings(rows, None, {"org/b": alone("nudging_only", [1, 1])}).rows[0].to_nudging is None


def test_missing_answers_are_told():
    found = findings([nudged(0.2, [0, 1, 1]), nudged(0.4, ["failed", 1, 1])], alone("base_only", [0, 0, "failed"]), {})
    said = " | ".join(verdict(found))
    assert (
        found.best.run.threshold == 0.2 and "the best is that of the 2 questions that all runs have a score for" in said
    )
    assert "2 failed answers are left out" in said and "2, 1 failed" in markdown(found)
    assert [row.to_base.n for row in found.rows] == [2, 1]
    no_common = findings([nudged(0.2, ["failed", 1]), nudged(0.4, [1, None])], None, {})
    assert no_common.best is None and "there is no question that all runs have a score for" in verdict(no_common)[0]


def test_one_question_tells_nothing_apart():
    for scoring, scores in (("rule", (0, 1)), ("own.py:score", (0.25, 0.75))):
        found = findings([nudged(0.2 + i, [score], scoring=scoring) for i, score in enumerate(scores)], None, {})
        assert found.best.run.threshold == 1.2 and [row.run.threshold for row in found.equal] == [0.2]


def test_a_mean_score_is_compared_by_a_t_test():
    low, high = [0.2, 0.3, 0.1, 0.4], [0.5, 0.7, 0.5, 0.6]
    found = findings([nudged(0.2, low, scoring="own.py:score"), nudged(0.4, high, scoring="own.py:score")], None, {})
    assert "paired t test" in how_compared(found) and "mean score, 0 to 1 (95 %)" in markdown(found)
    assert found.best.run.threshold == 0.4 and found.rows[0].of_best.difference == pytest.approx(0.325)


def test_other_questions_and_other_scores_are_not_compared():
    with pytest.raises(ResultsError, match="sample 0 is another question.* the data have changed in between"):
        findings([nudged(0.2, [1, 0])], alone("base_only", [1, 0], gold="2"), {})
    with pytest.raises(ResultsError, match=r"scored by own.py:score and .* by rule, which cannot be compared"):
        findings([nudged(0.2, [1, 0])], alone("base_only", [1, 0.5], scoring="own.py:score"), {})
    one = nudged(0.2, [1, 0])
    judged = nudged(0.4, [1, 0])
    judged[1].figures["judges"] = {"rule: letter (version 1)": 2}
    assert "scored by rule: letter (version 1)" in caption(findings([judged], None, {}), "train")
    judged[1].figures["judges"] = {"gpt-4o": 2}
    with pytest.raises(ResultsError, match="gpt-4o"):
        findings([one, judged], None, {})


def test_several_answers_to_a_question_are_one():
    def run(threshold: float, scores: list) -> tuple[str, Run]:
        nudger, found = nudged(threshold, scores)
        for i, one in enumerate(found.records):
            one |= {"answers": 4, "answer_number": i % 4 + 1, "question": f"q{i // 4}"}
        return nudger, replace(found, figures=summarise(found.records, "rule").fields)

    found = findings([run(0.2, [0, 0, 0, 1, 0, 0, 1, 1]), run(0.4, [1, 1, 1, 1, 0, 1, 1, 1])], None, {})
    (told,) = (row.of_best for row in found.rows if row.of_best)
    assert (told.n, told.difference, found.common) == (2, 0.5, 2)
    assert told.p > 0.2  # of eight questions it would be 0.125
    assert "n = 2 x 4 answers" in caption(found, "train") and not any("that of the" in line for line in verdict(found))
