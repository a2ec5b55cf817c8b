"""Reward against weight, for each preference and reward model: a plot of what measure_reward.py has measured."""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from command.console import visible
from pad.reports import PER_ROW, Measured, shortened, t_interval
from reporting.threshold_plot import PAPER, style

# Okabe and Ito's colours, which all eyes can tell apart (2008), and marks; what comes after seven has other dashes and other marks.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
_LONGEST_LABEL = 34
_BASELINE, _NO_WEIGHT = "baseline", "none"
_Line = tuple[str | None, str | None]  # preference and name


def save_reward_plot(path: Path, measured: Sequence[Measured]) -> None:
    """Draw mean rewards over weights as an SVG or PNG file, one panel for each reward model.

    Files of the same preference and name are one line, or only marks where several have one weight. The bars are 95 % intervals:
    with a baseline those of the paired difference from it, around the mean of all prompts of a file, also where the baseline
    lacks some of them; without one those of the mean. A file without a weight is a mark at the right edge.

    Args:
        path: its ending says which kind of file.
        measured: at least one.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(one.wanted.label for one in measured))
    names = _labels(list(dict.fromkeys(_line(one) for one in measured if not one.is_baseline)))
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
        legend = figure.legend(marks.values(), marks, frameon=False, ncols=2, fontsize=9, loc="outside lower left")
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may hold $
        svg = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=svg, format=path.suffix.lower().removeprefix("."))


def looks(place: int) -> tuple[str, str, str]:
    """Colour, mark and dashes of a line by its place among the lines."""
    turn = place // len(_COLOURS)
    return _COLOURS[place % len(_COLOURS)], _MARKS[(place + turn) % len(_MARKS)], _DASHES[turn % len(_DASHES)]


def _line(one: Measured) -> _Line:
    return one.file.about["preference"], one.file.about["name"]


def _labels(lines: Sequence[_Line]) -> dict[_Line, str]:
    """What each line is called, in order; of long names that begin alike the later ones have a number."""
    found: dict[_Line, str] = {}
    taken = {_BASELINE}
    for line in lines:
        label = short = _label(line)
        number = 1
        while label in taken:
            number += 1
            label = f"{short} ({number})"
        taken.add(label)
        found[line] = label
    return found


def _label(line: _Line) -> str:
    parts = [part for part in line if part and part != PER_ROW]
    text = ", ".join(parts) or ("preferences of rows" if line[0] == PER_ROW else "no preference")
    # An underscore in front would leave a line out of the legend.
    return shortened(visible(" ".join(text.split())).lstrip("_, ") or "no preference", _LONGEST_LABEL)


def _draw(axes, measured: list[Measured], names: dict[_Line, str]) -> None:
    lines: dict[_Line, list[Measured]] = {}
    for one in measured:
        if not one.is_baseline:
            lines.setdefault(_line(one), []).append(one)
    weights = sorted({one.file.about["rm_weight"] for one in measured if _weighted(one) and not one.is_baseline})
    step = (weights[-1] - weights[0] if len(weights) > 1 else 1.0) or 1.0
    nearest = min((high - low for low, high in pairwise(weights)), default=step)
    edge = (weights[-1] if weights else 0.0) + 0.15 * step
    order = list(names)
    for number, (line, group) in enumerate(lines.items()):
        colour, mark, dashes = looks(order.index(line))
        # Bars that would hide one another stand side by side.
        aside = (number - (len(lines) - 1) / 2) * min(0.012 * step, 0.5 * nearest / len(lines))
        with_weight = sorted(filter(_weighted, group), key=lambda one: one.file.about["rm_weight"])
        without = [one for one in group if not _weighted(one)]
        for part, joined in ((with_weight, dashes), (without, "none")):
            if not part:
                continue
            values = [_mean_and_bars(one) for one in part]
            if len({one.file.about["rm_weight"] for one in part}) < len(part):
                joined = "none"  # a line through several files of one weight, of other candidates perhaps, would zigzag
            axes.errorbar(
                [(one.file.about["rm_weight"] if _weighted(one) else edge) + aside for one in part],
                [mean for mean, _, _ in values],
                yerr=[[below for _, below, _ in values], [above for _, _, above in values]],
                color=colour,
                marker=mark,
                markersize=5,
                linestyle=joined,
                linewidth=1.4,
                capsize=3,
                elinewidth=1.1,
                label=names[line],
            )
    level = next((one.baseline for one in measured if one.baseline is not None), None)
    if level is None:
        level = next((one.scores for one in measured if one.is_baseline), None)
    if level:
        mean = sum(level.values()) / len(level)
        axes.axhline(mean, color=PAPER.muted, linestyle="--", linewidth=1.2, label=_BASELINE)
    axes.set_xlabel("weight of the reward")
    places = {weight: f"{weight:g}" for weight in weights}
    if any(not _weighted(one) and not one.is_baseline for one in measured):
        places[edge] = _NO_WEIGHT
    axes.set_xticks(list(places), list(places.values()))
    if places:
        axes.set_xlim(min(places) - 0.1 * step, max(places) + 0.1 * step)


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
        centre, interval = mean, t_interval(values) or (None, None)
    low, high = interval
    if low is None:
        return mean, 0.0, 0.0
    return mean, max(0.0, centre - low), max(0.0, high - centre)
