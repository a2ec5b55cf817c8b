"""The search for a threshold: its runs, its table, its plot and what it says, over real runs of run_api.py."""

import csv
import json
import os
import re
import shlex
import xml.etree.ElementTree as ET

import pytest
from forked_runs import forked_run_api
from runs import gsm8k_rows, one, run_api, write_rows

from cluster import sweep
from cluster.find_threshold import main

NAME = "gsm8k/split_train_top_prob_thresholds_nudging_base-lm_llama-2-chat_3_samples"


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[list[str]]:
    """The runs that are started, each in a process that has imported run_api.py already."""
    started: list[list[str]] = []

    def run_task(options: list[str]) -> int:
        started.append(options)
        done = forked_run_api(options, dict(os.environ))
        print(done.stdout, done.stderr)
        return done.returncode

    monkeypatch.setattr(sweep, "run_task", run_task)
    return started


@pytest.fixture
def search(server, tmp_path) -> list[str]:
    """The command line of a search on the scripted server."""
    rows = [row | {"answer": "#### 4"} for row in gsm8k_rows(4)]  # as one of the server's answers ends
    write_rows(tmp_path / "data", "gsm8k", rows, "train")
    return [
        *("--base_model", "base-lm", "--base_host", server.host, "--nudging_model", "llama-2-chat"),
        *("--nudging_host", server.host, "--data_dir", f"{tmp_path}/data", "--max_token_total", "24"),
        *("--output_dir", f"{tmp_path}/out", "--num_samples", "3"),
    ]


def table(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def words_of(svg) -> str:
    """The words of a plot, which is well-formed XML."""
    return re.sub(r"\s+", " ", " ".join(ET.fromstring(svg.read_text()).itertext()))


def test_a_search_and_the_command_that_it_ends_with(search, asked, tmp_path, capfd):
    assert main([*search, "--thresholds", "0.6", "0.3"]) == 0
    out, err = capfd.readouterr()
    assert "questions of the split train of gsm8k, while experiments ask those of test" in err
    rows = table(tmp_path / f"out/{NAME}.csv")
    assert [(row["experiment"], row["threshold"], row["n"]) for row in rows] == [
        *(("base_only", "", "3"), ("nudging_only", "", "3"), ("nudging", "0.3", "3"), ("nudging", "0.6", "3")),
    ]
    assert sum(row["best"] == "True" for row in rows) == 1 and all(row["engine"] for row in rows)
    assert {row["of_best_test"] for row in rows if row["of_best_test"]} == {"McNemar's exact test"}
    page = (tmp_path / f"out/{NAME}.md").read_text()
    for told in ("best: threshold", "not to be told apart", "flatters its score", "by McNemar's exact test"):
        assert told in out and told in page
    what = (
        "gsm8k (train), n = 3",
        "base-lm + llama-2-chat",
        "criterion top_prob, threshold 0.3 to 0.6",
        "95 % intervals",
    )
    for told in (*what, "best", "base only", "nudging only"):
        assert told in words_of(tmp_path / f"out/{NAME}.svg")
    assert all(told in page for told in what)
    assert (tmp_path / f"out/{NAME}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "not told apart" in words_of(tmp_path / f"out/{NAME}.svg")
    # Once more, nothing is asked: all runs are there.
    assert len(asked) == 4 and main([*search, "--thresholds", "0.6", "0.3"]) == 0 and len(asked) == 4
    # The whole run is of the experiments' split and of all its questions.
    *_, command = (tmp_path / f"out/{NAME}.sh").read_text().splitlines()
    assert f"  {command}" in out.splitlines()
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(5))
    python, program, *words = shlex.split(command)
    assert (python, program) == ("python", "run_api.py")
    assert run_api(*words, "--output_dir", tmp_path / "whole").returncode == 0
    whole = json.loads(one(tmp_path / "whole", "*.run.json").read_text())
    assert whole["samples"] == 5 and whole["settings"]["split"] == "test"
    best = next(row["threshold"] for row in rows if row["best"] == "True")
    assert whole["settings"]["top_prob_thres"] == float(best) and whole["settings"]["max_token_total"] == 24


def test_a_search_that_was_interrupted_goes_on(search, asked, tmp_path, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_task", lambda options: 143)
        assert main([*search, "--thresholds", "0.3"]) == 143
        assert "the same command continues" in capfd.readouterr().err and not (tmp_path / "out").exists()
    assert main([*search, "--thresholds", "0.3", "--table_only"]) == 2
    assert "none of the 3 runs has an answer yet" in capfd.readouterr().err
    assert main([*search, "--thresholds", "0.3"]) == 0 and len(asked) == 3
    # As a kill leaves it: answers in the log alone.
    (log,) = (tmp_path / "out").rglob("*_0.3_*.jsonl")
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    log.with_suffix(".json").unlink()
    capfd.readouterr()
    assert main([*search, "--thresholds", "0.3", "0.6", "--table_only"]) == 1
    out, err = capfd.readouterr()
    assert "unfinished: llama-2-chat: gsm8k nudging 0.3" in err and "not there: llama-2-chat: gsm8k nudging 0.6" in err
    assert "n = 3" in out and "threshold 0.3 (" in out
    assert main([*search, "--thresholds", "0.3", "0.6"]) == 0 and len(asked) == 5
    assert "unfinished, 1 of 3" in capfd.readouterr().out


def test_several_nudging_models_with_another_criterion_and_a_mixture(search, server, asked, tmp_path, capfd):
    more = ["--nudging_model", "gemma-2b-it", "--criterion", "margin", "--thresholds", "0.3"]
    more += ["--", "--blend", "0.5"]
    assert main([*search, *more]) == 0
    out = capfd.readouterr().out
    rows = table(one(tmp_path / "out", "*.csv"))
    assert one(tmp_path / "out", "*.csv").name == (
        "split_train_margin_thresholds_blend_0.5_nudging_base-lm_llama-2-chat_gemma-2b-it_3_samples.csv"
    )
    assert [row["experiment"] for row in rows] == ["base_only", *["nudging_only"] * 2, *["nudging"] * 2]
    assert [row["models"] for row in rows[3:]] == ["base-lm + llama-2-chat", "base-lm + gemma-2b-it"]
    assert {row["blend"] for row in rows[3:]} == {"0.5"} and {row["criterion"] for row in rows[3:]} == {"margin"}
    assert all(row["to_nudging_n"] == "3" for row in rows[3:]) and len(asked) == 5
    assert "criterion margin, threshold 0.3 (the base model's first probability less its second). blend 0.5" in out
    assert "no answer of the nudged pair is right, so that no threshold can be called the best" in out
    told = words_of(one(tmp_path / "out", "*.svg"))
    assert "llama-2-chat" in told and "gemma-2b-it" in told and "blend 0.5" in told


def test_a_dry_run_starts_nothing(search, asked, tmp_path, capfd):
    assert main([*search, "--dry_run"]) == 0
    out = capfd.readouterr().out
    assert (
        "base-lm: gsm8k base_only" in out and "llama-2-chat: gsm8k nudging 0.9" in out and "11 runs, 11 to run" in out
    )
    assert main([*search, "--dry_run", "--split", "validation"]) == 1
    assert "find_threshold.sh: cannot start: base-lm: gsm8k base_only and 10 more" in capfd.readouterr().err
    assert not (tmp_path / "out").exists() and not asked


def test_unscored_questions_have_no_best(server, tmp_path, capfd):
    (tmp_path / "mine.txt").write_text("What is it?\nWhere is it?\n")
    of_pair = ["--base_model", "base-lm", "--base_host", server.host, "--nudging_model", "llama-2-chat"]
    of_pair += ["--nudging_host", server.host, "--questions", f"{tmp_path}/mine.txt", "--max_token_total", "16"]
    assert main([*of_pair, "--output_dir", f"{tmp_path}/out", "--thresholds", "0.9"]) == 0
    out = capfd.readouterr().out
    assert "nothing is scored, so that no threshold can be called the best" in out
    assert "not scored" in out and "above 20 % this is no nudging but the nudging model with help" in out
    assert "McNemar" not in out and "whole run" not in out and not list((tmp_path / "out").rglob("*.sh"))
    rows = table(one(tmp_path / "out", "questions_*.csv"))
    assert [row["n"] for row in rows] == ["2"] * 3 and all(row["intervention_rate"] for row in rows[2:])
    assert "not scored yet" in words_of(one(tmp_path / "out", "*.svg"))


@pytest.mark.parametrize("split", [["--split", "test"], []])
def test_the_split_of_experiments_is_told(search, tmp_path, capfd, split):
    (tmp_path / "data/gsm8k/train.jsonl").rename(tmp_path / "data/gsm8k/test.jsonl")
    assert main([*search, "--thresholds", "0.3", *split, "--dry_run"]) == 0
    assert "warning: the threshold is looked for on the split test of gsm8k, on which" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--thresholds", "1.3"],
            "--thresholds of --criterion top_prob is the base model's top-1 probability, 0 to 1; it is 1.3",
        ),
        (["--thresholds", "nan"], "0 to 1; it is nan"),
        (["--thresholds", "auto", "0.3"], "--thresholds are numbers, or auto alone; they are auto 0.3"),
        (["--criterion", "always"], "--criterion always has no number to look for"),
        (["--top_prob_thres", "0.3"], "--top_prob_thres is the search's own"),
        (["--", "--threshold=0.3"], "--threshold is the search's own"),
        (["--rerun"], "to start afresh, name another --output_dir"),
        (["--nudging_host", "http://b/v1", "http://c/v1"], "--nudging_host has 3 entries and --nudging_model 1"),
        (["--nudging_model", "org/llama-2-chat"], "would have the same result files"),
        (["--questions", "x.txt"], "--data_dir is of a data set, and --questions takes the place of one"),
        (["--num_treads", "3"], "find_threshold.sh: error: unrecognized arguments: --num_treads 3"),
    ],
)
def test_what_cannot_be(search, asked, tmp_path, more, said, capfd):
    assert main([*search, *more]) == 2
    assert said in capfd.readouterr().err and not asked and not (tmp_path / "out").exists()
