"""analyse.sh as a user runs it, on scripted servers and runs made at test time."""

import csv
import json
import re

import pytest
from made_runs import HOSTILE, nudged_pieces, record, settings, write_run

from analysis import command, scores
from analysis.analyses import ANALYSES, NUDGES

QUESTION = "How many eggs are left?"
ANSWERS = ("There are 12 eggs,\nso 1 is left over.", "First we know that 3 of them are left.", HOSTILE)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"question": QUESTION, "answer": answer}) + "\n" for answer in ANSWERS))
    return path


@pytest.fixture
def models(server):
    def options(large=False):
        named = {"base": "base-lm", "nudging": "llama-2-chat"} | ({"aligned": "llama-2-big-chat"} if large else {})
        return [
            word for role, name in named.items() for word in (f"--{role}_model", name, f"--{role}_host", server.host)
        ]

    return options


def analyse(*options):
    return command.main([str(option) for option in options])


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def nudging_run(folder, n=4, **more):
    made = [record(i, f"{QUESTION} {i}", "#### 1", nudged_pieces(i, 1), 1) for i in range(n)]
    return write_run(
        folder, "split_test_top_prob_0.3_thres_nudging_large_small-chat_None_samples", made, settings("nudging", **more)
    )


def test_texts_on_servers_give_tables_plots_and_a_page_without_markup_of_theirs(texts, models, tmp_path, capsys):
    out = tmp_path / "out"
    assert analyse("--texts", texts, *models(large=True), "--output_dir", out) == 0
    told = capsys.readouterr()
    there = [name for name, one in ANALYSES.items() if one.needs != NUDGES]
    for name in there:
        assert {path.suffix for path in out.glob(f"{name}.*")} == {".csv", ".svg", ".png"}
        assert all("llama-2-big-chat" in row["of"] and "n: " in row["of"] for row in rows(out / f"{name}.csv"))
        assert "base-lm" in (out / f"{name}.svg").read_text()
    places = rows(out / "places.csv")
    total = int(re.search(r"([\d,]+) of [\d,]+ places", told.out)[1].replace(",", ""))
    assert total == len(places) > 30
    assert {place["agreement"] for place in places} == {"agree", "weakly disagree", "disagree"}
    for place in places:
        text, start = json.loads(place["text"]), int(place["start"])
        assert ANSWERS[int(place["answer"].removeprefix("row "))].startswith(text, start)
    page = (out / "analysis.html").read_text()
    assert "<script" not in page and "onerror" not in page.replace("&#34;", "")
    assert "neither" not in told.err and "left out: nudged_kinds" in told.err
    assert "Beside the paper's figures, which are of other models" in told.out and "82.6 / 65.4 / 69.7" in page


def test_hostile_names_are_text_in_page_and_tables(tmp_path):
    name = HOSTILE.replace("\u2028", "")
    assert analyse(nudging_run(tmp_path, base_model=name), "--output_dir", tmp_path / "out") == 0
    page = (tmp_path / "out/analysis.html").read_text()
    assert "&lt;img src=x onerror" in page and "<script" not in page and "<img src=x" not in page
    assert "<script" not in (tmp_path / "out/nudged_kinds.svg").read_text()


def test_nudging_runs_need_no_model(tmp_path, capsys):
    assert analyse(nudging_run(tmp_path), "--output_dir", tmp_path / "out") == 0
    told = capsys.readouterr()
    (all_words,) = [row for row in rows(tmp_path / "out/nudged_kinds.csv") if row["label"] == "all"]
    # Each answer: "First, Nora has N pears. Next, we add N and N Therefore, the answer is 1."
    assert (int(all_words["count"]), int(all_words["n"])) == (4 * 9, 4 * 21)
    assert "criterion top_prob, threshold 0.3" in all_words["of"]
    assert "left out: uncertainty: it needs a base and an aligned model" in told.err
    assert not (tmp_path / "out/scores.jsonl").exists()


def test_an_interrupted_analysis_goes_on_and_gives_the_same(texts, models, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert analyse("--texts", texts, *models(), "--output_dir", whole) == 0
    cut.mkdir()
    lines = (whole / "scores.jsonl").read_text().splitlines(keepends=True)
    (cut / "scores.jsonl").write_text("".join(lines[:2]) + lines[2][:30])
    capsys.readouterr()
    assert analyse("--texts", texts, *models(), "--output_dir", cut) == 0
    assert "2 of 6 scores are known from earlier" in capsys.readouterr().err
    assert (cut / "places.csv").read_text() == (whole / "places.csv").read_text()
    before = (whole / "kinds.csv").read_text()
    assert analyse("--texts", texts, *models(), "--output_dir", whole) == 0  # nobody is asked any more
    assert (whole / "kinds.csv").read_text() == before == (cut / "kinds.csv").read_text()
    assert "base: base-lm (scripted)" in before
    assert sorted((cut / "scores.jsonl").read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_a_stop_keeps_what_is_scored(texts, models, tmp_path, monkeypatch, capsys):
    class Stopped(scores.StopSignals):
        requested = property(lambda self: True)
        exit_code = property(lambda self: 130, lambda self, value: None)

    monkeypatch.setattr(scores, "StopSignals", Stopped)
    assert analyse("--texts", texts, *models(), "--output_dir", tmp_path / "out") == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "out/analysis.html").exists()


def test_an_answer_that_is_too_long_is_named_and_counted(models, tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    told = [{"question": QUESTION, "answer": answer} for answer in (ANSWERS[0], "eggs " * 9000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    assert analyse("--texts", path, *models(), "--output_dir", tmp_path / "out") == 1
    assert re.search(r"not scored: row 1, (base|nudging): .*context", capsys.readouterr().err)
    assert {place["answer"] for place in rows(tmp_path / "out/places.csv")} == {"row 0"}
    assert "row 1, base" in (tmp_path / "out/analysis.html").read_text()


def test_a_dry_run_sends_and_writes_nothing(texts, tmp_path, capsys):
    dead = ["--base_model", "b", "--nudging_model", "llama-2-chat", "--base_host", "http://127.0.0.1:9/v1"]
    dead += ["--nudging_host", "http://127.0.0.1:9/v1", "--output_dir", tmp_path / "out"]
    assert analyse("--texts", texts, *dead, "--dry_run") == 0
    told = capsys.readouterr().out
    assert "[INST]" in told and QUESTION in told and "3 texts of texts.jsonl" in told and "nothing was sent" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, told",
    [
        ([], "name a result file"),
        (["--texts", "TEXTS"], "nothing can be counted"),
        (["--texts", "TEXTS", "--base_model", "b"], "--nudging_model is missing"),
        (["--texts", "TEXTS", "--aligned_host", "http://h:1/v1"], "--aligned_host needs --aligned_model"),
        (["--texts", "TEXTS", "--num_samples", "0"], "--num_samples must be at least 1"),
        (["missing.json"], "missing.json cannot be read"),
        (["RUN.run.json"], "holds no answers"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(options, told, texts, tmp_path, capsys):
    run = nudging_run(tmp_path)
    named = {"TEXTS": texts, "RUN.run.json": run.with_name(run.name.replace(".json", ".run.json"))}
    assert analyse(*(named.get(option, option) for option in options), "--output_dir", tmp_path / "out") == 2
    assert told in capsys.readouterr().err


def test_few_shot_runs_are_refused(tmp_path, capsys):
    assert analyse(nudging_run(tmp_path, few_shot=3), "--output_dir", tmp_path / "out") == 2
    assert "--few_shot 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"key": "a", "engine": "e", "tokens": [[0, "a", "b", []]]}', "{nonsense"]
)
def test_a_spoilt_log_is_told_with_its_line(line, texts, models, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scores.jsonl").write_text(line + "\n")
    assert analyse("--texts", texts, *models(), "--output_dir", tmp_path / "out") == 2
    assert "scores.jsonl, line 1" in capsys.readouterr().err
