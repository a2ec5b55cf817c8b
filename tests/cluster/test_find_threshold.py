"""The search for a threshold: its runs, its table, its plot and what it says, over real runs of run_api.py."""

import csv
import re
import shlex

import pytest
from runs import gsm8k_rows, write_rows

from cluster.find_threshold import main
from cluster.threshold_table import findings
from reporting.run_table import find_runs


@pytest.fixture
def search(server, tmp_path):
    """The command line of a search on the scripted server, whose answers are of no use as answers."""
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(4), "train")
    return [
        *("--base_model", "base-lm", "--base_host", server.host, "--nudging_model", "llama-2-chat"),
        *("--nudging_host", server.host, "--data_dir", f"{tmp_path}/data", "--max_token_total", "24"),
        *("--output_dir", f"{tmp_path}/out", "--num_samples", "3"),
    ]


def table(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_search(search, tmp_path, capfd):
    assert main([*search, "--thresholds", "0.6", "0.3"]) == 0
    out, err = capfd.readouterr()
    assert "questions of the split train of gsm8k, which its experiments do not ask" in err
    rows = table(tmp_path / "out/gsm8k_top_prob.csv")
    assert [(row["experiment"], row["threshold"], row["n"]) for row in rows] == [
        *(("base_only", "", "3"), ("nudging_only", "", "3"), ("nudging", "0.3", "3"), ("nudging", "0.6", "3")),
    ]
    assert sum(row["best"] == "True" for row in rows) == 1 and all(row["engine"] for row in rows)
    for words in ("best: top_prob", "not to be told apart", "the whole run with the best:"):
        assert words in out
    (command,) = (line for line in out.splitlines() if line.startswith("  python run_api.py"))
    words = shlex.split(command)
    assert "--split" not in words and "--num_samples" not in words and "--top_prob_thres" in words
    assert (tmp_path / "out/gsm8k_top_prob.sh").read_text().strip() == command.strip()
    svg = (tmp_path / "out/gsm8k_top_prob.svg").read_text()
    for words in ("gsm8k (train), 3 questions", "base-lm + llama-2-chat", "top_prob", "95 %", "best"):
        assert words in re.sub(r"<[^>]*>|\s+", " ", svg) or words in svg
    assert (tmp_path / "out/gsm8k_top_prob.png").read_bytes()[:4] == b"\x89PNG"
    # Once more, nothing is asked: all runs are there.
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out/gsm8k").rglob("*.json*"))
    assert main([*search, "--thresholds", "0.6", "0.3"]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out/gsm8k").rglob("*.json*")) == before


def test_several_nudging_models_and_another_criterion(search, tmp_path, capfd):
    at = search.index("--nudging_model")
    search[at + 1 : at + 4] = ["llama-2-chat", "gemma-2b-it", "--nudging_host", search[3], search[3]]
    assert main([*search, "--criterion", "margin", "--thresholds", "0.3", "0.8", "--blend", "0.5"]) == 0
    out = capfd.readouterr().out
    rows = table(tmp_path / "out/gsm8k_margin.csv")
    assert [row["experiment"] for row in rows].count("nudging_only") == 2 and len(rows) == 1 + 2 + 4
    assert {row["models"] for row in rows[3:]} == {"base-lm + llama-2-chat", "base-lm + gemma-2b-it"}
    assert {row["blend"] for row in rows[3:]} == {"0.5"} and {row["criterion"] for row in rows[3:]} == {"margin"}
    assert "Criterion margin" in out and "blend 0.5" in out and "best: margin" in out


def test_a_dry_run_starts_nothing(search, tmp_path, capfd):
    assert main([*search, "--thresholds", "0.3", "--dry_run"]) == 0
    out = capfd.readouterr().out
    assert "base alone: gsm8k base_only" in out and "llama-2-chat: gsm8k nudging 0.3" in out and "3 to run" in out
    assert not (tmp_path / "out").exists()


def test_unscored_questions_have_no_best(server, tmp_path, capfd):
    (tmp_path / "mine.txt").write_text("What is it?\nWhere is it?\n")
    code = main(
        [
            *("--base_model", "base-lm", "--base_host", server.host, "--nudging_model", "llama-2-chat"),
            *("--nudging_host", server.host, "--questions", f"{tmp_path}/mine.txt", "--max_token_total", "16"),
            *("--output_dir", f"{tmp_path}/out", "--thresholds", "0.9"),
        ]
    )
    out = capfd.readouterr().out
    assert code == 0 and "nothing is scored, so that no threshold can be called the best" in out
    assert "not scored" in out and "above 20 % this is less a nudged base model" in out
    assert not list((tmp_path / "out").glob("*.sh"))


def test_the_test_split_is_told(search, tmp_path, capfd):
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(4), "test")
    assert main([*search, "--thresholds", "0.3", "--split", "test", "--dry_run"]) == 0
    assert "is looked for on the split test of gsm8k, which its experiments ask" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--thresholds", "1.3"],
            "--thresholds of top_prob are the base model's top-1 probability, 0 to 1; one is 1.3",
        ),
        (["--thresholds", "low"], "--thresholds are numbers, or auto; they are low"),
        (["--criterion", "always"], "--criterion always has no number to look for"),
        (["--top_prob_thres", "0.3"], "--top_prob_thres is the search's own"),
        (["--nudging_host", "http://a/v1", "http://b/v1"], "--nudging_host has 2 entries and --nudging_model 1"),
        (["--questions", "x.txt"], "--data_dir is of a data set, and --questions takes the place of one"),
        (["--num_treads", "3"], "unrecognized arguments: --num_treads 3"),
    ],
)
def test_what_cannot_be(search, more, said, capfd):
    assert main([*search, *more]) == 2
    assert said in capfd.readouterr().err


def test_of_equal_scores_the_least_intervening_is_best(search, tmp_path):
    assert main([*search, "--thresholds", "0.2", "0.9"]) == 0
    runs = [run for run in find_runs([tmp_path / "out"], print) if run.kind == "nudging"]
    for run in runs:
        for record in run.records:
            record["scores"] = {"correct": 1}
        run.figures["accuracy"] = 1.0
    found = findings(runs, None, {})
    assert found.best.run.threshold == 0.2 and [row.run.threshold for row in found.equal] == [0.9]
    for record in runs[0].records:
        record["scores"] = {"correct": 0}
    runs[0].figures["accuracy"] = 0.0
    assert findings(runs, None, {}).best.run is runs[1]
