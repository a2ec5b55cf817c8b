"""Scores and intervention rate against the threshold: SVGs that take font and colours from their page, and files of their own."""

import io
import json
import re
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from command.console import visible
from decoding.criteria import CRITERIA
from experiment.summary import HIGHEST_USUAL_INTERVENTION
from reporting.run_table import Run
from reporting.told import TOP_PROB


class Colours(NamedTuple):
    """The colours of a plot, as matplotlib writes them."""

    text: str
    line: str
    accent: str
    nudge: str
    muted: str


# In a page, which puts its own in their place, and in a file.
PAGE = Colours("#010101", "#020202", "#030303", "#040404", "#050505")
PAPER = Colours("#222222", "#bbbbbb", "#1f5fa8", "#b4530a", "#6b6b6b")
_OF_PAGE = Colours("currentColor", "var(--line)", "var(--accent)", "var(--nudge)", "var(--muted)")
# What is drawn of a score, in this order: its name among the figures, its scale, and its title.
_SCORES = (
    ("accuracy", 100, "Accuracy, %"),
    ("mean_score", 1, "Mean score, 1 to 5"),
    ("mean_own_score", 1, "Mean score, 0 to 1"),
)
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
    return _svg(lambda axes: _draw_scores(axes, group, alone, PAGE), group, f"{number} scores"), _svg(
        lambda axes: _draw_shares(axes, group, PAGE), group, f"{number} shares"
    )


def _svg(draw: Callable, group: list[Run], name: str) -> str:
    import matplotlib  # slow to import, and needed for runs at several thresholds alone
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(PAGE) | {"svg.hashsalt": name}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        _set_thresholds(axes, group)
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = file.getvalue()
    for drawn, colour in zip(PAGE, _OF_PAGE, strict=True):
        svg = svg.replace(drawn, colour)
    svg = re.sub(
        r' id="[A-Za-z0-9.]+_\d+"|<style.*?</style>', "", svg, flags=re.S
    )  # the same in every plot, and of no use
    return svg[svg.index("<svg") :]


def style(colours: Colours) -> dict:
    return {
        "svg.fonttype": "none",
        "font.size": 10,
        "text.color": colours.text,
        "axes.labelcolor": colours.text,
        "axes.edgecolor": colours.line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": colours.line,
        "ytick.color": colours.line,
        "xtick.labelcolor": colours.text,
        "ytick.labelcolor": colours.text,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": colours.line,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }


def _set_thresholds(axes, group: list[Run]) -> None:
    rule = CRITERIA.get(group[0].told.criterion or TOP_PROB)
    axes.set_xlabel(f"threshold on {rule.quantity if rule else 'the criterion'}")
    axes.set_xticks(sorted({run.threshold for run in group}))
    axes.xaxis.set_major_formatter("{x:g}")


def save_plot(
    path: Path,
    title: str,
    groups: list[list[Run]],
    alone: list[dict[str, Run | None]],
    best: Run | None,
    equal: set[int],
) -> list[Path]:
    """Draw scores and intervention rates over the thresholds as SVG and PNG files, a column for each group.

    Args:
        path: of the files, without their endings.
        title: what all of it is of; models' names are in it.
        groups: nudging runs that differ in the threshold alone.
        alone: of each group the runs of its models alone, "base_only" and "nudging_only".
        best: the run that is marked.
        equal: the ids of the runs that cannot be told apart from it.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
    with matplotlib.rc_context(style(PAPER) | {"svg.hashsalt": path.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font does not have
        width = 5.2 * max(len(groups), 1.3)
        figure = Figure(figsize=(width, 6.8), layout="constrained")
        FigureCanvasAgg(figure)
        lines = "\n".join(textwrap.wrap(visible(title), int(15 * width)))
        figure.suptitle(lines, fontsize=9, x=0.01, ha="left", parse_math=False)
        columns = figure.subplots(2, len(groups), squeeze=False, sharey="row").T
        labelled = {}
        for axes, group, single in zip(columns, groups, alone, strict=True):
            there = {kind: run for kind, run in single.items() if run is not None}
            _draw_scores(axes[0], group, there, PAPER, (best, equal))
            _draw_shares(axes[1], group, PAPER)
            for one in axes:
                _set_thresholds(one, group)
            if len(groups) > 1:
                name = f"{visible(group[0].models[-1])}\n{axes[0].get_title(loc='left')}"
                axes[0].set_title(name, loc="left", fontsize=10, parse_math=False)
            labelled |= {
                label: mark for one in axes for mark, label in zip(*one.get_legend_handles_labels(), strict=True)
            }
        figure.legend(
            labelled.values(), labelled, frameon=False, ncols=2, fontsize=9, loc="outside lower left", handlelength=2.4
        )
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _draw_scores(
    axes,
    group: list[Run],
    alone: dict[str, Run],
    colours: Colours,
    marked: tuple[Run | None, set[int]] = (None, set()),
) -> None:
    every = (*group, *alone.values())
    value, scale, title = next((one for one in _SCORES if any(one[0] in run.figures for run in every)), _SCORES[0])
    interval = f"{value}_interval_95"
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
        color=colours.accent,
        marker="o",
        markersize=6,
        capsize=4,
        elinewidth=1.4,
        label="nudging",
    )
    best, equal = marked
    for run, mean in zip(scored, means, strict=True):
        if run is best:
            axes.plot(
                [run.threshold], [mean], "*", color=colours.nudge, markersize=17, zorder=5, label="best", clip_on=False
            )
    same = [(run.threshold, mean) for run, mean in zip(scored, means, strict=True) if id(run) in equal]
    if same:
        ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "linestyle": "none", "clip_on": False}
        axes.plot(*zip(*same, strict=True), color=colours.nudge, zorder=4, label="not told apart from the best", **ring)
    for (kind, run), dashes in zip(alone.items(), ("--", ":"), strict=False):
        if value in run.figures:
            axes.axhline(
                scale * run.figures[value], color=colours.muted, linestyle=dashes, label=kind.replace("_", " ")
            )
    axes.set_title(f"{title}, with 95 % intervals", loc="left", fontsize=10)
    if value == "accuracy":
        axes.set_ylim(bottom=0)
    if alone and colours is PAGE:
        axes.figure.legend(frameon=False, ncols=3, fontsize=9, loc="outside upper left", handlelength=2.4)
    if not scored:
        axes.text(0.5, 0.5, "not scored yet", transform=axes.transAxes, ha="center", color=colours.muted)


def _draw_shares(axes, group: list[Run], colours: Colours) -> None:
    shares = [100 * run.figures.get("mean_ratio_nudging", float("nan")) for run in group]
    axes.plot([run.threshold for run in group], shares, color=colours.nudge, marker="s", markersize=5)
    if colours is PAPER and any(share > 100 * HIGHEST_USUAL_INTERVENTION for share in shares):
        label = f"{100 * HIGHEST_USUAL_INTERVENTION:.0f} %: above, the nudging model with help"
        axes.axhline(100 * HIGHEST_USUAL_INTERVENTION, color=colours.muted, linestyle="-.", label=label)
    axes.set_ylim(0, max(1, 1.25 * axes.dataLim.y1))
    axes.set_title("Words by the nudging model, %, as published", loc="left", fontsize=10)
