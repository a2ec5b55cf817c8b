"""What a search for a threshold has come to: each run beside the base model, the nudging model and the best, and which is best."""

from dataclasses import dataclass

import pandas as pd

from command.paired import Paired, compare, holm
from experiment.summary import HIGHEST_USUAL_INTERVENTION
from reporting.run_table import Run

LEVEL = 0.05


@dataclass(frozen=True)
class Row:
    """One nudging run of a search; the comparisons are None where there is nothing to compare."""

    run: Run
    to_base: Paired | None
    to_nudging: Paired | None
    to_best: Paired | None = None
    p_of_best: float | None = None

    @property
    def score(self) -> float | None:
        """Accuracy, or mean score; None where nothing is scored."""
        return score_of(self.run)

    @property
    def intervention(self) -> float:
        """The published share of the nudging model's words, 0 to 1."""
        return self.run.figures.get("mean_ratio_nudging", 0.0)


@dataclass(frozen=True)
class Found:
    """The rows of a search, the single models' runs, and the best row; `equal` cannot be told apart from it."""

    rows: list[Row]
    alone: dict[str, Run]
    best: Row | None
    equal: list[Row]


def score_of(run: Run) -> float | None:
    """A run's accuracy or mean score; None where nothing is scored."""
    return next((run.figures[name] for name in SCORES if name in run.figures), None)


# Each measure of a run's figures, and where its interval is.
SCORES = {name: f"{name}_interval_95" for name in ("accuracy", "mean_score", "mean_own_score")}


def scores_by_question(run: Run) -> dict:
    """Each scored answer's score, by its index."""
    found = {}
    for record in run.records:
        scores = record.get("scores") or {}
        value = next((scores[name] for name in ("correct", "mean", "score") if name in scores), None)
        if "error" not in record and value is not None:
            found[record["index"]] = float(value)
    return found


def paired(first: Run | None, second: Run | None) -> Paired | None:
    """Compare two runs over the questions that both have a score for."""
    if first is None or second is None:
        return None
    mine, theirs = scores_by_question(first), scores_by_question(second)
    both = sorted(mine.keys() & theirs.keys())
    return compare([mine[i] for i in both], [theirs[i] for i in both])


def findings(runs: list[Run], base: Run | None, nudging: dict[str, Run]) -> Found:
    """Compare the nudging runs of a search.

    Args:
        runs: of nudging.
        base: the base model alone.
        nudging: each nudging model alone, by its name.
    """
    rows = [Row(run, paired(run, base), paired(run, nudging.get(run.models[-1]))) for run in runs]
    scored = [row for row in rows if row.score is not None]
    alone = ({"base model": base} if base else {}) | {f"nudging model {name}": run for name, run in nudging.items()}
    if not scored:
        return Found(rows, alone, None, [])
    # Of equal scores the one that intervenes least.
    best = max(scored, key=lambda row: (row.score, -row.intervention))
    to_best = [None if row is best else paired(best.run, row.run) for row in rows]
    raised = holm([found and found.p for found in to_best])
    rows = [
        Row(row.run, row.to_base, row.to_nudging, found, p) for row, found, p in zip(rows, to_best, raised, strict=True)
    ]
    (best,) = (row for row in rows if row.run is best.run)
    return Found(rows, alone, best, [row for row in rows if row.p_of_best is not None and row.p_of_best >= LEVEL])


def table_of(found: Found) -> pd.DataFrame:
    """All figures of a search, one row per run: shares and differences from 0 to 1 (or in points of a mean score), seconds."""
    lines = [_line(run, name) for name, run in found.alone.items()]
    for row in found.rows:
        line = _line(row.run, " + ".join(row.run.models))
        for name, told in (("base", row.to_base), ("nudging", row.to_nudging)):
            line |= {f"to_{name}": told and told.difference, f"to_{name}_p": told and told.p}
            line |= {f"to_{name}_low": told and told.interval[0], f"to_{name}_high": told and told.interval[1]}
        line |= {"below_best": row.to_best and row.to_best.difference, "below_best_p_holm": row.p_of_best}
        line |= {"best": row is found.best, "not_told_apart_from_best": row in found.equal}
        lines.append(line)
    return pd.DataFrame(lines)


def _line(run: Run, models: str) -> dict:
    f = run.figures
    name = next((name for name in SCORES if name in f), None)
    low, high = (f[SCORES[name]] or (None, None)) if name else (None, None)
    return {
        "models": models,
        "experiment": run.kind,
        "criterion": run.told.criterion,
        "threshold": run.threshold,
        "blend": run.told.blend,
        "engine": run.engine,
        "n": f["scored"],
        "failed": f["failed"],
        "unscored": f["unscored"],
        "measure": name,
        "score": name and f[name],
        "score_low": low,
        "score_high": high,
        "intervention_rate": f.get("mean_ratio_nudging"),
        "latency_seconds": run.pace.latency,
    }


def readable(found: Found) -> str:
    """The table for people, as Markdown."""
    lines = []
    for (_, line), row in zip(table_of(found).iterrows(), [None] * len(found.alone) + found.rows, strict=True):
        percent = line["measure"] == "accuracy"
        number = "" if pd.isna(line["threshold"]) else f"{line['threshold']:g}"
        mark = "best" if row is not None and row is found.best else "as good" if row in found.equal else ""
        lines.append(
            {
                "models": line["models"],
                "threshold": number,
                "n": line["n"],
                "score (95 %)": _score(line, percent),
                "to base alone (p)": _difference(row and row.to_base, percent),
                "to nudging alone (p)": _difference(row and row.to_nudging, percent),
                "below best (p, Holm)": _difference(row and row.to_best, percent, row and row.p_of_best),
                "intervention": ""
                if pd.isna(line["intervention_rate"])
                else f"{100 * line['intervention_rate']:.1f} %",
                "s per answer": "" if pd.isna(line["latency_seconds"]) else f"{line['latency_seconds']:.2f}",
                "": mark,
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _score(line: pd.Series, percent: bool) -> str:
    if pd.isna(line["score"]):
        return "not scored"
    scale, form, sign = (100, "{:.1f}", " %") if percent else (1, "{:.2f}", "")
    told = form.format(scale * line["score"]) + sign
    if pd.isna(line["score_low"]):
        return told
    return f"{told} ({form.format(scale * line['score_low'])} to {form.format(scale * line['score_high'])})"


def _difference(told: Paired | None, percent: bool, p: float | None = None) -> str:
    if told is None:
        return ""
    p = told.p if p is None else p
    number = f"{100 * told.difference:+.1f}" if percent else f"{told.difference:+.2f}"
    return number if p is None else f"{number} ({p:.3f})"


def verdict(found: Found) -> list[str]:
    """What the figures say, in sentences."""
    lines = []
    if found.best is None:
        lines.append(
            "nothing is scored, so that no threshold can be called the best; the intervention rates are there to see"
        )
    else:
        best = found.best
        lines.append(f"best: {_named(best, found)}, {_share(best)} by the nudging model")
        if found.equal:
            told = "; ".join(_named(row, found) for row in found.equal)
            lines.append(
                f"not to be told apart from it on {best.run.figures['scored']} questions (paired, p >= {LEVEL:g} by Holm): {told}"
            )
        elif len(found.rows) > 1:
            lines.append("all others score lower by more than chance would make them")
    for row in found.rows:
        if row.intervention > HIGHEST_USUAL_INTERVENTION:
            lines.append(
                f"{_named(row, found)}: the nudging model writes {_share(row)} (about 10 % in the paper); above "
                f"{100 * HIGHEST_USUAL_INTERVENTION:.0f} % this is less a nudged base model than the nudging model with help"
            )
    left_out = sum(row.run.figures["failed"] for row in found.rows)
    if left_out:
        lines.append(f"{left_out} failed answers are left out, of the comparisons question by question")
    return lines


def _named(row: Row, found: Found) -> str:
    number = "" if row.run.threshold is None else f" {row.run.threshold:g}"
    several = len({one.run.models for one in found.rows}) > 1
    return f"{row.run.told.criterion}{number}" + (f" with {row.run.models[-1]}" if several else "")


def _share(row: Row) -> str:
    return f"{100 * row.intervention:.1f} % of the words"
