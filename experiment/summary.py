"""The figures of a run, with 95 % intervals, and how they are shown."""

import statistics
from collections import Counter
from dataclasses import dataclass

from tabulate import tabulate

from command.intervals import mean_interval, wilson_interval
from experiment.rules import scores_of
from language_models.interface import Usage

HIGHEST_USUAL_INTERVENTION = 0.2
_UNREADABLE = {
    "unreadable_judgements": "judgements that cannot be read (unscored)",
    "unreadable_counted_as_published": "judgements that cannot be read, counted as wrong or 1 (as published)",
    "unreadable_aspects": "aspects that are no number from 1 to 5, counted as published",
}


def nudged_words(record: dict) -> tuple[int, int]:
    """How many words of an answer are the nudging model's, and how many there are; the ending, the last nudge, is not counted."""
    words = len("".join(record["all_completions"]).split(" "))
    stripped = [words.strip() for words in record["all_nudging_words"]]
    nudged = " ".join([text for text in stripped if text][:-1])
    return min(len(nudged.split(" ")) if nudged else 0, words), words


@dataclass(frozen=True)
class Summary:
    """What a run came to. `fields` is what summary.json holds; shares are from 0 to 1, seconds are wall time per answer."""

    fields: dict

    def published_lines(self) -> list[str]:
        """The lines that the published program prints."""
        f, lines = self.fields, []
        if "correct" in f:
            kind = "rule" if f["scoring"] == "rule" else "gpt"
            lines.append(f"num_sample {f['scored']} correct {f['correct']} ratio_{kind} {f['accuracy']:.4f}")
        for aspect, mean in f.get("aspects", {}).items():
            lines.append(f"{aspect}: {mean:.4f}")
        if "mean_num_nudging" in f:
            lines.append(
                f"num_q: {f['answered']}, mean_num_nudging: {f['mean_num_nudging']:.2f}, "
                f"mean_ratio_nudging: {100 * f['mean_ratio_nudging']:.2f}%"
            )
        return lines

    def table(self) -> str:
        """A table of two columns."""
        f = self.fields
        rows = [["answers", f["answered"]], ["failed", f["failed"]]]
        if f["unscored"]:
            rows.append(["unscored", f["unscored"]])
        if "accuracy" in f:
            low, high = f["accuracy_interval_95"]
            rows.append(["accuracy", f"{100 * f['accuracy']:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"])
        if "mean_score" in f:
            interval = f["mean_score_interval_95"]
            shown = f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
            rows.append(["mean score, 1 to 5", f"{f['mean_score']:.2f}{shown}"])
        if f.get("judges"):
            rows.append(["judged by", ", ".join(f"{judge} ({n})" for judge, n in f["judges"].items())])
        rows += [[words, f[name]] for name, words in _UNREADABLE.items() if f.get(name)]
        if "mean_ratio_nudging" in f:
            rows.append(["intervention rate (nudged words)", f"{100 * f['mean_ratio_nudging']:.1f} %"])
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
        return "\n".join([*self.published_lines(), "", self.table(), *self.warnings()])

    def warnings(self) -> list[str]:
        """What a reader of the figures has to know."""
        found = []
        if len(self.fields.get("judges", {})) > 1:
            found.append("warning: the scores are of several judges; name one by --judge_model to have all by the same")
        rate = self.fields.get("mean_ratio_nudging", 0)
        if rate <= HIGHEST_USUAL_INTERVENTION:
            return found
        return [
            *found,
            f"warning: the nudging model wrote {100 * rate:.0f} % of the words (about 10 % in the paper): "
            "is the threshold too high, or the base model's prompt unusual for it?",
        ]


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
    scored = [scores for record in answered if (scores := scores_of(record, scoring))]
    fields: dict = {
        "samples": len(records),
        "answered": len(answered),
        "failed": len(records) - len(answered),
        "scored": len(scored),
        "unscored": len(answered) - len(scored),
        "scoring": scoring if isinstance(scoring, str) else "just_eval",
    }
    if scored and isinstance(scoring, str):
        correct = sum(scores["correct"] for scores in scored)
        fields |= {"correct": correct, "accuracy": correct / len(scored)}
        fields["accuracy_interval_95"] = wilson_interval(correct, len(scored))
    elif scored:
        means = [scores["mean"] for scores in scored]
        fields["aspects"] = {a: statistics.mean(scores[a]["score"] for scores in scored) for a in scoring}
        fields["mean_score"] = statistics.mean(means)
        fields["mean_score_interval_95"] = mean_interval(means) if len(means) > 1 else None
    if judges := Counter(scores["judge"] for scores in scored if "judge" in scores):
        fields["judges"] = dict(judges)
    unreadable = {
        "unreadable_judgements": sum(
            "judge_replies" in record for record in answered if not scores_of(record, scoring)
        ),
        "unreadable_counted_as_published": sum("unreadable" in scores for scores in scored),
        "unreadable_aspects": sum(len(scores.get("unreadable_aspects", ())) for scores in scored),
    }
    fields |= {name: number for name, number in unreadable.items() if number}
    nudged = [nudged_words(r) for r in answered if "all_nudging_words" in r and "all_completions" in r]
    if nudged:
        fields["mean_num_nudging"] = statistics.mean(n for n, _ in nudged)
        fields["mean_ratio_nudging"] = statistics.mean(n / words for n, words in nudged)
    fields["stop_reasons"] = dict(Counter(record.get("stop_reason") or "unknown" for record in answered).most_common())
    fields["per_answer"] = _usage_per_answer(answered)
    times = [record["seconds"] for record in answered if "seconds" in record]
    fields["seconds_per_answer"] = statistics.mean(times) if times else None
    if seconds is not None:
        fields["seconds"] = seconds
    return Summary(fields)


def _usage_per_answer(answered: list[dict]) -> dict[str, dict[str, float]]:
    """Means over the records that say what they used (the published program's do not)."""
    known = [record["usage"] for record in answered if record.get("usage")]
    totals: dict[str, Usage] = {}
    for usage in known:
        for role, use in usage.items():
            told = Usage(**{name: use.get(name, 0) for name in vars(Usage())})  # another version may count more
            totals.setdefault(role, Usage()).add(told)
    return {role: {name: number / len(known) for name, number in vars(total).items()} for role, total in totals.items()}
