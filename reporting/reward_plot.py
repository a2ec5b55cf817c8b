"""Reward against weight, for each preference and reward model: a plot of what measure_reward.py has measured."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from command.console import visible
from command.intervals import mean_interval
from pad.reports import PER_ROW, Measured
from reporting.threshold_plot import PAPER, style

# Okabe and Ito's colours, which all eyes can tell apart (2008); each with a mark and dashes of its own.
_LINES = tuple(
    zip(
        ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d"),
        ("o", "s", "^", "D", "v", "P", "X"),
        strict=True,
    )
)
_LONGEST_LABEL = 34


def save_reward_plot(path: Path, measured: Sequence[Measured]) -> None:
    """Draw mean rewards over weights as an SVG or PNG file, one panel for each reward model.

    Files of the same preference and name are one line. The bars are 95 % intervals: with a baseline those of the paired difference
    from it, around the mean; without one those of the mean. A file without a weight is a mark at the right edge.

    Args:
        path: its ending says which kind of file.
        measured: at least one.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(one.wanted.label for one in measured))
    names = list(dict.fromkeys(_line_name(one) for one in measured if not one.is_baseline))
    columns = min(len(labels), 3)
    rows = math.ceil(len(labels) / columns)
    with matplotlib.rc_context(style(PAPER) | {"svg.hashsalt": path.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font does not have
        figure = Figure(figsize=(4.6 * max(columns, 1.3), 3.6 * rows + 0.25 * math.ceil((len(names) + 1) / 2)))
        figure.set_layout_engine("constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        marks: dict[str, object] = {}
        for axes, label in zip(panels, labels, strict=False):
            _draw(axes, [one for one in measured if one.wanted.label == label], names)
            axes.set_title(visible(label), loc="left", fontsize=10, parse_math=False)
            marks |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        for axes in panels[len(labels) :]:
            axes.set_visible(False)
        compared = any(one.baseline is not None for one in measured)
        bars = "paired difference from the baseline" if compared else "mean"
        figure.suptitle(f"Mean reward\nbars: 95 % interval of the {bars}", fontsize=9, x=0.01, ha="left")
        figure.legend(marks.values(), marks, frameon=False, ncols=2, fontsize=9, loc="outside lower left")
        svg = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=svg, format=path.suffix.lower().removeprefix("."))


def _line_name(one: Measured) -> str:
    preference, name = one.file.about["preference"], one.file.about["name"]
    parts = [part for part in (preference, name) if part and part != PER_ROW]
    text = ", ".join(parts) or ("preferences of rows" if preference == PER_ROW else "no preference")
    # An underscore in front would leave a line out of the legend.
    text = visible(" ".join(text.split())).lstrip("_")
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 3]}..."


def _draw(axes, measured: list[Measured], names: list[str]) -> None:
    lines: dict[str, list[Measured]] = {}
    for one in measured:
        if not one.is_baseline:
            lines.setdefault(_line_name(one), []).append(one)
    weights = sorted({one.file.about["rm_weight"] for one in measured if _weighted(one) and not one.is_baseline})
    step = (weights[-1] - weights[0] if len(weights) > 1 else 1.0) or 1.0
    edge = (weights[-1] if weights else 0.0) + 0.15 * step
    for number, (name, group) in enumerate(lines.items()):
        colour, mark = _LINES[names.index(name) % len(_LINES)]
        # Bars that would hide one another stand side by side.
        aside = (number - (len(lines) - 1) / 2) * 0.012 * step
        with_weight = sorted(filter(_weighted, group), key=lambda one: one.file.about["rm_weight"])
        without = [one for one in group if not _weighted(one)]
        for part, line in ((with_weight, "-"), (without, "none")):
            if not part:
                continue
            values = [_mean_and_bars(one) for one in part]
            axes.errorbar(
                [(one.file.about["rm_weight"] if _weighted(one) else edge) + aside for one in part],
                [mean for mean, _, _ in values],
                yerr=[[below for _, below, _ in values], [above for _, _, above in values]],
                color=colour,
                marker=mark,
                markersize=5,
                linestyle=line,
                linewidth=1.4,
                capsize=3,
                elinewidth=1.1,
                label=name,
            )
    level = next((one.baseline for one in measured if one.baseline is not None), None)
    if level is None:
        level = next((one.scores for one in measured if one.is_baseline), None)
    if level:
        mean = sum(level.values()) / len(level)
        axes.axhline(mean, color=PAPER.muted, linestyle="--", linewidth=1.2, label="baseline")
    axes.set_xlabel("weight of the reward")
    if weights:
        axes.set_xticks(weights)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(
            weights[0] - 0.1 * step, edge if any(not _weighted(one) for one in measured) else weights[-1] + 0.1 * step
        )
        axes.margins(x=0.05)
    else:
        axes.set_xticks([])


def _weighted(one: Measured) -> bool:
    return isinstance(one.file.about["rm_weight"], int | float)


def _mean_and_bars(one: Measured) -> tuple[float, float, float]:
    """The mean, and how far the bar goes below and above it (0 where there is no interval)."""
    values = list(one.scores.values())
    mean = sum(values) / len(values) if values else math.nan
    if one.baseline is not None:
        found = one.paired()
        centre, interval = found["difference"]["mean"], found["difference_interval_95"] or (None, None)
    else:
        centre, interval = mean, mean_interval(values)
    low, high = interval
    if low is None or not math.isfinite(low):
        return mean, 0.0, 0.0
    return mean, max(0.0, centre - low), max(0.0, high - centre)
