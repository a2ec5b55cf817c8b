"""Tests of reporting/run_table.py and scripts/results_table.py."""

import io
import json

import pandas as pd
import pytest
from made_runs import HOSTILE, failed, nudged_pieces, record, settings, write_run, write_small_runs

from command.files import ResultsError
from reporting.run_pace import Pace, pace
from reporting.run_table import find_runs, readable_table, results_table, visible
from reporting.table import main, markdown


def found(*paths):
    warnings = []
    return find_runs(paths, warnings.append), warnings


def test_a_folder_gives_one_row_per_run_in_order(tmp_path):
    write_small_runs(tmp_path)
    runs, warnings = found(tmp_path)
    table = results_table(runs)
    assert warnings == []
    assert list(table["experiment"]) == ["base_only", "nudging", "nudging", "nudging", "ensemble"]
    assert [t for t in table["threshold"] if t == t] == [0.2, 0.4, 0.6]
    assert list(table["n"]) == [4] * 5
    assert list(table["failed"]) == [0, 0, 0, 1, 0]
    assert list(table["accuracy"])[:4] == [0.25, 0.25, 0.75, pytest.approx(2 / 3)]
    assert table["unscored"].iloc[4] == 4
    assert table["accuracy_low"].iloc[2] < 0.75 < table["accuracy_high"].iloc[2]
    assert table["models"].iloc[1] == "large + small-chat"
    assert table["requests_base"].iloc[0] == 2


def test_figures_are_made_of_the_records_and_not_of_an_earlier_summary(tmp_path):
    """A version before this one counted no word where the published program counts one, under the same name."""
    rows = [
        record(0, "q", "#### 1", [("So", " it is 1.")], 1),
        record(1, "q2", "#### 2", [("It is", " 2."), (" So", "")], 1),
    ]
    path = write_run(tmp_path, "run", rows, settings("nudging"))
    earlier = {"answered": 2, "mean_num_nudging": 1.0, "mean_ratio_nudging": 0.25}
    path.with_name("run.summary.json").write_text(json.dumps(earlier))
    table = results_table(found(tmp_path)[0])
    assert table["intervention_rate"].iloc[0] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert table["nudged_character_share"].iloc[0] == pytest.approx((2 + 5 + 3) / (11 + 11))
    shown = readable_table(table)
    assert shown["Intervention rate, as published"].iloc[0] == "37.5 %"
    assert shown["Nudged characters, of all"].iloc[0] == "45.5 %"


def test_published_answers_without_scores_in_a_folder_of_any_name(tmp_path):
    rows = [record(i, "q", "answer", "1", 1) | {"scores": -1} for i in range(2)]
    path = tmp_path / "elsewhere" / "all_info" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))
    (run,), warnings = found(tmp_path)
    assert (run.figures["answered"], run.figures["unscored"], run.data_set, warnings) == (2, 2, None, [])


def test_any_file_of_a_run_names_it_and_none_counts_twice(tmp_path):
    path = write_run(tmp_path, "run", [record(0, "q", "#### 1", "1", 1)], settings("base_only"))
    (tmp_path / "gsm8k" / "run.txt").write_text("readable")
    names = ("run.json", "run.jsonl", "run.run.json", "run.summary.json")
    (path.parent / names[3]).write_text("{}")
    every = [*(path.parent / name for name in names), tmp_path / "gsm8k" / "run.txt"]
    for one in every:
        assert len(found(one)[0]) == 1
    assert len(found(*every, tmp_path, path.parent)[0]) == 1


def test_what_rerun_has_set_aside_is_left_out(tmp_path):
    path = write_run(tmp_path, "run", [record(0, "q", "#### 1", "1", 1)], settings("base_only"))
    aside = path.parent / "replaced-20260101-000000-000000"
    aside.mkdir()
    (aside / "run.json").write_text(path.read_text())
    below = aside / "all_info"
    below.mkdir()
    (below / "run.json").write_text(path.read_text())
    assert [run.path.parent for run in found(tmp_path)[0]] == [path.parent]


def test_a_run_in_progress_is_unfinished(tmp_path):
    path = write_run(tmp_path, "run", [record(0, "q", "#### 1", "1", 1)], settings("base_only"), finished=False)
    with path.open("a") as file:
        file.write('{"index": 1, "quest')  # what a kill leaves
    (run,), _ = found(tmp_path)
    assert not run.finished and len(run.records) == 1
    assert readable_table(results_table([run]))["State"].iloc[0] == "unfinished"


@pytest.mark.parametrize(
    ("name", "kind", "models", "threshold", "num_samples"),
    [
        (
            "split_test_top_prob_0.4_thres_nudging_big-13b_chat-7b_100_samples",
            "nudging",
            ("big-13b", "chat-7b"),
            0.4,
            100,
        ),
        ("split_test_mine_top_prob_0.3_thres_nudging_a_b_None_samples", "nudging", ("a", "b"), 0.3, None),
        ("split_test_top_prob_0.3_thres_nudging_a_b_c_5_samples", "nudging", ("a_b_c",), 0.3, 5),
        ("split_default_proxy_tuning_a_b_7_samples", "proxy_tuning", ("a", "b"), None, 7),
        ("split_gpt_3.5_turbo_0301_ensemble_a_b_7_samples", "ensemble", ("a", "b"), None, 7),
        ("split_test_big-13b_1000_samples", "base_only", ("big-13b",), None, 1000),
        ("something else", None, (), None, None),
    ],
)
def test_a_published_file_is_told_by_its_name(tmp_path, name, kind, models, threshold, num_samples):
    rows = [record(0, "q", "#### 1", "1", 1) | {"full_prefix_base": "q"}]
    rows[0].pop("usage"), rows[0].pop("seconds"), rows[0].pop("index")
    path = write_run(tmp_path, name, rows, None)
    path.with_suffix(".jsonl").unlink() if "." not in name else (path.parent / f"{name}.jsonl").unlink()
    (run,), warnings = found(path)
    assert (run.data_set, run.kind, run.models, run.threshold, run.num_samples) == (
        "gsm8k", kind, models, threshold, num_samples
    )  # fmt: skip
    assert run.settings == {} and run.finished and warnings == []
    assert "unknown" not in readable_table(results_table([run]))["Data set"].iloc[0]


def test_a_file_outside_any_layout_has_no_data_set(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([{"question": "q", "raw_answer": "a", "gold_answer": "", "scores": None}]))
    (run,), _ = found(path)
    assert run.data_set is None and run.kind is None and run.models == ()
    shown = readable_table(results_table([run]))
    assert shown["Data set"].iloc[0] == "unknown"
    both = [run, *found(write_run(tmp_path, "b", [record(0, "q", "1", "1", 1)], settings("base_only")))[0]]
    assert sorted(readable_table(results_table(both))["Data set"]) == ["gsm8k", "unknown"]


def test_scores_by_aspects(tmp_path):
    scores = {"helpfulness": {"score": 4, "reason": ""}, "clarity": {"score": 2, "reason": ""}}
    for aspect in ("factuality", "depth", "engagement"):
        scores[aspect] = {"score": 3, "reason": ""}
    rows = [record(i, "q", "", "a", None) | {"scores": scores | {"mean": 3 + i}} for i in range(2)]
    write_run(tmp_path, "run", rows, settings("base_only", dataset_name="justeval"))
    table = results_table(found(tmp_path)[0])
    assert table["mean_score"].iloc[0] == 3.5
    assert readable_table(table)["Mean score, 1 to 5 (95 % interval)"].iloc[0] == "3.50 (2.52 to 4.48)"


def with_metadata(path, **metadata):
    """Put more into a run's run.json."""
    told = path.parent / f"{path.stem}.run.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | metadata))


def test_latency_and_answers_per_minute_are_two_columns(tmp_path):
    rows = [record(i, f"q{i}", "1", "1", 1) | {"seconds": 8.0} for i in range(6)] + [failed(6, "q6", "1", "gone")]
    path = write_run(tmp_path, "run", rows, settings("base_only"))
    with_metadata(path, all_settings={"num_threads": 4}, sessions=[{"seconds": 5.0}, {"seconds": 7.0}])
    table = results_table(found(tmp_path)[0])
    assert list(table.columns[-4:]) == ["latency_seconds", "at_a_time", "answers_per_minute", "file"]
    assert [table[name].iloc[0] for name in table.columns[-4:-1]] == [8.0, 4, 30.0]
    shown = readable_table(table)
    assert shown["Latency, s per answer"].iloc[0] == "8.00 (at 4 at a time)"
    assert shown["Answers per minute"].iloc[0] == "30.0"


@pytest.mark.parametrize(
    ("metadata", "change", "at_a_time", "per_minute"),
    [
        ({}, {}, None, None),
        ({"all_settings": {"num_threads": 20}}, {}, 2, None),
        ({"sessions": [{"seconds": 60}]}, {}, None, 2.0),
        ({"sessions": [{"seconds": 60}, {"start": "killed"}]}, {}, None, None),
        ({"sessions": [{"seconds": 60}], "merged_from": ["a", "b"]}, {}, None, None),
        ({"sessions": [{"seconds": 60}], "answers_of_unknown_settings": 1}, {}, None, None),
        ({"sessions": [{"seconds": 60}]}, {"scores": {"correct": 1, "judge": "j"}}, None, None),
        ({"sessions": [{"seconds": 0}]}, {}, None, None),
        ({"sessions": []}, {}, None, None),
        ({"sessions": 7, "all_settings": []}, {}, None, None),
        ({"sessions": [{"seconds": "long"}], "all_settings": {"num_threads": "x"}}, {}, None, None),
    ],
)
def test_the_pace_is_left_out_where_the_files_do_not_tell_it(metadata, change, at_a_time, per_minute):
    rows = [record(i, "q", "1", "1", 1) | change for i in range(2)]
    assert pace(metadata, rows) == Pace(0.5, at_a_time, per_minute)


def test_without_records_there_is_no_pace():
    assert pace({"sessions": [{"seconds": 60}]}, []) == Pace(None, None, None)


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[1]", '[{"scores": 3}]', '[{"all_nudging_words": 1}]', "[]", "\x00", '[{"scores": {"x": 1}}]'],
)
def test_one_damaged_file_among_many_is_named_and_left_out(tmp_path, content):
    write_small_runs(tmp_path)
    bad = tmp_path / "gsm8k" / "all_info" / "bad.json"
    bad.write_text(content)
    runs, warnings = found(tmp_path)
    assert len(runs) == 5
    assert len(warnings) == 1 and "bad.json" in warnings[0] and "\n" not in warnings[0]
    with pytest.raises(ResultsError, match=r"bad\.json"):
        find_runs([bad], print)


def test_a_damaged_run_json_costs_the_settings_alone(tmp_path):
    path = write_run(tmp_path, "split_test_big_3_samples", [record(0, "q", "1", "1", 1)], settings("base_only"))
    (path.parent / "split_test_big_3_samples.run.json").write_text("{")
    (run,), warnings = found(tmp_path)
    assert run.models == ("big",) and run.data_set == "gsm8k" and len(warnings) == 1


@pytest.mark.parametrize("arguments", [["nowhere"], ["."]])
def test_nothing_found_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("results_table.py: error: ") and error.count("\n") == 1


def test_markdown_stays_a_table_whatever_the_names_hold(tmp_path):
    rows = [record(0, "q", "#### 1", nudged_pieces(0, 1), 1), failed(1, "q", "1", "gone")]
    write_run(tmp_path, "run", rows, settings("nudging", base_model=HOSTILE + "|a\x1b[31m\n\ud800"))
    lines = markdown(results_table(found(tmp_path)[0])).splitlines()
    assert len(lines) == 3
    assert "<" not in lines[2] and "\x1b" not in lines[2] and "\\x1b" in lines[2] and "\\|a" in lines[2]


def test_csv_has_every_figure_and_reads_back(tmp_path, capsys):
    write_small_runs(tmp_path)
    assert main([str(tmp_path), "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["accuracy"].iloc[2] == 0.75 and table["requests_nudging"].iloc[1] == 2
    assert main([str(tmp_path), "-o", str(tmp_path / "table.md")]) == 0
    assert (tmp_path / "table.md").read_text().startswith("| Data set")
    assert main([str(tmp_path), "-o", str(tmp_path / "no" / "table.md")]) == 2


def test_visible_keeps_text_and_shows_what_cannot_be_seen():
    assert visible("naïve 中文 🙂\n\t") == "naïve 中文 🙂\n\t"
    assert visible("\x00\x1b\r\x85\u202e\udc80") == "\\x00\\x1b\\x0d\\x85\\u202e\\udc80"
