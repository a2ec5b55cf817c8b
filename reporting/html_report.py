"""One self-contained HTML page of runs: the table, plots over thresholds, and the answers with the nudging model's words marked.

    python scripts/report.py outputs -o report.html [--title TITLE]

The page needs no network. What models have written is data in it, never markup: see `embedded_json` and report.js.
"""

import base64
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from command.console import Command, visible
from command.options import Parser
from command.paths import user_path
from experiment.asked_text import asked_text
from experiment.several import question_of
from experiment.summary import nudged_characters
from reporting.run_table import Run, find_runs, readable_table, results_table
from reporting.threshold_plot import single_model_runs, threshold_groups, threshold_plots
from reporting.told import TOP_PROB

HERE = Path(__file__).resolve().parent
OUTCOMES = ("correct", "wrong", "rated", "unscored", "failed")


def run_labels(runs: list[Run]) -> list[str]:
    """A short name for each run, all different: the experiment, and of the rest what tells the runs apart."""
    parts = [
        [
            " ".join(filter(None, _how(run))),
            run.data_set or "",
            " + ".join(run.models),
            (f"{run.num_samples} samples" if run.num_samples else "all samples") + _answers_each(run),
            run.asked_with.replace("\n", ", "),
        ]
        for run in runs
    ]
    telling = [0, 1] if len({row[1] for row in parts}) > 1 else [0]
    for i in (2, 3, 4):
        if len({tuple(row[j] for j in telling) for row in parts}) < len(
            {tuple(row[j] for j in (*telling, i)) for row in parts}
        ):
            telling.append(i)
    labels = [visible(" · ".join(filter(None, (row[i].strip() for i in telling)))) for row in parts]
    counts, seen = Counter(labels), Counter()
    for i, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] += 1
            labels[i] = f"{label} ({seen[label]} of {counts[label]})"
    return labels


def _answers_each(run: Run) -> str:
    n = run.figures.get("answers_per_question", 1)
    return f", {n} answers each" if n > 1 else ""


def _how(run: Run) -> list[str]:
    criterion = run.told.criterion if run.told.criterion not in (None, TOP_PROB) else ""
    return [
        (run.kind or "unknown").replace("_", " "),
        criterion.replace("_", " "),
        "" if run.threshold is None else f"{run.threshold:g}",
        f"blend {run.told.blend}" if run.told.blend else "",
    ]


def outcome(record: dict) -> str:
    """One of OUTCOMES; "rated" is scored by aspects, or by a number from 0 to 1."""
    if "error" in record:
        return "failed"
    scores = record.get("scores")
    if not isinstance(scores, dict):
        return "unscored"
    if "mean" in scores or ("score" in scores and "correct" not in scores):
        return "rated"
    correct = scores.get("correct")
    return ("wrong", "correct")[int(correct)] if correct in (0, 1) else "unscored"


def report_data(runs: list[Run], labels: list[str]) -> dict:
    """What the page's script reads: runs, questions (each once for all runs of its data set, and all its answers), and answers."""
    questions: dict[tuple, dict] = {}
    answers = []
    for number, run in enumerate(runs):
        seen: Counter = Counter()
        earlier: dict[tuple, tuple] = {}  # of questions with several answers
        for record in run.records:
            text = _question(record)
            key = earlier.get((text, question_of(record))) if "answers" in record else None
            if key is None:  # the same text may be asked twice
                key = earlier[text, question_of(record)] = run.data_set, text, seen[text]
                seen[text] += 1
            row = {"data_set": run.data_set or "", "text": text, "gold": _text(record.get("gold_answer"))}
            questions.setdefault(key, {"number": len(questions), **row})
            answers.append(_answer(record) | {"run": number, "question": questions[key]["number"]})
    nudging = [number for number, run in enumerate(runs) if run.kind == "nudging"]
    return {"runs": labels, "nudging": nudging, "questions": list(questions.values()), "answers": answers}


def _question(record: dict) -> str:
    if record.get("history"):
        return asked_text(record)
    return _text(record.get("context")) + _text(record.get("question"))


def _answer(record: dict) -> dict:
    answer = {"sample": _text(record.get("index")), "outcome": outcome(record), "score": _score_text(record)}
    if "answers" in record:
        answer |= {"sample": str(question_of(record)), "number": record.get("answer_number", 1)}
    if "error" in record:
        return answer | {"error": _text(record["error"]) or "failed without a message"}
    final, notes = _text(record.get("raw_answer")), []
    answer["pieces"] = pieces_by_turns(record)
    if "all_nudging_words" in record:
        nudged, total = nudged_characters(record)
        notes.append(f"{nudged} of {total} characters by the nudging model")
        if final != "".join(answer["pieces"]).strip():
            answer["cleaned"] = final
    if stop := _text(record.get("stop_reason")):
        notes.insert(0, f"stop: {stop.replace('_', ' ')}")
    if "seconds" in record:
        notes.append(f"{record['seconds']:.1f} s")
    return answer | {"notes": " · ".join(notes)}


def pieces_by_turns(record: dict) -> list[str]:
    """An answer as the models wrote it: the nudging model's words, what the base model wrote after them, and so on by turns."""
    if "all_nudging_words" not in record:
        return ["", _text(record.get("raw_answer"))]
    pairs = itertools.zip_longest(record["all_nudging_words"], record["all_completions"], fillvalue="")
    return [text for words, piece in pairs for text in _split_piece(_text(words), _text(piece))]


def _split_piece(words: str, piece: str) -> tuple[str, str]:
    return (words, piece[len(words) :]) if piece.startswith(words) else ("", piece)


def _score_text(record: dict) -> str:
    scores = record.get("scores")
    if not isinstance(scores, dict) or "error" in record:
        return ""
    if "score" in scores and "mean" not in scores:
        return f"score {_text(scores['score'])} of 1 {_text(scores.get('reason'))}".strip()
    if "mean" not in scores:
        return _text(scores.get("reason"))
    aspects = ((name, value.get("score")) for name, value in scores.items() if isinstance(value, dict))
    return f"mean {scores['mean']:.2f} of 5: " + ", ".join(f"{name} {score}" for name, score in aspects)


def _text(value) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def embedded_json(data: dict) -> Markup:
    """Data as JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII alone: lone surrogates, U+2028 and U+2029 are escaped by it
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def plots(runs: list[Run], warn: Callable[[str], None]) -> list[dict]:
    """The plots with their caption for each group of runs that differ in the threshold alone."""
    found = []
    for number, group in enumerate(threshold_groups(runs)):
        try:
            drawn = threshold_plots(group, single_model_runs(group, runs), number)
        except ImportError:
            warn("no plot over the thresholds: it needs matplotlib (pip install matplotlib)")
            break
        first = group[0]
        told = [
            first.data_set or "unknown data set",
            " + ".join(first.models),
            f"n = {first.figures.get('questions', first.figures['samples'])} questions",
        ]
        told += [f"criterion {first.told.criterion}"] * bool(first.told.criterion)
        told += [f"blend {first.told.blend}"] * bool(first.told.blend)
        told += [f"scored by {first.scored_by}"] * bool(first.scored_by)
        told += [*dict.fromkeys(run.engine for run in group if run.engine)]
        name = ", ".join(told)
        found.append({"svgs": [Markup(svg) for svg in drawn], "caption": visible(name)})
    return found


def render(runs: list[Run], title: str, warn: Callable[[str], None] = print) -> str:
    """The page.

    Args:
        runs: see `run_table.find_runs`.
        title: the page's title.
        warn: told in a line what is missing from the page.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    labels = run_labels(runs)
    untrusted, script, css = (
        (HERE / name).read_text(encoding="utf-8") for name in ("untrusted_text.js", "report.js", "report.css")
    )
    script = untrusted + script
    data = report_data(runs, labels)
    nudged = any(run.kind == "nudging" for run in runs)
    several = any("number" in answer for answer in data["answers"])
    counts = Counter(answer["outcome"] for answer in data["answers"])
    return environment.get_template("report.html.j2").render(
        title=visible(title),
        table=readable_table(results_table(runs)),
        plots=plots(runs, warn),
        labels=labels,
        outcomes=[(name, counts[name]) for name in OUTCOMES if counts[name]],
        samples=len(data["answers"]),
        questions=len(data["questions"]),
        nudged=nudged,
        several=several,
        side=several or (nudged and len(runs) > 1),
        data=embedded_json(data),
        css=Markup(css),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def main(argv: list[str] | None = None) -> int:
    """Write the page; returns the exit code: 0, or 2 if there is nothing to show or no place to write to."""
    parser = Parser(description="One self-contained HTML page of runs.")
    parser.add_argument("results", nargs="+", type=user_path, help="result files, or folders that hold some")
    parser.add_argument("-o", "--output", required=True, type=user_path, metavar="FILE", help="the page, report.html")
    parser.add_argument("--title", default="Nudging results", help="the page's title")
    options = parser.parse_args(argv)

    command = Command("report.py")

    def warn(message: str) -> None:
        command.note(f"warning: {message}")

    def work() -> int:
        runs = find_runs(options.results, lambda message: warn(f"left out: {message}"))
        page = render(runs, options.title, warn)
        options.output.write_text(page, encoding="utf-8")
        print(f"{options.output}: {len(runs)} runs, {sum(len(run.records) for run in runs)} answers")
        return 0

    return command.run(work, errors=(OSError,))
