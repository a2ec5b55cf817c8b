"""The paper's table with our figures beside the published ones."""

import csv
import json

import pandas as pd
import pytest
from runs import REPOSITORY, gsm8k_rows, write_rows
from sweeps import PAIR, write

from cluster import paper_table
from reporting.run_table import find_runs


def test_published_averages_are_those_of_the_cells():
    """Each printed average is the mean of its row but for rounding: no cell was copied wrongly."""
    for row, figures in paper_table.PUBLISHED.items():
        assert sum(figures[:-1]) / 11 == pytest.approx(figures[-1], abs=0.11), row


def test_dry_run_and_an_empty_table(tmp_path, capsys):
    assert paper_table.main(["--dry_run", "--only", "olmo"]) == 0
    assert "44 runs, 44 to run" in capsys.readouterr().out
    config = tmp_path / "p.toml"
    config.write_text((REPOSITORY / "scripts/paper_table.toml").read_text().replace("outputs/", f"{tmp_path}/"))
    assert paper_table.main(["--table_only", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "| olmo     | nudging       | 24.2 / – " in shown and shown.count("\n| ") == 13


@pytest.mark.slow
def test_our_figures_beside_the_published_ones(run_sweep, server, tmp_path, capfd):
    write_rows(tmp_path, "gsm8k", gsm8k_rows(4))
    text = 'experiments = ["nudging"]\n' + PAIR.replace("small", "llama-2") + "thresholds = [0.4]\n"
    path = write(tmp_path, text, server.host)
    assert run_sweep(path).returncode == 0
    assert paper_table.main(["--table_only", "--config", str(path)]) == 0
    shown = capfd.readouterr().out
    (run,) = find_runs([tmp_path / "out"], print)
    assert f"46.2 / {100 * run.figures['accuracy']:.1f} ± " in shown and "published figures lie inside" in shown
    assert (tmp_path / "out/paper_table.csv").read_text().count("\n") == 2


@pytest.mark.slow
def test_a_figure_over_fewer_samples_says_so(run_sweep, server, tmp_path, capfd):
    write_rows(tmp_path, "gsm8k", gsm8k_rows(4))
    text = 'experiments = ["nudging"]\n' + PAIR.replace("small", "llama-2") + "thresholds = [0.4]\n"
    path = write(tmp_path, text, server.host)
    assert run_sweep(path).returncode == 0
    (run,) = find_runs([tmp_path / "out"], print)
    log, final = run.path, run.path.with_suffix(".json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records[1] = {key: value for key, value in records[1].items() if key != "raw_answer"} | {"error": "no server"}
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert paper_table.main(["--table_only", "--config", str(path)]) == 0
    assert " (3 of 4 scored)" in capfd.readouterr().out
    final.unlink()
    assert paper_table.main(["--table_only", "--config", str(path)]) == 0
    assert " (3 of 4 scored, unfinished)" in capfd.readouterr().out
    (row,) = csv.DictReader((tmp_path / "out/paper_table.csv").read_text().splitlines())
    assert (row["n"], row["samples"], row["finished"]) == ("3", "4", "False")


def test_a_config_of_other_pairs(tmp_path, capsys):
    assert paper_table.main(["--table_only", "--config", str(write(tmp_path, ""))]) == 2
    assert "none of the config's runs is in the paper's table" in capsys.readouterr().err


def test_the_papers_table_says_what_a_rule_has_scored():
    cell = {"published": 70.0, "ours": 60.0, "low": 50.0, "high": 70.0, "n": 9, "samples": 9, "finished": True}
    rows = [
        {
            "family": "llama-2",
            "row": paper_table.ROWS["nudging"],
            "data_set": task,
            "by": None if task == "gsm8k" else "rule: choice",
        }
        | cell
        for task in paper_table.TASKS
    ]
    text = paper_table.readable(pd.DataFrame(rows))
    assert text.count("(by rule)") == len(paper_table.TASKS) - 1 and text.count("60.0 (partly by rule)") == 1
    assert "by rule" not in paper_table.readable(pd.DataFrame([row | {"by": None} for row in rows]))
