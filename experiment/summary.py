"""The figures of a run, with 95 % intervals, and how they are shown."""

import statistics
from collections import Counter
from dataclasses import dataclass

from tabulate import tabulate

from experiment.odd_rates import odd_rates
from experiment.rules import UNNAMED_JUDGE, scores_of
from experiment.scorers import BY_RULE, SCORERS
from experiment.several import by_question, figures_of_several, rows_of_several, score_interval, share_interval
from language_models.interface import Usage

HIGHEST_USUAL_INTERVENTION = 0.2
# What the published lines call a way of scoring; "own" is a function of one's own.
_KINDS = {"judge": "gpt"} | {name: name for name in SCORERS}
_UNREADABLE = {
    "unreadable_judgements": "judgements that cannot be read (unscored)",
    "unreadable_counted_as_published": "judgements that cannot be read, counted as wrong or 1 (as published)",
    "unread_answers": "answers in which the rule can read nothing, counted as wrong",
    "unreadable_aspects": "aspects that are no number from 1 to 5, counted as published",
}


def nudged_words(record: dict) -> tuple[int, int]:
    """How many words of an answer are the nudging model's, and how many there are, as the published program counts.

    Words are parted by single blanks, and the ending, the last nudge that is not blank, is left out; "" has one word, so that an
    answer with one nudge or none counts one.
    """
    words = len("".join(record["all_completions"]).split(" "))
    return min(len(" ".join(_nudges(record)[:-1]).split(" ")), words), words


def nudged_characters(record: dict) -> tuple[int, int]:
    """How many characters of an answer are the nudging model's, the ending included, and how many there are."""
    characters = sum(map(len, record["all_completions"]))
    return min(sum(map(len, record["all_nudging_words"])), characters), characters


def is_nudged(record: dict) -> bool:
    """Whether a record says who wrote what."""
    return "all_nudging_words" in record and "all_completions" in record


def _nudges(record: dict) -> list[str]:
    stripped = [words.strip() for words in record["all_nudging_words"]]
    return [words for words in stripped if words]


@dataclass(frozen=True)
class Summary:
    """What a run came to. `fields` is what summary.json holds; shares are from 0 to 1, seconds are wall time per answer."""

    fields: dict

    @property
    def by_rule(self) -> bool:
        """Whether rules of ours have scored what the paper has a judge score: a figure of another kind."""
        judges = self.fields.get("judges", {})
        return bool(judges) and all(name.startswith(BY_RULE) for name in judges)

    @property
    def is_mixed(self) -> bool:
        """Whether rules of ours have scored some answers and a judge, or another version of the rules, others."""
        judges = self.fields.get("judges", {})
        return len(judges) > 1 and any(name.startswith(BY_RULE) for name in judges)

    def published_lines(self) -> list[str]:
        """The lines that the published program prints, in its order and form."""
        f, lines = self.fields, []
        if "num_q" in f:
            lines.append(
                f"num_q: {f['num_q']}, mean_num_nudging: {f['mean_num_nudging']}, "
                f"mean_ratio_nudging: {100 * f['mean_ratio_nudging']:.1f}%"
            )
        if "correct" in f:
            kind = "mixed" if self.is_mixed else "rule" if self.by_rule else _KINDS.get(f["scoring"], "own")
            lines.append(f"num_sample {f['scored']} correct {f['correct']} ratio_{kind} {f['accuracy']:.4f}")
        if "mean_own_score" in f:
            lines.append(
                f"num_sample {f['scored']} mean_score {f['mean_own_score']:.4f} (a mean of scores from 0 to 1)"
            )
        lines += [f"Average {aspect} score: {mean:.3}" for aspect, mean in f.get("aspects", {}).items()]
        return lines

    def left_out(self) -> list[str]:
        """Which samples the published lines are not about; the published program has neither failed nor unscored ones."""
        f, lines = self.fields, []
        missing = [f"{f[kind]} {kind}" for kind in ("failed", "unscored") if f[kind]]
        if 0 < f.get("num_q", 0) < f["samples"]:
            failed = f" ({missing[0]})" if f["failed"] else ""
            lines.append(f"only {f['num_q']} of {f['samples']} samples are in num_q and its means{failed}")
        if 0 < f["scored"] < f["samples"]:
            lines.append(f"only {f['scored']} of {f['samples']} samples are in the scores ({', '.join(missing)})")
        return lines

    def table(self) -> str:
        """A table of two columns."""
        f = self.fields
        several = f" ({f['answers_per_question']} to each of {f['questions']} questions)" if "questions" in f else ""
        rows = [["answers", f"{f['answered']}{several}"], ["failed", f["failed"]]]
        if f["unscored"]:
            rows.append(["unscored", f["unscored"]])
        if "accuracy" in f:
            low, high = f["accuracy_interval_95"]
            name = "accuracy, by a rule (no judge's)" if self.by_rule else "accuracy"
            name = "accuracy, scored in different ways (no figure to compare)" if self.is_mixed else name
            rows.append([name, f"{100 * f['accuracy']:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"])
        rows += rows_of_several(f)
        for name, what in (("mean_score", "mean score, 1 to 5"), ("mean_own_score", "mean score, 0 to 1")):
            if name in f:
                interval = f[f"{name}_interval_95"]
                shown = f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
                rows.append([what, f"{f[name]:.2f}{shown}"])
        if f["scored"] and f["scoring"] not in ("rule", "judge", "just_eval"):
            rows.append(["scored by", f"--scoring {f['scoring']}"])
        if f.get("judges"):
            rows.append(
                [
                    "scored by" if self.by_rule else "judged by",
                    ", ".join(f"{judge} ({n})" for judge, n in f["judges"].items()),
                ]
            )
        rows += [[words, f[name]] for name, words in _UNREADABLE.items() if f.get(name)]
        if "mean_ratio_nudging" in f:
            rows.append(["intervention rate, as published", f"{100 * f['mean_ratio_nudging']:.1f} %"])
        if "nudged_character_share" in f:
            rows.append(["nudged characters, of all", f"{100 * f['nudged_character_share']:.1f} %"])
        rows.append(["stop reasons", ", ".join(f"{reason} {n}" for reason, n in f["stop_reasons"].items())])
        for role, use in f["per_answer"].items():
            rows.append(
                [
                    f"{role} model, per answer",
                    f"{use['requests']:.1f} requests, {prompt_count(use['prompt_tokens'])} + {use['completion_tokens']:.0f} tokens",
                ]
            )
            if use["retries"]:
                rows.append([f"{role} model, retries", round(use["retries"] * f["answered"])])
        if f["seconds_per_answer"] is not None:
            rows.append(["seconds per answer", f"{f['seconds_per_answer']:.2f}"])
        if f.get("seconds") is not None:
            rows.append(["seconds in all", f"{f['seconds']:.1f}"])
        return tabulate(rows, tablefmt="simple", disable_numparse=True)

    def __str__(self) -> str:
        return "\n".join([*self.published_lines(), *self.left_out(), "", self.table(), *self.warnings()])

    def warnings(self) -> list[str]:
        """What a reader of the figures has to know."""
        found = [odd] if (odd := self.fields.get("odd_rates")) else []
        if len(self.fields.get("judges", {})) > 1:
            found.append(
                "warning: the scores are of several judges; eval_utils.py --rescore --judge_model has all by the same"
            )
        rate = self.fields.get("mean_ratio_nudging", 0)
        if rate > HIGHEST_USUAL_INTERVENTION and "odd_rates" not in self.fields:
            found.append(
                f"warning: the nudging model wrote {100 * rate:.0f} % of the words (about 10 % in the paper): "
                "is the threshold too high, or the base model's prompt unusual for it?"
            )
        return found


def prompt_count(tokens: float) -> str:
    """How a mean number of prompt tokens is shown: not every server counts those of a stream that is closed before its end."""
    return f"{tokens:,.0f}" if tokens else "?"


def summarise(
    records: list[dict],
    scoring: str | tuple[str, ...],
    seconds: float | None = None,
) -> Summary:
    """The figures of a run.

    Args:
        records: the records of all samples, the failed ones included.
        scoring: the data set's.
        seconds: wall time of the run, over all its sessions, where it is known.
    """
    answered = [record for record in records if "error" not in record]
    told = [[scores_of(record, scoring) for record in group if "error" not in record] for group in by_question(records)]
    groups = [found for group in told if (found := [scores for scores in group if scores])]
    scored = [scores for group in groups for scores in group]
    fields: dict = {
        "samples": len(records),
        "answered": len(answered),
        "failed": len(records) - len(answered),
        "scored": len(scored),
        "unscored": len(answered) - len(scored),
        "scoring": scoring if isinstance(scoring, str) else "just_eval",
    }
    if scored and isinstance(scoring, str) and any("correct" not in scores for scores in scored):
        # Of a function of one's own.
        shares = [[scores.get("score", scores.get("correct")) for scores in group] for group in groups]
        fields["mean_own_score"] = statistics.fmean(share for group in shares for share in group)
        fields["mean_own_score_interval_95"] = score_interval(shares)
    elif scored and isinstance(scoring, str):
        correct = sum(scores["correct"] for scores in scored)
        fields |= {"correct": correct, "accuracy": correct / len(scored)}
        fields["accuracy_interval_95"] = share_interval([[scores["correct"] for scores in group] for group in groups])
    elif scored:
        means = [[scores["mean"] for scores in group] for group in groups]
        fields["aspects"] = {a: statistics.fmean(scores[a]["score"] for scores in scored) for a in scoring}
        fields["mean_score"] = statistics.mean(mean for group in means for mean in group)
        fields["mean_score_interval_95"] = score_interval(means)
    fields |= figures_of_several(records, scoring)
    if any(scores.get("judge") for scores in scored):
        fields["judges"] = dict(Counter(scores.get("judge") or UNNAMED_JUDGE for scores in scored))
    unreadable = {
        "unreadable_judgements": sum(
            "judge_replies" in record for record in answered if not scores_of(record, scoring)
        ),
        "unreadable_counted_as_published": sum("unreadable" in scores for scores in scored),
        "unread_answers": sum(scores.get("read", "") is None for scores in scored),
        "unreadable_aspects": sum(len(scores.get("unreadable_aspects", ())) for scores in scored),
    }
    fields |= {name: number for name, number in unreadable.items() if number}
    fields |= _nudging_figures([record for record in answered if is_nudged(record)])
    fields["stop_reasons"] = dict(Counter(record.get("stop_reason") or "unknown" for record in answered).most_common())
    fields["per_answer"] = _usage_per_answer(answered)
    times = [record["seconds"] for record in answered if "seconds" in record]
    fields["seconds_per_answer"] = statistics.mean(times) if times else None
    if seconds is not None:
        fields["seconds"] = seconds
    return Summary(fields)


def _nudging_figures(nudged: list[dict]) -> dict:
    """How much the nudging model wrote: first the published figures, then our own."""
    if not nudged:
        return {}
    words, characters = [nudged_words(record) for record in nudged], [nudged_characters(record) for record in nudged]
    fields = {
        "num_q": len(nudged),
        "mean_num_nudging": statistics.fmean(n for n, _ in words),
        "mean_ratio_nudging": statistics.fmean(n / total for n, total in words),
        "nudged_characters": sum(n for n, _ in characters),
        "characters": sum(total for _, total in characters),
    }
    if fields["characters"]:
        fields["nudged_character_share"] = fields["nudged_characters"] / fields["characters"]
    if odd := odd_rates(nudged):
        fields["odd_rates"] = odd
    return fields


def _usage_per_answer(answered: list[dict]) -> dict[str, dict[str, float]]:
    """Means over the records that say what they used (the published program's do not)."""
    known = [record["usage"] for record in answered if record.get("usage")]
    totals: dict[str, Usage] = {}
    for usage in known:
        for role, use in usage.items():
            told = Usage(**{name: use.get(name, 0) for name in vars(Usage())})  # another version may count more
            totals.setdefault(role, Usage()).add(told)
    return {role: {name: number / len(known) for name, number in vars(total).items()} for role, total in totals.items()}
