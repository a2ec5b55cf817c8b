"""What a search for a threshold has come to: its runs beside the single models and beside the best, question by question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from command.files import ResultsError
from command.paired import Paired, compare, holm
from experiment.several import question_of
from reporting.run_table import Run

LEVEL = 0.05
# Each measure of a run, and what of an answer's scores it is the mean of.
MEASURES = {"accuracy": ("correct",), "mean_score": ("mean",), "mean_own_score": ("score", "correct")}


@dataclass(frozen=True, eq=False)
class Row:
    """One nudging run of a search, with the nudging model `nudger`.

    The comparisons are of the run with the base model alone, with the nudging model alone, and of the best run with it; they are
    None where there is nothing to compare. `p_of_best` is that of the last, raised by Holm's method for all of them together.
    """

    nudger: str
    run: Run
    to_base: Paired | None = None
    to_nudging: Paired | None = None
    of_best: Paired | None = None
    p_of_best: float | None = None

    @property
    def intervention(self) -> float | None:
        """The published share of the nudging model's words, 0 to 1; None where it is not known."""
        return self.run.figures.get("mean_ratio_nudging")


@dataclass(frozen=True)
class Found:
    """The rows of a search, and the runs of the single models: `base`, and by its name each nudging model (`nudgers`).

    `best` is the row with the highest score over the `common` questions that all scored rows have a score for, of equal ones
    the one that intervenes least; None where `why_no_best` says so. `equal` are the rows that cannot be told apart from it.
    """

    rows: list[Row]
    base: Run | None
    nudgers: dict[str, Run]
    best: Row | None = None
    equal: list[Row] = field(default_factory=list)
    common: int = 0
    why_no_best: str = ""

    @property
    def runs(self) -> list[Run]:
        """All runs, the single models' first."""
        return [*filter(None, [self.base]), *self.nudgers.values(), *(row.run for row in self.rows)]


def measure_of(run: Run) -> str | None:
    """What a run's answers are scored by, one of MEASURES; None where nothing is scored."""
    return next((name for name in MEASURES if name in run.figures), None)


def scores_by_question(run: Run) -> dict[int, float]:
    """Each question's score by the question's index: that of its answer, or the mean of its answers (--answers).

    Failed and unscored answers have none.
    """
    names = MEASURES.get(measure_of(run), ())
    found: dict[int, list[float]] = {}
    for record in run.records:
        scores = record.get("scores") or {}
        value = next((scores[name] for name in names if name in scores), None)
        if "error" not in record and value is not None:
            # Answers to one question say less than as many questions: they are one here.
            found.setdefault(question_of(record), []).append(float(value))
    return {question: math.fsum(scores) / len(scores) for question, scores in found.items()}


def paired(first: Run | None, second: Run | None) -> Paired | None:
    """Compare two runs over the questions that both have a score for; None where there are none."""
    if first is None or second is None:
        return None
    mine, theirs = scores_by_question(first), scores_by_question(second)
    both = sorted(mine.keys() & theirs.keys())
    return compare([mine[i] for i in both], [theirs[i] for i in both])


def findings(nudged: Sequence[tuple[str, Run]], base: Run | None, nudgers: dict[str, Run]) -> Found:
    """Compare the runs of a search.

    Args:
        nudged: the nudging runs, each with its nudging model.
        base: the base model alone.
        nudgers: each nudging model alone.

    Raises:
        ResultsError: two of the runs were asked different questions, or are scored in different ways.
    """
    rows = [Row(nudger, run, paired(run, base), paired(run, nudgers.get(nudger))) for nudger, run in nudged]
    found = Found(rows, base, nudgers)
    _check_comparable(found.runs)
    scores = {id(row): scores_by_question(row.run) for row in rows if measure_of(row.run)}
    if not scores:
        return replace(found, why_no_best="nothing is scored")
    common = sorted(set.intersection(*(set(by_question) for by_question in scores.values())))
    if not common:
        return replace(found, why_no_best="there is no question that all runs have a score for")

    def rank(row: Row) -> tuple[float, float]:
        total = math.fsum(scores[id(row)][index] for index in common)
        return round(total, 9), -math.inf if row.intervention is None else -row.intervention

    best = max((row for row in rows if id(row) in scores), key=rank)
    if rank(best)[0] == 0:
        return replace(found, why_no_best="no answer of the nudged pair is right")
    of_best = [None if row is best else paired(best.run, row.run) for row in rows]
    raised = holm([told and told.p for told in of_best])
    ranked = [replace(row, of_best=told, p_of_best=p) for row, told, p in zip(rows, of_best, raised, strict=True)]
    return replace(
        found,
        rows=ranked,
        best=ranked[rows.index(best)],
        equal=[row for row in ranked if row.p_of_best is not None and row.p_of_best >= LEVEL],
        common=len(common),
    )


def _check_comparable(runs: list[Run]) -> None:
    """Raise ResultsError unless all runs were asked the same, and those that are scored are so in one way."""
    asked: dict[int, tuple[tuple, Run]] = {}
    for run in runs:
        for record in run.records:
            index, question = (
                record["index"],
                tuple(record.get(name) for name in ("context", "question", "gold_answer")),
            )
            before, other = asked.setdefault(index, (question, run))
            if question != before:
                raise ResultsError(
                    f"sample {index} is another question, or has another answer to compare with, in {run.path} than in "
                    f"{other.path}: the data have changed in between; search anew in another --output_dir"
                )
    scored = [(how, run) for run in runs if (how := _scored_by(run))]
    for (how, run), (other_how, other) in combinations(scored, 2):
        if how != other_how:
            raise ResultsError(
                f"{run.path} is scored by {how} and {other.path} by {other_how}, which cannot be compared; score them alike by "
                "eval_utils.py"
            )


def _scored_by(run: Run) -> str:
    """In what way a run is scored, in words; "" where nothing is."""
    if measure_of(run) is None:
        return ""
    return " and ".join([str(run.figures["scoring"]), *sorted(run.figures.get("judges", {}))])
