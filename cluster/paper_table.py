"""The main table of the nudging paper: the sweep that makes it, and the published figures beside ours.

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300), main table:
zero-shot accuracy in percent. scripts/paper_table.sh starts it.
"""

import statistics
from pathlib import Path

import pandas as pd

from cluster import sweep
from cluster.sweep_config import Task, read_sweep
from command.console import Command
from command.files import ResultsError
from command.options import Parser
from command.paths import user_path
from reporting.run_table import Run, find_runs

TASKS = (
    *("gsm8k", "svamp", "multiarith", "mmlu", "arc_challenge", "csqa", "strategyqa"),
    *("date", "sports", "coin_flip", "last_letter_concat"),
)
ROWS = {"base_only": "base", "nudging_only": "nudging model", "aligned_only": "large aligned", "nudging": "nudging"}
# By pair and experiment: the tasks in the order of TASKS, and the printed average.
PUBLISHED = {
    ("llama-2", "base_only"): (10.0, 11.7, 4.4, 26.6, 78.3, 42.2, 62.7, 44.7, 42.1, 47.7, 1.3, 33.8),
    ("llama-2", "nudging_only"): (25.5, 43.3, 62.8, 40.9, 54.1, 52.2, 50.4, 33.9, 51.7, 45.0, 7.3, 42.5),
    ("llama-2", "aligned_only"): (48.5, 64.0, 63.9, 57.4, 77.6, 70.3, 58.9, 48.8, 64.9, 38.3, 31.3, 56.7),
    ("llama-2", "nudging"): (46.2, 63.3, 71.1, 57.4, 75.9, 59.2, 60.0, 47.7, 59.5, 57.4, 38.7, 57.9),
    ("gemma-2", "base_only"): (6.7, 8.3, 7.0, 17.7, 24.2, 16.0, 21.3, 12.5, 7.9, 7.6, 6.7, 12.4),
    ("gemma-2", "nudging_only"): (63.8, 72.3, 92.2, 57.5, 78.6, 70.0, 53.4, 30.4, 56.2, 33.9, 4.7, 55.7),
    ("gemma-2", "aligned_only"): (85.4, 86.7, 99.4, 75.1, 92.7, 71.7, 70.6, 69.6, 74.3, 11.3, 82.0, 74.4),
    ("gemma-2", "nudging"): (74.6, 77.0, 92.2, 66.8, 88.9, 69.8, 62.3, 49.9, 63.0, 42.7, 86.0, 70.3),
    ("olmo", "base_only"): (18.8, 16.7, 35.0, 22.5, 37.1, 71.0, 40.6, 15.2, 38.5, 22.4, 0.0, 28.9),
    ("olmo", "nudging_only"): (10.2, 12.0, 34.4, 31.6, 37.1, 56.6, 64.2, 4.3, 44.5, 49.1, 0.0, 31.3),
    ("olmo", "aligned_only"): (14.1, 22.7, 32.8, 49.8, 60.3, 70.9, 61.3, 9.8, 64.6, 44.9, 0.0, 39.2),
    ("olmo", "nudging"): (24.2, 30.7, 71.1, 41.3, 47.0, 68.5, 62.9, 6.0, 49.9, 47.1, 0.0, 40.8),
}


def comparison(tasks: list[Task], runs: list[Run]) -> pd.DataFrame:
    """One row per family, experiment and data set: the published accuracy, ours with its interval, and the difference.

    Accuracies are in percent. "inside" says whether the published figure lies in our 95 % interval; what there is no scored
    result for is None. `n` of `samples` are scored; `finished` is False of a run that has yet to
    answer more.
    """
    by_file = {run.path.resolve().with_suffix(""): run for run in runs}
    rows: dict[tuple, dict] = {}
    for task in tasks:
        s = task.settings
        published = PUBLISHED.get((task.pair, task.experiment))
        if published is None or s.dataset_name not in TASKS:
            continue
        row = {
            "family": task.pair,
            "row": ROWS[task.experiment],
            "data_set": s.dataset_name,
            "published": published[TASKS.index(s.dataset_name)],
            **dict.fromkeys(("ours", "low", "high", "difference", "inside", "n", "samples", "finished", "by")),
        }
        run = by_file.get(task.whole_files.json.resolve().with_suffix(""))
        if run is not None and "accuracy" in run.figures:
            low, high = (100 * bound for bound in run.figures["accuracy_interval_95"])
            ours = 100 * run.figures["accuracy"]
            row |= {"ours": ours, "low": low, "high": high, "difference": ours - row["published"]}
            row |= {"inside": low <= row["published"] <= high, "n": run.figures["scored"]}
            row |= {"samples": run.figures["samples"], "finished": run.finished, "by": run.scored_by}
        rows[task.pair, task.experiment, s.dataset_name] = row
    return pd.DataFrame(rows.values(), columns=["family", "row", "data_set", "published", "ours", "low", "high",
                                                "difference", "inside", "n", "samples", "finished", "by"])  # fmt: skip


def readable(table: pd.DataFrame) -> str:
    """The comparison in the paper's shape as Markdown: a row per family and experiment, in a cell "published / ours ± half"."""
    lines = []
    for (family, row), group in table.groupby(["family", "row"], sort=False):
        cells = {"Family": family, "Row": row}
        for task in TASKS:
            found = group[group["data_set"] == task]
            cells[task] = _cell(found.iloc[0]) if len(found) else ""
        known = group.dropna(subset=["ours"])
        experiment = next(name for name, shown in ROWS.items() if shown == row)
        # Only a full row has an average that the printed one compares with.
        ours = f"{statistics.mean(known['ours']):.1f}" if len(known) == len(TASKS) else "–"
        partly = " (partly by rule)" * bool(ours != "–" and known["by"].notna().any())
        cells["average"] = f"{PUBLISHED[family, experiment][-1]:.1f} / {ours}{partly}"
        lines.append(cells)
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _cell(row: pd.Series) -> str:
    if pd.isna(row["ours"]):
        return f"{row['published']:.1f} / –"
    notes = [f"{row['n']:.0f} of {row['samples']:.0f} scored"] * bool(row["n"] < row["samples"])
    notes += ["unfinished"] * (not bool(row["finished"]))
    notes += ["by rule"] * bool(not pd.isna(row["by"]))
    half = (row["high"] - row["low"]) / 2
    return f"{row['published']:.1f} / {row['ours']:.1f} ± {half:.1f}" + (f" ({', '.join(notes)})" if notes else "")


def main(argv: list[str] | None = None) -> int:
    """Run the sweep and print the table; returns the sweep's exit code."""
    parser = Parser(
        prog="paper_table.sh",
        description="The paper's main table: the sweep that makes it, published figures beside ours.",
    )
    option = parser.add_argument
    option("--dry_run", action="store_true", help="list the runs and what has become of each; start nothing")
    option("--slurm", action="store_true", help="submit them as a Slurm job array and return")
    option("--table_only", action="store_true", help="print the table of the results that are there; run nothing")
    option("--only", metavar="FAMILY", help="llama-2, gemma-2 or olmo alone")
    option(
        "--config",
        type=user_path,
        default=sweep.ROOT / "scripts/paper_table.toml",
        metavar="FILE",
        help="the sweep (default: scripts/paper_table.toml)",
    )
    options = parser.parse_args(argv)
    words = [str(options.config), *(["--only", options.only] if options.only else [])]
    words += [f"--{name}" for name in ("dry_run", "slurm", "table_only") if getattr(options, name)]

    def work() -> int:
        config = read_sweep(options.config, options.only)
        if options.table_only and not config.output_dir.is_dir():
            print_table(config.tasks, [], None)
            return 0
        code = sweep.main(words)
        if code in (0, 1) and not (options.dry_run or options.slurm):
            runs = find_runs([config.output_dir], lambda _: None)
            print_table(config.tasks, runs, config.output_dir)
        return code

    return Command("paper_table.sh").run(work, errors=(OSError,))


def print_table(tasks: list[Task], runs: list[Run], folder: Path | None) -> None:
    """Print the comparison, and write it to paper_table.csv and .md in a folder."""
    table = comparison(tasks, runs)
    if table.empty:
        raise ResultsError("none of the config's runs is in the paper's table; its pairs are llama-2, gemma-2 and olmo")
    text = readable(table)
    print(f"\nAccuracy in %: published / ours, with half of its 95 % interval (–: no scored result yet)\n\n{text}")
    known = table.dropna(subset=["ours"])
    if len(known):
        print(f"\n{int(known['inside'].sum())} of {len(known)} published figures lie inside our 95 % intervals")
    if folder is not None:
        table.to_csv(folder / "paper_table.csv", index=False)
        (folder / "paper_table.md").write_text(text + "\n", encoding="utf-8")
        print(f"table: {folder / 'paper_table.csv'} and {folder / 'paper_table.md'}")
