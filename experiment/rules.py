"""Scores by rule, as the nudging paper's program gives them (arXiv 2410.09300), and whether a record has its scores."""

import re
import statistics
from collections import Counter

from experiment.judgements import JUDGE, NONE, PUBLISHED

HIGHEST_SCORE = 10**9  # no judge gives more, and means of numbers of hundreds of digits cannot be taken
UNNAMED_JUDGE = "a judge that is not named"
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d*)?")


def last_number(text: str) -> float | None:
    """The last number in a text (thousands separators and a trailing point dropped), or None."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def rule_score(answer: str, gold: str) -> dict:
    """Score by rule: correct (1) when the answer's last number is the gold text's last number; no number is wrong (0)."""
    number = last_number(answer)
    return {"correct": int(number is not None and number == last_number(gold))}


def score_by_rule(records: list[dict]) -> None:
    """Score all answers by rule, in place; failed samples have none to score."""
    for record in records:
        if "error" not in record:
            record["scores"] = rule_score(record["raw_answer"], str(record.get("gold_answer", "")))


def scores_of(record: dict, scoring: str | tuple[str, ...]) -> dict | None:
    """A record's scores, in the form that this program gives them; None where it has none that fit its data set.

    The published program's are read as well: "correct" as text, and just-eval's {"scores": {aspect: number, or its text}, ...}. A
    judgement that an earlier version of this program could not read, and counted as wrong, is none. A function of one's own may
    have given a "score" from 0 to 1 in the place of "correct".
    """
    scores = record.get("scores")
    if not isinstance(scores, dict) or scores.get("unreadable") is True:
        return None
    if scoring == NONE:
        return None
    if isinstance(scoring, str):
        correct = scores.get("correct")
        correct = int(correct) if isinstance(correct, str) and correct.strip() in ("0", "1") else correct
        if correct in (0, 1):
            return scores | {"correct": int(correct)}
        score = None if scoring in ("rule", JUDGE) else scores.get("score")
        return scores if _is_number(score) and 0 <= score <= 1 else None
    if isinstance(scores.get("scores"), dict):
        told = {aspect: scores["scores"][aspect] for aspect in scoring if aspect in scores["scores"]}
        told = {
            aspect: int(one) if re.fullmatch("[0-9]{1,9}", str(one).strip()) else one for aspect, one in told.items()
        }
        scores = {aspect: {"score": one, "reason": ""} for aspect, one in told.items()}
    found = [scores[aspect].get("score") for aspect in scoring if isinstance(scores.get(aspect), dict)]
    if len(found) < len(scoring) or not all(_is_number(one) for one in found):
        return None
    return scores | {"mean": scores.get("mean", statistics.mean(found))}


def other_judges(records: list[dict], scoring: str | tuple[str, ...], judge: str) -> Counter[str]:
    """How many records have scores of other judges than this one, by their names; the published program does not name its judge."""
    scores = (record["scores"] for record in records if is_scored(record, scoring))
    names = (str(one.get("judge") or UNNAMED_JUDGE) for one in scores)
    return Counter(name for name in names if name != judge)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HIGHEST_SCORE


def is_scored(record: dict, scoring: str | tuple[str, ...]) -> bool:
    """Whether a record has the scores that its data set's scoring gives."""
    return scores_of(record, scoring) is not None


def lacks_verdict(record: dict, scoring: str | tuple[str, ...], unreadable: str) -> bool:
    """Whether a judge has to be asked about an answer: without scores, or with some that only count as published, unless wanted.

    Args:
        unreadable: --unreadable_judgements.
    """
    return not is_scored(record, scoring) or bool(record["scores"].get("unreadable") and unreadable != PUBLISHED)
