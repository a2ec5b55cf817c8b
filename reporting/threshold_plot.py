"""Accuracy and intervention rate against the uncertainty threshold, as an SVG that takes its font and colours from its page."""

import io
import json
import re
from collections.abc import Callable

from reporting.run_table import Run

# Colours that matplotlib writes, and what a page puts in their place.
_PAGE_COLOURS = {
    "#010101": "currentColor",
    "#020202": "var(--line)",
    "#030303": "var(--accent)",
    "#040404": "var(--nudge)",
    "#050505": "var(--muted)",
}
_TEXT, _LINE, _ACCENT, _NUDGE, _MUTED = _PAGE_COLOURS
# Settings that a run of one model alone shares with the nudging runs that it is compared with.
_SHARED_SETTINGS = ("split", "num_samples", "max_token_total")


def threshold_groups(runs: list[Run]) -> list[list[Run]]:
    """The nudging runs that differ in nothing but the threshold, by threshold; groups of at least two thresholds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.kind == "nudging" and run.threshold is not None:
            others = {
                name: value for name, value in run.settings.items() if name not in ("top_prob_thres", "threshold")
            }
            how = run.told.criterion, run.told.blend
            key = json.dumps([run.data_set, run.models, run.num_samples, how, others], sort_keys=True)
            groups.setdefault(key, []).append(run)
    return [
        sorted(group, key=lambda run: run.threshold)
        for group in groups.values()
        if len({run.threshold for run in group}) > 1
    ]


def single_model_runs(group: list[Run], runs: list[Run]) -> dict[str, Run]:
    """The runs of the group's models alone, on the same questions: at most one of "base_only" and "nudging_only" each."""
    first, found = group[0], {}
    for run in runs:
        position = {"base_only": 0, "nudging_only": 1}.get(run.kind)
        if (
            position is not None
            and run.models == first.models[position : position + 1]
            and run.data_set == first.data_set
            and run.num_samples == first.num_samples
            and all(run.settings.get(name) == first.settings.get(name) for name in _SHARED_SETTINGS)
        ):
            found.setdefault(run.kind, run)
    return found


def threshold_plots(group: list[Run], alone: dict[str, Run], number: int) -> tuple[str, str]:
    """Two plots of a group of `threshold_groups`, scores and intervention rate, as <svg> elements.

    They hold no text that comes from a result file.

    Args:
        group: the nudging runs.
        alone: the runs whose scores are drawn as level lines (see `single_model_runs`).
        number: the group's place in its page, which keeps ids apart from the other groups'.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return _svg(lambda axes: _draw_scores(axes, group, alone), group, f"{number} scores"), _svg(
        lambda axes: _draw_shares(axes, group), group, f"{number} shares"
    )


def _svg(draw: Callable, group: list[Run], name: str) -> str:
    import matplotlib  # slow to import, and needed for runs at several thresholds alone
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 10,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "axes.edgecolor": _LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _LINE,
        "ytick.color": _LINE,
        "xtick.labelcolor": _TEXT,
        "ytick.labelcolor": _TEXT,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": _LINE,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel("threshold on the base model's top-1 probability")
        axes.set_xticks(sorted({run.threshold for run in group}))
        axes.xaxis.set_major_formatter("{x:g}")
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = file.getvalue()
    for drawn, colour in _PAGE_COLOURS.items():
        svg = svg.replace(drawn, colour)
    svg = re.sub(
        r' id="[A-Za-z0-9.]+_\d+"|<style.*?</style>', "", svg, flags=re.S
    )  # the same in every plot, and of no use
    return svg[svg.index("<svg") :]


def _draw_scores(axes, group: list[Run], alone: dict[str, Run]) -> None:
    share = any("accuracy" in run.figures for run in group)
    value, interval = ("accuracy", "accuracy_interval_95") if share else ("mean_score", "mean_score_interval_95")
    scale = 100 if share else 1
    scored = [run for run in group if value in run.figures]
    means = [scale * run.figures[value] for run in scored]
    intervals = [run.figures[interval] or [run.figures[value]] * 2 for run in scored]
    axes.errorbar(
        [run.threshold for run in scored],
        means,
        # An interval of a share near 0 or 1 can end a rounding error beyond the share itself.
        yerr=[
            [max(0, mean - scale * low) for mean, (low, _) in zip(means, intervals, strict=True)],
            [max(0, scale * high - mean) for mean, (_, high) in zip(means, intervals, strict=True)],
        ],
        color=_ACCENT,
        marker="o",
        markersize=6,
        capsize=4,
        elinewidth=1.4,
        label="nudging",
    )
    for (kind, run), dashes in zip(alone.items(), ("--", ":"), strict=False):
        if value in run.figures:
            axes.axhline(scale * run.figures[value], color=_MUTED, linestyle=dashes, label=kind.replace("_", " "))
    axes.set_title(
        ("Accuracy, %" if share else "Mean score, 1 to 5") + ", with 95 % intervals", loc="left", fontsize=10
    )
    if share:
        axes.set_ylim(bottom=0)
    if alone:
        axes.figure.legend(frameon=False, ncols=3, fontsize=9, loc="outside upper left", handlelength=2.4)
    if not scored:
        axes.text(0.5, 0.5, "not scored yet", transform=axes.transAxes, ha="center", color=_MUTED)


def _draw_shares(axes, group: list[Run]) -> None:
    shares = [100 * run.figures.get("mean_ratio_nudging", float("nan")) for run in group]
    axes.plot([run.threshold for run in group], shares, color=_NUDGE, marker="s", markersize=5)
    axes.set_ylim(0, max(1, 1.25 * axes.dataLim.y1))
    axes.set_title("Words by the nudging model, %, as published", loc="left", fontsize=10)
