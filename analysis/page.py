"""The tables and the page of an analysis. What models have written is data in them, never markup or a formula."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.analyses import ANALYSES, Row
from analysis.places import Place
from analysis.plots import save_plot
from analysis.published import LABEL, beside
from command.console import visible
from command.files import ResultsError, write_atomically

HERE = Path(__file__).resolve().parent
COLUMNS = ("place", "counted", "share", "95 % interval", "count", "n", "answers")
PUBLISHED_COLUMNS = ("what", LABEL, "models", "where in arXiv 2410.09300", "here", "95 % interval", "n")
TEXTS = (
    "text",
    "aligned_token",
    "base_token",
)  # columns of places.csv that hold what models wrote: as JSON, quotes around them
HOW = (
    "A place is a token of the answer as the aligned model's tokenizer cuts it; the end of the answer is none. What the aligned "
    "model would write is its most probable token there. The models agree where that is the base model's rank 1, disagree weakly "
    "at rank 2 to 3, and disagree beyond (arXiv 2410.09300, section 2).",
    "Kinds of tokens are read from the text alone, by the rules and word lists of analysis/kinds.py, which are English.",
    "Intervals hold at 95 %: Wilson's, over as many independent places as those of the answers, which are alike within one answer, "
    "amount to (command/intervals.py).",
)


@dataclass
class Findings:
    """What an analysis came to: tables by the name of the analysis, and what they are of.

    `caption` says n, models and engines; `told` the same in lines; `left_out` what is missing and why.
    """

    title: str
    caption: str
    told: list[str]
    tables: dict[str, list[Row]]
    names: list[str]
    places: list[Place] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def percent(value: float | None) -> str:
    """A share as people read it."""
    return "-" if value is None else f"{100 * value:.1f} %"


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, in the order of COLUMNS."""
    return (
        row.label,
        row.series,
        percent(row.share),
        _interval(row),
        f"{row.count:,}",
        f"{row.n:,}",
        f"{row.answers:,}",
    )


def _interval(row: Row) -> str:
    return "-" if row.low is None else f"{100 * row.low:.1f} to {100 * row.high:.1f} %"


def published_rows(tables: Mapping[str, Sequence[Row]]) -> list[tuple[str, ...]]:
    """The published figures beside ours, in the order of PUBLISHED_COLUMNS."""
    return [
        (p.what, p.figure, p.models, p.source, percent(row.share), _interval(row), f"{row.n:,}")
        for p, row in beside(tables)
    ]


def write_files(folder: Path, found: Findings) -> list[Path]:
    """Write all tables, plots and the page into a folder that is there; gives their paths, the page last.

    Raises:
        ResultsError: a file cannot be written.
    """
    written = []

    def write(name: str, text: str) -> None:
        write_atomically(folder / name, text)
        written.append(folder / name)

    try:
        if found.places:
            write("places.csv", places_csv(found.places, found.names))
        for name, rows in found.tables.items():
            write(f"{name}.csv", table_csv(rows, found.caption))
            written.extend(save_plot(folder / name, ANALYSES[name], rows, found.caption))
        if rows := published_rows(found.tables):
            write("published.csv", _csv(PUBLISHED_COLUMNS, rows))
        write("analysis.html", page(found, {n: (folder / f"{n}.png").read_bytes() for n in found.tables}))
    except OSError as error:
        raise ResultsError(f"the tables cannot be written to {folder} ({error}); choose another --output_dir") from None
    return written


def places_csv(places: Sequence[Place], names: Sequence[str]) -> str:
    """One row for each place."""
    rows = []
    for place in places:
        told = asdict(place) | {"answer": names[place.answer], "agreement": place.agreement}
        told |= {name: json.dumps(told[name]) for name in TEXTS}
        rows.append(told)
    return _csv(list(rows[0]), [list(row.values()) for row in rows])


def table_csv(rows: Sequence[Row], caption: str) -> str:
    """One row for each share, which says itself of what it is."""
    columns = ("label", "series", "count", "n", "answers", "share", "low_95", "high_95", "of")
    of = " ".join(visible(caption).split())
    return _csv(columns, [(r.label, r.series, r.count, r.n, r.answers, r.share, r.low, r.high, of) for r in rows])


def _csv(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def page(found: Findings, pngs: Mapping[str, bytes]) -> str:
    """The page: self-contained, without any script."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    css = (HERE / "../reporting/report.css").read_text(encoding="utf-8")
    sections = [
        {
            "name": name,
            "what": ANALYSES[name].what,
            "paper": ANALYSES[name].paper,
            "png": base64.b64encode(pngs[name]).decode(),
            "caption": " ".join(visible(found.caption).split()) + ".",
            "columns": COLUMNS,
            "rows": [cells(row) for row in rows],
        }
        for name, rows in found.tables.items()
    ]
    return environment.get_template("page.html.j2").render(
        title=visible(found.title),
        told=[visible(line) for line in found.told],
        how=HOW,
        sections=sections,
        published=published_rows(found.tables),
        published_columns=PUBLISHED_COLUMNS,
        left_out=[visible(line) for line in found.left_out],
        css=Markup(css),
    )
