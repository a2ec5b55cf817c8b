"""What the paper (arXiv 2410.09300) says of its models, beside what was found: other models, other answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.analyses import ALL, IN_TOP, NUDGED, OF_DISAGREEING, UNCERTAIN, VERY_UNCERTAIN, Row
from analysis.places import DISAGREE

LABEL = "published, of other models"


@dataclass(frozen=True)
class Published:
    """A published figure: what it says, its text, of which models and where, and the row of ours that counts the same."""

    what: str
    figure: str
    models: str
    source: str
    analysis: str
    label: str
    series: str


_FAMILIES = {
    "Llama-2": (82.6, 65.4, 69.7),
    "Gemma-2": (87.6, 58.2, 59.6),
    "OLMo": (38.0, 42.7, 46.9),
}
_BELOW, _FAR_BELOW = f"top-1 below {UNCERTAIN:g}", f"top-1 below {VERY_UNCERTAIN:g}"
PUBLISHED = (
    Published(
        f"places where the base model's top-1 probability is below {UNCERTAIN:g}",
        "about 11 %",
        "the paper's",
        "section 2, figure 2",
        "agreement",
        _BELOW,
        ALL,
    ),
    Published(
        f"disagreeing places that lie below {UNCERTAIN:g}",
        "over 80 %",
        "the paper's",
        "section 2, figure 2",
        "agreement",
        _BELOW,
        OF_DISAGREEING,
    ),
    Published(
        f"places below {VERY_UNCERTAIN:g} at which the models disagree",
        "over 90 %",
        "the paper's",
        "section 2, figure 2",
        "agreement",
        _FAR_BELOW,
        DISAGREE,
    ),
    *(
        Published(
            "the large aligned model's token is in the small one's top 3, where base and aligned model disagree",
            f"{figures[0]} / {figures[1]} / {figures[2]} % (GSM8K / MMLU / just-eval)",
            family,
            "table 1",
            "small_and_large",
            DISAGREE,
            IN_TOP,
        )
        for family, figures in _FAMILIES.items()
    ),
    Published(
        "words and signs that were nudged (the paper counts tokens)",
        "about 10 %",
        "the paper's",
        "figure 6",
        "nudged_kinds",
        "all",
        NUDGED,
    ),
)


def beside(tables: Mapping[str, Sequence[Row]]) -> list[tuple[Published, Row]]:
    """The published figures with the rows of ours that count the same, where there are some."""
    found = []
    for published in PUBLISHED:
        rows = tables.get(published.analysis, ())
        row = next((r for r in rows if (r.label, r.series) == (published.label, published.series)), None)
        if row is not None:
            found.append((published, row))
    return found
