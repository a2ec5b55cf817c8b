"""Figures of a run with several answers to each question (--answers): how they are grouped, and what they come to together."""

from collections.abc import Sequence

from command.intervals import (
    grouped_mean_interval,
    grouped_wilson_interval,
    mean_interval,
    wilson_interval,
)
from experiment.diversity import MEASURES, diversity
from experiment.judgements import Scoring
from experiment.rules import scores_of


def by_question(records: Sequence[dict]) -> list[list[dict]]:
    """The records of each question together; where there is one answer to each, every record by itself."""
    if not are_several(records):
        return [[record] for record in records]
    found: dict[int, list[dict]] = {}
    for record in records:
        found.setdefault(question_of(record), []).append(record)
    return list(found.values())


def question_of(record: dict) -> int:
    """Which question of its run a record answers, from 0."""
    return record["index"] // record.get("answers", 1)


def are_several(records: Sequence[dict]) -> bool:
    """Whether there are several answers to each question."""
    return any("answers" in record for record in records)


def share_interval(groups: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % interval of a share of right answers, which come in groups where there are several to a question."""
    if all(len(group) == 1 for group in groups):
        return wilson_interval(sum(map(sum, groups)), len(groups))
    return grouped_wilson_interval(groups)


def score_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95 % interval of a mean score; None where there are too few for one."""
    if len(groups) < 2:
        return None
    if all(len(group) == 1 for group in groups):
        return mean_interval([score for (score,) in groups])
    return grouped_mean_interval(groups)


def figures_of_several(records: Sequence[dict], scoring: Scoring) -> dict:
    """What several answers to each question come to together; empty where there is one to each.

    `pass_at_n` is the share of the questions with a right answer at least, `diversity` as in experiment.diversity. Both are of the
    questions that have all their answers (scored, for the first): with fewer, a figure means something else.
    """
    if not are_several(records):
        return {}
    groups = by_question(records)
    n = max(record.get("answers", 1) for record in records)
    fields: dict = {"questions": len(groups), "answers_per_question": n}
    told = [[scores_of(record, scoring) for record in group if "error" not in record] for group in groups]
    whole = [scores for scores in told if len(scores) == n and all(one and "correct" in one for one in scores)]
    if n > 1 and whole:
        right = sum(any(one["correct"] for one in scores) for scores in whole)
        fields["pass_at_n"] = right / len(whole)
        fields["pass_at_n_interval_95"] = wilson_interval(right, len(whole))
        fields["pass_at_n_questions"] = len(whole)
    texts = [[record["raw_answer"] for record in group if "error" not in record] for group in groups]
    if n > 1 and (found := diversity([answers for answers in texts if len(answers) == n])):
        fields["diversity"] = found
    return fields


def rows_of_several(fields: dict) -> list[list[str]]:
    """These figures as rows of the summary's table."""
    rows = []
    if "pass_at_n" in fields:
        low, high = fields["pass_at_n_interval_95"]
        n = fields["pass_at_n_questions"]
        told = f"{100 * fields['pass_at_n']:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f}; n = {n} questions)"
        rows.append([f"pass@{fields['answers_per_question']}, a right answer at least", told])
    for name, figure in fields.get("diversity", {}).items():
        words, form = MEASURES[name].words, MEASURES[name].form
        interval = figure["interval_95"]
        between = f"95 %: {form.format(interval[0])} to {form.format(interval[1])}; " if interval else ""
        rows.append(
            [
                f"{words}, of a question's answers",
                f"{form.format(figure['mean'])} ({between}n = {figure['questions']} questions)",
            ]
        )
    return rows
