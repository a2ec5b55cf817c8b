"""Figures of scored answers: mean with its standard error, and the paired comparison with a baseline."""

import math
import statistics
from collections.abc import Mapping

from tabulate import tabulate

from command.intervals import wilson_interval
from datasets_loader import DataError
from pad.answers import Answered


def mean_and_error(values: list[float]) -> dict[str, float | int | None]:
    """n, mean, standard deviation and standard error of the mean; None where there are too few values."""
    n = len(values)
    deviation = statistics.stdev(values) if n > 1 else None
    error = deviation / math.sqrt(n) if deviation is not None else None
    return {"n": n, "mean": statistics.fmean(values) if n else None, "sd": deviation, "se": error}


def paired(mine: Mapping[int, float], baseline: Mapping[int, float]) -> dict:
    """Differences on common indices: mean and standard error, and how many are won, tied and lost against the baseline.

    `win_rate_interval_95` is Wilson's, of wins among all pairs.

    Raises:
        DataError: there is no common index.
    """
    common = sorted(mine.keys() & baseline.keys())
    if not common:
        raise DataError("the two files have no answered prompt in common; compare outputs of the same prompts")
    differences = [mine[i] - baseline[i] for i in common]
    # The same answer in another batch may differ by a rounding.
    clear = [
        mine[i] - baseline[i] for i in common if not math.isclose(mine[i], baseline[i], rel_tol=1e-5, abs_tol=1e-6)
    ]
    wins, losses = sum(d > 0 for d in clear), sum(d < 0 for d in clear)
    figures = {"difference": mean_and_error(differences), "wins": wins, "losses": losses}
    figures |= {"ties": len(common) - wins - losses, "win_rate": wins / len(common)}
    return figures | {"win_rate_interval_95": wilson_interval(wins, len(common))}


def check_same_questions(mine: Mapping[int, Answered], baseline: Mapping[int, Answered], where: str) -> None:
    """Raise DataError if a common index asks different questions."""
    for i in sorted(mine.keys() & baseline.keys()):
        if mine[i].question.strip() != baseline[i].question.strip():
            raise DataError(
                f"{where}: its row {i} answers {baseline[i].question[:60]!r}, not {mine[i].question[:60]!r}; "
                "compare outputs of the same prompts"
            )


def published_figures(counted: list[float], skipped: int, pattern: bool) -> dict:
    """The mean that a published program prints, of how many values, and how many rows it skips; `pattern`: in which words."""
    mean = statistics.fmean(counted) if counted else None
    return {"mean": mean, "n": len(counted), "skipped": skipped, "pattern": pattern}


def headline(report: dict) -> list[str]:
    """The published program's two lines in its format, else ours."""
    published = report.get("published")
    if published is None:
        return [f"mean reward: {report['mean']}", f"skipped: {report['skipped']}"]
    mean = float("nan") if published["mean"] is None else published["mean"]
    if published["pattern"]:
        return [f"Mean RM Score for {report['file']}: {mean}", f"Number of skipped entries: {published['skipped']}"]
    return [f"np.mean(rm_scores)={mean}", f"num_skip={published['skipped']}"]


def table(figures: dict) -> str:
    """The figures of `mean_and_error`, with "skipped" and perhaps "paired", as a table of two columns."""
    rows = [["answers", figures.get("answers", figures["n"])], ["skipped", figures["skipped"]]]
    if "answers" in figures:
        rows.insert(0, ["prompts (each counts once)", figures["n"]])
    if figures["mean"] is not None:
        rows.append(["mean", _plus_minus(figures)])
    if figures["sd"] is not None:
        rows.append(["standard deviation", f"{figures['sd']:.4f}"])
    if pairs := figures.get("paired"):
        low, high = pairs["win_rate_interval_95"]
        rows.append(["mean of the baseline", _plus_minus(figures["baseline"])])
        pairs_of = pairs["difference"]["n"]
        fewer = "" if pairs_of == figures["n"] == figures["baseline"]["n"] else f" on {pairs_of} common prompts"
        rows.append([f"mean difference{fewer}", _plus_minus(pairs["difference"])])
        rows.append(["won / tied / lost", f"{pairs['wins']} / {pairs['ties']} / {pairs['losses']}"])
        rows.append(["won", f"{100 * pairs['win_rate']:.0f} % (95 %: {100 * low:.0f} to {100 * high:.0f})"])
    return tabulate(rows, tablefmt="simple", disable_numparse=True)


def _plus_minus(figures: dict) -> str:
    error = "" if figures["se"] is None else f" ± {figures['se']:.4f} (standard error)"
    return f"{figures['mean']:.4f}{error}"
