"""The table of analyses: what each counts over places of answers, where the paper (arXiv 2410.09300) has it, and how it is drawn.

Intervals hold at 95 %, for places that are alike within an answer: see command.intervals.grouped_wilson_interval.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from analysis.kinds import KINDS
from analysis.nudges import Unit
from analysis.places import AGREE, CLASSES, DISAGREE, WEAK, Place
from command.intervals import grouped_wilson_interval

BINS = 10
UNCERTAIN, VERY_UNCERTAIN = 0.5, 0.1  # of the base model's top-1 probability, as the paper cuts it
SMALL_RANK = 3  # of the small aligned model, down to which it would help (table 1)
PLACES, LARGE, NUDGES = "places", "large", "nudges"
# What has to be there for an analysis that needs it.
NEEDS = {
    PLACES: "a base and an aligned model that score the answers (--base_model, --nudging_model)",
    LARGE: "a large aligned model besides (--aligned_model)",
    NUDGES: "answers of nudging runs, whose records say who wrote what",
}


class _Of(Protocol):
    answer: int


@dataclass(frozen=True)
class Row:
    """One share: `count` of `n` places of `answers` answers, with its 95 % interval from `low` to `high` (from 0 to 1).

    `label` is where it stands in a plot and `series` what is counted. Of no places at all share and interval are None.
    """

    label: str
    series: str
    count: int
    n: int
    answers: int
    low: float | None
    high: float | None

    @property
    def share(self) -> float | None:
        return self.count / self.n if self.n else None


@dataclass(frozen=True)
class Analysis:
    """One analysis: a title, its place in the paper, what it needs (of NEEDS), and what it counts.

    A plot shows `series`, and of the first of them n; `drawn`: "bars" side by side, or "stacked". `axis` says what the labels are.
    """

    what: str
    paper: str
    needs: str
    rows: Callable[[Sequence], list[Row]]
    axis: str
    series: tuple[str, ...]
    drawn: str = "bars"


def share(label: str, series: str, of: Iterable[_Of], holds: Callable[[_Of], bool]) -> Row:
    """The share of places, or units, for which something holds."""
    groups: dict[int, list[int]] = {}
    for one in of:
        groups.setdefault(one.answer, []).append(int(holds(one)))
    count, n = sum(map(sum, groups.values())), sum(map(len, groups.values()))
    low, high = grouped_wilson_interval(list(groups.values())) if n else (None, None)
    return Row(label, series, count, n, len(groups), low, high)


def bin_of(value: float) -> int:
    """The number of the tenth that a value from 0 to 1 lies in; 1 is in the last."""
    return min(BINS - 1, int(value * BINS + 1e-9))


def _tenth(number: int) -> str:
    return f"{number / BINS:.1f}-{(number + 1) / BINS:.1f}"


def _disagrees(place: Place) -> bool:
    return place.agreement == DISAGREE


ALL, OF_DISAGREEING, OF_BOTH = "share of all places", "share of disagreeing places", "share of disagreeing, weakly too"


def uncertainty(places: Sequence[Place]) -> list[Row]:
    """Over the base model's top-1 probability: how many places, and how often both models agree there."""
    rows = []
    for number in range(BINS):
        here = [place for place in places if bin_of(place.base_prob) == number]
        rows.append(share(_tenth(number), ALL, places, lambda place, n=number: bin_of(place.base_prob) == n))
        rows += _agreement(_tenth(number), here)
    return rows


def _agreement(label: str, places: Sequence[Place]) -> list[Row]:
    return [share(label, name, places, lambda place, name=name: place.agreement == name) for name in CLASSES]


def agreement(places: Sequence[Place]) -> list[Row]:
    """How often both models agree: everywhere, and where the base model is uncertain; and how much of all that is."""
    rows = _agreement("all", places)
    disagreeing = [place for place in places if _disagrees(place)]
    both = [place for place in places if place.agreement != AGREE]
    for threshold in (UNCERTAIN, VERY_UNCERTAIN):
        label = f"top-1 below {threshold:g}"

        def below(place: Place, threshold: float = threshold) -> bool:
            return place.base_prob < threshold

        rows += _agreement(label, [place for place in places if below(place)])
        rows.append(share(label, ALL, places, below))
        rows.append(share(label, OF_DISAGREEING, disagreeing, below))
        rows.append(share(label, OF_BOTH, both, below))
    return rows


IN_TOP = f"in the small aligned model's top {SMALL_RANK}"


def small_and_large(places: Sequence[Place]) -> list[Row]:
    """How often the large aligned model's token is among the small one's first, by how base and large aligned model agree."""
    return [
        share(name, IN_TOP, [p for p in places if p.agreement == name], lambda p: 0 < (p.small_rank or 0) <= SMALL_RANK)
        for name in (DISAGREE, WEAK, AGREE)
    ]


RATE, OF_ALL = "disagree", "share of disagreeing places"


def kinds(places: Sequence[Place]) -> list[Row]:
    """Kinds of tokens: how often the models disagree at each, and which they disagree at."""
    disagreeing = [place for place in places if _disagrees(place)]
    rows = []
    for kind in KINDS:
        rows.append(share(kind, RATE, [place for place in places if place.kind == kind], _disagrees))
        rows.append(share(kind, OF_ALL, disagreeing, lambda place, kind=kind: place.kind == kind))
    return rows


def positions(places: Sequence[Place]) -> list[Row]:
    """Tenths of the answer: how often the models disagree there."""
    here = [[place for place in places if bin_of(place.relative) == number] for number in range(BINS)]
    return [row for number in range(BINS) for row in _agreement(_tenth(number), here[number])]


NUDGED, OF_NUDGES = "nudged", "share of all nudged"


def nudged_kinds(units: Sequence[Unit]) -> list[Row]:
    """Kinds of words and signs: how many of each the nudging model wrote, and which it wrote."""
    nudges = [unit for unit in units if unit.nudged]
    rows = [share("all", NUDGED, units, lambda unit: unit.nudged)]
    for kind in KINDS:
        of_kind = [unit for unit in units if unit.kind == kind]
        rows.append(share(kind, NUDGED, of_kind, lambda unit: unit.nudged))
        rows.append(share(kind, OF_NUDGES, nudges, lambda unit, kind=kind: unit.kind == kind))
    return rows


def nudged_positions(units: Sequence[Unit]) -> list[Row]:
    """Tenths of the answer: how much of each the nudging model wrote."""
    return [
        share(
            _tenth(number),
            NUDGED,
            [unit for unit in units if bin_of(unit.relative) == number],
            lambda unit: unit.nudged,
        )
        for number in range(BINS)
    ]


TOP_1, WHERE, KIND = "the base model's top-1 probability", "place in the answer, 0 its beginning", "kind of token"
# To add one: an entry here, and its direct computation in tests/analysis/test_analyses.py.
ANALYSES = {
    "uncertainty": Analysis(
        "Agreement over the base model's top-1 probability",
        "figure 2",
        PLACES,
        uncertainty,
        TOP_1,
        (DISAGREE, WEAK, ALL),
    ),
    "agreement": Analysis(
        "Agreement everywhere, and where the base model is uncertain",
        "section 2",
        PLACES,
        agreement,
        "places",
        CLASSES,
        "stacked",
    ),
    "small_and_large": Analysis(
        "A small aligned model for a large one",
        "table 1",
        LARGE,
        small_and_large,
        "base and large aligned model",
        (IN_TOP,),
    ),
    "kinds": Analysis("Kinds of tokens at which the models disagree", "section 2", PLACES, kinds, KIND, (RATE, OF_ALL)),
    "positions": Analysis(
        "Where in the answer the models disagree", "not in it", PLACES, positions, WHERE, (DISAGREE, WEAK)
    ),
    "nudged_kinds": Analysis(
        "Kinds of words that were nudged",
        "figure 6 (its total)",
        NUDGES,
        nudged_kinds,
        "kind of word",
        (NUDGED, OF_NUDGES),
    ),
    "nudged_positions": Analysis(
        "Where in the answer nudges fall", "not in it", NUDGES, nudged_positions, WHERE, (NUDGED,)
    ),
}
