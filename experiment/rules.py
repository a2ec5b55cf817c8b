"""Scores by rule, as the nudging paper's program gives them (arXiv 2410.09300), and whether a record has its scores."""

import re

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


def is_scored(record: dict, scoring: str | tuple[str, ...], judge_model: str | None = None) -> bool:
    """Whether a record has the scores that its data set's scoring gives: by this judge, where one is named."""
    scores = record.get("scores")
    if not isinstance(scores, dict) or (judge_model and scores.get("judge") != judge_model):
        return False
    if isinstance(scoring, str):
        return scores.get("correct") in (0, 1)
    return "mean" in scores and all(isinstance(scores.get(a), dict) and "score" in scores[a] for a in scoring)
