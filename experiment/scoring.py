"""How answers to questions of one's own are scored (--scoring): not at all, by a scorer of the table, a function, or a judge."""

import functools
from collections.abc import Callable, Iterable

from command.errors import OptionError, UserError
from command.files import ResultsError
from command.secrets import hide
from command.unexpected import plain
from experiment.judgements import JUDGE, NONE, Scoring, is_judged
from experiment.rules import is_scored
from experiment.scorers import SCORERS, Scorer, own_scorer

CHOICES = (NONE, *SCORERS, JUDGE)


def check_scoring(scoring: str) -> None:
    """Raise OptionError unless a scoring is one of CHOICES, or a function that there is (FILE.py:function)."""
    if scoring not in CHOICES:
        if ":" not in scoring:
            raise OptionError(
                f"--scoring has no choice {scoring!r}; choose one of: {', '.join(CHOICES)}, or FILE.py:function"
            )
        scorer_of(scoring)


@functools.cache
def scorer_of(scoring: Scoring) -> Scorer | None:
    """What scores without a judge; None where nothing, or a judge does (OptionError: there is no such function)."""
    if not isinstance(scoring, str) or scoring in (NONE, JUDGE):
        return None
    return SCORERS[scoring] if scoring in SCORERS else own_scorer(scoring)


def scored(record: dict, scoring: Scoring) -> tuple[dict | None, str]:
    """A record's scores by a scorer, None where it has none to give, and what went wrong in it, "" for nothing."""
    try:
        scorer = scorer_of(scoring)
        return (None if scorer is None or "error" in record else scorer.score(record)), ""
    except UserError as error:
        return None, hide(str(error))
    except Exception as error:  # a function of one's own; the answer is kept
        return None, hide(plain(error))


def score_all(records: Iterable[dict], scoring: Scoring, say: Callable[[str], None]) -> int:
    """Score all answers by a scorer, in place; a failed sample has none to score.

    Returns:
        How many could not be scored since the scorer failed; the first is told by `say`.
    """
    failed, first = 0, ""
    for record in records:
        if "error" not in record:
            record["scores"], fault = scored(record, scoring)
            if fault:
                failed, first = failed + 1, first or f"sample {record['index']}: {fault}"
    if failed:
        say(f"{failed} answers could not be scored by --scoring {scoring}; the first: {first}")
    return failed


def lacks_scores(records: Iterable[dict], scoring: Scoring) -> bool:
    """Whether a judge has answers still to score; a question without an answer to compare with has no scores to lack."""
    return is_judged(scoring) and any(
        "error" not in record and record.get("gold_answer") and not is_scored(record, scoring) for record in records
    )


def used_scoring(asked: str, before: str | None) -> str:
    """How a run is scored: as it is asked, or without a wish as it was before (OptionError: that cannot be done any more)."""
    used = before or NONE if asked == NONE else asked
    check_scoring(used)
    return used


def drop_other_scores(records: Iterable[dict], scoring: Scoring, where: object) -> None:
    """Take away scores that another kind of scoring gave, in place.

    Raises:
        ResultsError: a judge gave them, who was paid for it.
    """
    records = [record for record in records if record.get("scores")]
    judged = [record for record in records if record["scores"].get("judge")]
    if scoring == JUDGE:
        for record in records:
            if not record["scores"].get("judge"):
                record["scores"] = None
    elif judged and scorer_of(scoring) is not None:
        raise ResultsError(
            f"{where} has {len(judged)} scores of a judge already, which --scoring {scoring} does not replace: --scoring {JUDGE} "
            "keeps them; for others copy the file into a folder of its own"
        )
