"""One table of runs, a row each, as Markdown or CSV.

    python scripts/results_table.py outputs [--format markdown|csv] [-o FILE]

CSV has every figure unrounded, a column each (shares from 0 to 1); Markdown is for people.
"""

import pandas as pd

from command.console import Command
from command.options import Parser
from command.paths import user_path
from reporting.run_table import find_runs, readable_table, results_table


def escaped(text: str) -> str:
    """A text for a cell of a Markdown table: what it holds of Markdown's and HTML's own signs is written out."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", "; "), ("\t", " ")):
        text = text.replace(sign, written)
    return text


def markdown(table: pd.DataFrame) -> str:
    """A `results_table` as a Markdown table."""
    return readable_table(table).map(escaped).to_markdown(index=False, disable_numparse=True) + "\n"


def csv(table: pd.DataFrame) -> str:
    """A `results_table` as CSV."""
    return table.to_csv(index=False)


def main(argv: list[str] | None = None) -> int:
    """Print or write the table; returns the exit code: 0, or 2 if there is nothing to show or no place to write to."""
    parser = Parser(description="One table of runs, a row each.")
    parser.add_argument("results", nargs="+", type=user_path, help="result files, or folders that hold some")
    parser.add_argument("--format", choices=("markdown", "csv"), default="markdown", help="the table's form")
    parser.add_argument(
        "-o", "--output", type=user_path, metavar="FILE", help="write to a file (default: standard output)"
    )
    options = parser.parse_args(argv)

    command = Command("results_table.py")

    def work() -> int:
        table = results_table(find_runs(options.results, lambda message: command.note(f"left out: {message}")))
        text = {"markdown": markdown, "csv": csv}[options.format](table)
        if options.output is None:
            command.show(text, end="")
        else:
            options.output.write_text(text, encoding="utf-8")
        return 0

    return command.run(work, errors=(OSError,))
