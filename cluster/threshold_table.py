"""The table of a search for a threshold, for programs and for people, and what it says in sentences."""

import pandas as pd

from cluster.threshold_findings import LEVEL, Found, Row, measure_of
from command.console import visible
from command.paired import MCNEMAR, PAIRED_T, SIGN, Paired
from decoding.criteria import CRITERIA
from experiment.summary import HIGHEST_USUAL_INTERVENTION
from reporting.run_table import Run
from reporting.table import escaped

HEADINGS = {
    "accuracy": "accuracy (95 %)",
    "mean_score": "mean score, 1 to 5 (95 %)",
    "mean_own_score": "mean score, 0 to 1 (95 %)",
    None: "score",
}


def figures_table(found: Found) -> pd.DataFrame:
    """All figures of a search, one row per run: shares from 0 to 1, differences in the score's own unit, seconds per answer."""
    rows: dict[int, Row] = {id(row.run): row for row in found.rows}
    table = pd.DataFrame([_figures(run, rows.get(id(run)), found) for run in found.runs])
    counts = [column for column in table if column.endswith(("_n", "_wins", "_losses", "at_a_time"))]
    return table.astype(dict.fromkeys(counts, "Int64"))  # whole numbers also where some are missing


def _figures(run: Run, row: Row | None, found: Found) -> dict:
    f, measure = run.figures, measure_of(run)
    low, high = (f[f"{measure}_interval_95"] or (None, None)) if measure else (None, None)
    line = {
        "data_set": run.data_set,
        "experiment": run.kind,
        "models": " + ".join(run.models),
        "criterion": run.told.criterion,
        "threshold": run.threshold,
        "blend": run.told.blend,
        "engine": run.engine,
        "samples": f["samples"],
        "n": f["answered"],
        "failed": f["failed"],
        "unscored": f["unscored"],
        "finished": run.finished,
        "measure": measure,
        "score": measure and f[measure],
        "score_low": low,
        "score_high": high,
        "intervention_rate": f.get("mean_ratio_nudging"),
        "seconds_per_answer": run.pace.latency,
        "at_a_time": run.pace.at_a_time,
    }
    compared = {"to_base": row and row.to_base, "to_nudging": row and row.to_nudging, "of_best": row and row.of_best}
    for name, told in compared.items():
        low, high = told.interval or (None, None) if told else (None, None)
        line |= {f"{name}_n": told and told.n, name: told and told.difference, f"{name}_low": low, f"{name}_high": high}
        line |= {f"{name}_wins": told and told.wins, f"{name}_losses": told and told.losses}
        line |= {f"{name}_p": told and told.p, f"{name}_test": told and told.test}
    line |= {"of_best_p_holm": row and row.p_of_best, "best": row is not None and row is found.best}
    line |= {"not_told_apart_from_best": row is not None and row in found.equal, "file": run.path}
    return {name: visible(value) if isinstance(value, str) else value for name, value in line.items()}


def markdown(found: Found) -> str:
    """The table for people, as Markdown."""
    lines = []
    rows = {id(row.run): row for row in found.rows}
    measure = next(filter(None, map(measure_of, found.runs)), None)
    at_a_time = {run.pace.at_a_time for run in found.runs}
    together = f", {at_a_time.pop()} at a time" if len(at_a_time) == 1 and None not in at_a_time else ""
    for run in found.runs:
        row = rows.get(id(run))
        f, percent = run.figures, measure == "accuracy"
        lines.append(
            {
                "models": escaped(visible(" + ".join(run.models) + ("" if row else " alone"))),
                "threshold": "" if run.threshold is None else f"{run.threshold:g}",
                "n": str(f["answered"])
                + "".join(f", {f[what]} {what}" for what in ("failed", "unscored") if f[what] and measure),
                HEADINGS[measure]: _score(run, percent),
                "to base alone (p)": _difference(row and row.to_base, percent),
                "to nudging alone (p)": _difference(row and row.to_nudging, percent),
                "best is higher by (p, Holm)": _difference(row and row.of_best, percent, row and row.p_of_best),
                "intervention": "" if row is None or row.intervention is None else f"{100 * row.intervention:.1f} %",
                f"s per answer{together}": "" if run.pace.latency is None else f"{run.pace.latency:.2f}",
                "": ""
                if row is None
                else "best"
                if row is found.best
                else "not told apart"
                if row in found.equal
                else "",
            }
        )
    table = pd.DataFrame(lines)
    table = table.loc[:, [*(column == "n" or (table[column] != "").any() for column in table.columns)]]
    return table.to_markdown(index=False, disable_numparse=True)


def _score(run: Run, percent: bool) -> str:
    measure = measure_of(run)
    if measure is None:
        return "not scored"
    scale, form, sign = (100, "{:.1f}", " %") if percent else (1, "{:.2f}", "")
    told, interval = form.format(scale * run.figures[measure]) + sign, run.figures[f"{measure}_interval_95"]
    return told + (f" ({form.format(scale * interval[0])} to {form.format(scale * interval[1])})" if interval else "")


def _difference(told: Paired | None, percent: bool, p: float | None = None) -> str:
    if told is None:
        return ""
    return f"{_points(told, percent)} ({told.p if p is None else p:.3f})"


def _points(told: Paired, percent: bool) -> str:
    return f"{100 * told.difference:+.1f}" if percent else f"{told.difference:+.2f}"


def how_compared(found: Found) -> str:
    """By which tests runs are compared, in a sentence; "" where nothing is."""
    told = [one for row in found.rows for one in (row.to_base, row.to_nudging, row.of_best) if one]
    tests = [test for test in (MCNEMAR, PAIRED_T, SIGN) if any(one.test == test for one in told)]
    if not tests:
        return ""
    holm = " Those of the best are raised by Holm's method for all of them together, the others are each for itself."
    return (
        f"Differences are over the questions that both runs have a score for; p by {' or '.join(tests)}."
        + holm * bool(found.best)
    )


def verdict(found: Found) -> list[str]:
    """What the figures say, in sentences."""
    return [*_about_best(found), *_about_intervention(found), *_about_missing(found)]


def _about_best(found: Found) -> list[str]:
    best = found.best
    if best is None:
        if not found.rows:
            return []
        return [
            f"{found.why_no_best}, so that no threshold can be called the best; the intervention rates are there to see"
        ]
    percent = measure_of(best.run) == "accuracy"
    lines = [f"best: {_named(best, found)}, {_score(best.run, percent)}" + _words(best)]
    ties = [row for row in found.equal if row.of_best.wins == row.of_best.losses == 0]
    if found.equal:
        lines.append(f"not to be told apart from it (paired, p >= {LEVEL:g} by Holm): {_all_named(found.equal, found)}")
    elif len(found.rows) > 1:
        lines.append("all others are told apart from it")
    if ties:
        lines.append(f"with the same score at every question: {_all_named(ties, found)}")
    compared = (("base", best.to_base), ("nudging", best.to_nudging))
    beside = [
        f"{_points(told, percent)} to the {role} model alone (p = {told.p:.3f})" for role, told in compared if told
    ]
    if beside:
        lines.append(f"beside the single models: {', '.join(beside)}")
    lines.append("it was chosen by these answers, which flatters its score: report the one of the whole run")
    return lines


def _about_intervention(found: Found) -> list[str]:
    high = [row for row in found.rows if (row.intervention or 0) > HIGHEST_USUAL_INTERVENTION]
    if not high:
        return []
    rates = sorted(100 * row.intervention for row in high)
    share = f"{rates[0]:.0f}" + (f" to {rates[-1]:.0f}" if f"{rates[-1]:.0f}" != f"{rates[0]:.0f}" else "")
    return [
        f"{_all_named(high, found)}: the nudging model writes {share} % of the words (about 10 % in the paper): above "
        f"{100 * HIGHEST_USUAL_INTERVENTION:.0f} % this is no nudging but the nudging model with help"
    ]


def _about_missing(found: Found) -> list[str]:
    lines = []
    if failed := sum(run.figures["failed"] for run in found.runs):
        lines.append(f"{failed} failed answers are left out, and their questions of the comparisons with these runs")
    f = max((run.figures for run in found.runs), key=lambda figures: figures["samples"])
    if found.best and found.common < f.get("questions", f["samples"]):
        lines.append(f"the best is that of the {found.common} questions that all runs have a score for")
    return lines


def _named(row: Row, found: Found) -> str:
    several = len({one.nudger for one in found.rows}) > 1
    return f"threshold {row.run.threshold:g}" + (f" with {row.run.models[-1]}" if several else "")


def _all_named(rows: list[Row], found: Found) -> str:
    if len({one.nudger for one in found.rows}) > 1:
        told = [f"{row.run.threshold:g} with {row.run.models[-1]}" for row in rows]
    else:
        told = [f"{row.run.threshold:g}" for row in rows]
    return ("thresholds " if len(told) > 1 else "threshold ") + ", ".join(told)


def _words(row: Row) -> str:
    return "" if row.intervention is None else f", {100 * row.intervention:.1f} % of the words by the nudging model"


def caption(found: Found, split: str | None) -> str:
    """What all figures are of: data, n, pairs, criterion with its numbers, mixtures, intervals, engines."""
    runs, every = [row.run for row in found.rows], found.runs
    first = (runs or every)[0]
    f = max((run.figures for run in every), key=lambda figures: figures["samples"])
    n = f"n = {f.get('questions', f['samples'])}" + (
        f" x {f['answers_per_question']} answers" if "questions" in f else ""
    )
    told = [f"{first.data_set}" + (f" ({split})" if split else "") + f", {n}"]
    told += [f"asked with {first.asked_with}".replace("\n", ", ")] * bool(first.asked_with)
    told.append("; ".join(dict.fromkeys(" + ".join(run.models) for run in runs or every)))
    if runs and first.told.criterion:
        numbers = sorted({run.threshold for run in runs})
        span = f"{numbers[0]:g}" + (f" to {numbers[-1]:g}" if len(numbers) > 1 else "")
        told.append(f"criterion {first.told.criterion}, threshold {span} ({CRITERIA[first.told.criterion].quantity})")
    if first.told.blend:
        told.append(f"blend {first.told.blend}")
    if by := dict.fromkeys(run.scored_by for run in every if run.scored_by):
        told.append(f"scored by {', '.join(by)}")
    told.append("95 % intervals")
    told += [", ".join(dict.fromkeys(run.engine for run in every if run.engine)) or "engine not known"]
    return visible(". ".join(told))
