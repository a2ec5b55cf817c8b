"""Plots of analyses as SVG and PNG files."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from analysis.analyses import Analysis, Row
from command.console import visible

TEXT, LINE = "#222222", "#cccccc"
COLOURS = ("#1f5fa8", "#b4530a", "#7f7f7f", "#3b8056")
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "axes.axisbelow": True,
    "text.parse_math": False,  # names of models are no formulas
}
BAR = 0.8  # width of all bars of a label


def save_plot(path: Path, analysis: Analysis, rows: Sequence[Row], caption: str) -> list[Path]:
    """Draw an analysis as a .svg and a .png file; gives their paths.

    Args:
        path: of the files, without ending.
        caption: what all of it is of: n, models, engine.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": path.name}):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _draw(axes, analysis, rows)
        figure.suptitle(f"{analysis.what}, % with 95 % intervals", fontsize=11, x=0.01, ha="left")
        lines = [line for part in caption.splitlines() for line in textwrap.wrap(visible(part), 118)]
        figure.supxlabel("\n".join(lines), fontsize=7, x=0.01, ha="left")
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _draw(axes, analysis: Analysis, rows: Sequence[Row]) -> None:
    drawn = [row for row in rows if row.series in analysis.series]
    labels = list(dict.fromkeys(row.label for row in drawn))
    by_place = {(row.label, row.series): row for row in drawn}
    stacked = analysis.drawn == "stacked"
    width = BAR if stacked else BAR / len(analysis.series)
    below = [0.0] * len(labels)
    for number, (series, colour) in enumerate(zip(analysis.series, COLOURS, strict=False)):
        shift = 0 if stacked else (number - (len(analysis.series) - 1) / 2) * width
        for place, label in enumerate(labels):
            row = by_place.get((label, series))
            if row is None or row.share is None:
                continue
            value = 100 * row.share
            # An interval of a share near 0 or 1 can end a rounding error beyond the share itself.
            error = [[max(0, value - 100 * row.low)], [max(0, 100 * row.high - value)]]
            axes.bar(
                place + shift,
                value,
                width,
                bottom=below[place],
                yerr=error,
                color=colour,
                error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": TEXT},
            )
            if stacked:
                below[place] += value
        axes.bar(0, 0, width, color=colour, label=series)
    totals = {label: by_place[label, analysis.series[0]].n for label in labels}
    crowded = len(labels) > 6
    axes.set_xticks(
        range(len(labels)),
        [f"{label}\nn {totals[label]:,}" for label in labels],
        rotation=40 if crowded else 0,
        fontsize=8,
    )
    axes.set_ylim(0, 104)
    axes.set_xlabel(analysis.axis)
    axes.legend(frameon=False, fontsize=8, ncols=len(analysis.series), loc="lower left", bbox_to_anchor=(0, 1))
