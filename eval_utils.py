"""Scores by rule, and summaries with 95 % intervals of any result file.

    python eval_utils.py outputs/strategyqa/all_info/NAME.json [--judge_model MODEL --judge_host URL]

scores what has no score yet in a result file, and summarises it, by the rules of the nudging paper's program (arXiv 2410.09300).
"""

import argparse
import math
import os
import re
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from datasets_loader import DATA_SETS, DataSet
from experiment.judge import check_judge_options, is_scored, judge_for, judge_records
from experiment.result_files import ResultFiles, ResultsError, read_records, readable_text
from language_models.hosted.http import OptionError
from language_models.interface import Usage
from utils import visible

Z_95 = statistics.NormalDist().inv_cdf(0.975)
HIGHEST_USUAL_INTERVENTION = 0.2
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


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927), as two shares from 0 to 1."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the bounds are exact; rounding would leave 1e-17 beside them.
    return (centre - half if successes else 0.0), (centre + half if successes < n else 1.0)


def mean_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of a mean, by the normal approximation; from -inf to inf for fewer than two values."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = Z_95 * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


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
        if f.get("unreadable_judgements"):
            rows.append(["judgements that stayed unreadable", f["unreadable_judgements"]])
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
    judge_model: str | None = None,
) -> Summary:
    """The figures of a run.

    Args:
        records: the records of all samples, the failed ones included.
        scoring: the data set's.
        seconds: wall time of the run, over all its sessions, where it is known.
        judge_model: count the scores of this judge alone; None for any scores that fit the data set.
    """
    answered = [record for record in records if "error" not in record]
    scored = [record for record in answered if is_scored(record, scoring, judge_model)]
    fields: dict = {
        "samples": len(records),
        "answered": len(answered),
        "failed": len(records) - len(answered),
        "scored": len(scored),
        "unscored": len(answered) - len(scored),
        "scoring": scoring if isinstance(scoring, str) else "just_eval",
    }
    if scored and isinstance(scoring, str):
        correct = sum(record["scores"]["correct"] for record in scored)
        fields |= {"correct": correct, "accuracy": correct / len(scored)}
        fields["accuracy_interval_95"] = wilson_interval(correct, len(scored))
    elif scored:
        means = [record["scores"]["mean"] for record in scored]
        fields["aspects"] = {a: statistics.mean(record["scores"][a]["score"] for record in scored) for a in scoring}
        fields["mean_score"] = statistics.mean(means)
        fields["mean_score_interval_95"] = mean_interval(means) if len(means) > 1 else None
    if judges := Counter(record["scores"].get("judge") for record in scored if "judge" in record["scores"]):
        fields["judges"] = dict(judges)
    if unreadable := sum(bool(record["scores"].get("unreadable")) for record in scored):
        fields["unreadable_judgements"] = unreadable
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
            totals.setdefault(role, Usage()).add(Usage(**use))
    return {role: {name: number / len(known) for name, number in vars(total).items()} for role, total in totals.items()}


def main(argv: list[str] | None = None) -> int:
    """Score and summarise an existing result file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eval_utils.py", description="Score and summarise an existing result file.")
    parser.add_argument(
        "result", type=Path, help="a .json or .jsonl file that run_api.py has written, or the published program's .json"
    )
    parser.add_argument(
        "--dataset_name", choices=DATA_SETS, help="the data set (default: read from the path outputs/NAME/all_info/...)"
    )
    parser.add_argument("--judge", choices=("auto", "none"), default="auto", help="none: summarise only")
    parser.add_argument("--judge_model", help="the judge (default: the data set's)")
    parser.add_argument("--judge_host", help="base URL of an OpenAI-compatible server (default: OpenAI)")
    parser.add_argument(
        "--judge_api_key_env", default="OPENAI_API_KEY", help="environment variable that holds its API key"
    )
    parser.add_argument("--num_threads", type=int, default=20)
    parser.add_argument("--request_timeout", type=float, default=600.0)
    parser.add_argument("--max_retries", type=int, default=8)
    options = vars(parser.parse_args(argv))
    path, name = options.pop("result"), options.pop("dataset_name")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    name = name or next((part for part in reversed(path.absolute().parts) if part in DATA_SETS), None)
    try:
        if name is None:
            raise ResultsError(f"of which data set are the answers in {path}? Say so by --dataset_name")
        check_judge_options(**options)
        return _score_file(path, DATA_SETS[name], options)
    except (ResultsError, OptionError) as error:
        print(f"eval_utils.py: error: {visible(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("eval_utils.py: interrupted; the scores so far are saved, the same command continues", file=sys.stderr)
        return 130


def _score_file(path: Path, data_set: DataSet, options: dict) -> int:
    files = ResultFiles.of(path)
    # A log beside the named file knows more than it, where a run was continued and killed since.
    records = files.records() or read_records(path)
    if not all("gold_answer" in record for record in records):
        raise ResultsError(f"{path}: there is no gold answer in some of its records, so they cannot be scored")
    judge, why_not = judge_for(data_set, **options)
    failure = ""
    with files.locked():
        if data_set.scoring == "rule":
            score_by_rule(records)
        elif judge is not None:
            files.open_log()
            failure = judge_records(records, data_set, judge, options["num_threads"], files.append)
        sessions = files.read_run().get("sessions", [])
        seconds = sum(session.get("seconds", 0) for session in sessions) if sessions else None
        summary = summarise(records, data_set.scoring, seconds, judge.model if judge else None)
        print(visible(str(summary)))
        # A lone file is not joined by others; in the run's own folder all of them are brought up to date.
        files.write_final(records, readable_text(records) if files.has_layout else None)
        if files.has_layout:
            files.write_summary(summary.fields)
    if why_not and not summary.fields["unscored"]:
        why_not = ""
    for message in (why_not, failure and f"{summary.fields['unscored']} answers could not be scored: {failure}"):
        if message:
            print(f"eval_utils.py: {visible(message)}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # all files are written: no waiting for judgements that nobody will read
