"""--judge rule: answers to the judged data sets are scored without a model, and never mixed with a judge's scores."""

import json
import shutil

import pytest
from runs import one, run_api, write_rows

from command.errors import OptionError
from datasets_loader import DATA_SETS
from eval_utils import main as eval_main
from experiment.judge_settings import JudgeSettings
from experiment.merge import main as merge_main
from experiment.summary import summarise
from reporting.run_table import find_runs, results_table

ROWS = [
    {"question": "Is ice cold?", "answer": True},
    {"question": "Do stones swim?", "answer": False},
    {"question": "Is it so?", "answer": True},
]
REPLIES = {"Is ice cold?": "Yes, it is.", "Do stones swim?": "The answer is yes.", "Is it so?": "Who can say."}


@pytest.fixture
def asked(reply_server, tmp_path):
    """A run of strategyqa over a server that gives these answers, with further options."""

    def reply(path, body):
        if path.endswith("/models"):
            return 200, {}, {"data": [{"id": "m", "object": "model"}]}
        text = next((said for question, said in REPLIES.items() if question in body.get("prompt", "")), "Paris.")
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return 200, {}, {"id": "x", "object": "text_completion", "choices": [choice], "usage": {}}

    server = reply_server(reply)
    write_rows(tmp_path / "data", "strategyqa", ROWS)

    def run(*options):
        return run_api(
            *("--exp", "base_only", "--base_model", "m", "--base_host", server.host, "--dataset_name", "strategyqa"),
            *("--data_dir", tmp_path / "data", "--output_dir", tmp_path / "out", *options),
        )

    return run


def records_of(tmp_path) -> list[dict]:
    (path,) = (tmp_path / "out/strategyqa/all_info").glob("*_samples.json")
    return json.loads(path.read_text())


def test_a_run_is_scored_without_a_judge(asked, tmp_path):
    finished = asked("--judge", "rule")
    assert finished.returncode == 0, finished.stderr
    scores = [record["scores"] for record in records_of(tmp_path)]
    assert [(one["correct"], one["read"]) for one in scores] == [(1, "yes"), (0, "yes"), (0, None)]
    assert {one["judge"] for one in scores} == {"rule: yes_no (version 3)"}
    out = finished.stdout
    assert "num_sample 3 correct 1 ratio_rule 0.3333" in out and "ratio_gpt" not in out
    assert (
        "accuracy, by a rule (no judge's)" in out and "in which the rule can read nothing, counted as wrong  1" in out
    )
    table = results_table(find_runs([tmp_path / "out"], print))
    assert list(table["scored_by"]) == ["rule: yes_no (version 3)"]
    # Once more: nothing to do, and nothing else.
    again = asked("--judge", "rule")
    assert again.returncode == 0 and "ratio_rule 0.3333" in again.stdout


def test_a_judge_does_not_go_on_where_a_rule_has_scored(asked, tmp_path, judge_server, monkeypatch):
    asked("--judge", "rule")
    for more in (("--judge_model", "j", "--judge_host", judge_server.host), ()):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
        refused = asked(*more, "--judge", "auto") if more else run_with_key(asked)
        assert refused.returncode == 2 and "3 by rule: yes_no (version 3)" in refused.stderr
    # Without a judge to ask, the scores stay and are told.
    left = asked()
    assert left.returncode == 0 and "ratio_rule" in left.stdout


def run_with_key(asked):
    """As with the default judge, whose key is there; nothing is sent, since it is refused before."""
    return asked("--judge_host", "http://127.0.0.1:9/v1")


def test_a_rule_does_not_go_on_where_a_judge_has_scored(asked, tmp_path, judge_server):
    judged = asked("--judge_model", "j", "--judge_host", judge_server.host)
    assert judged.returncode == 0, judged.stderr
    refused = asked("--judge", "rule")
    assert refused.returncode == 2
    assert "3 by j" in refused.stderr and "leave --judge out to keep them" in refused.stderr


def test_eval_utils_scores_by_rule_and_rescores(asked, tmp_path, judge_server, capfd):
    asked("--judge", "none")
    file = one(tmp_path / "out", "*_samples.json")
    assert eval_main([str(file), "--judge", "rule"]) == 0
    assert "ratio_rule 0.3333" in capfd.readouterr().out
    judge = ["--judge_model", "j", "--judge_host", judge_server.host]
    assert eval_main([str(file), *judge]) == 2
    assert eval_main([str(file), *judge, "--rescore"]) == 0
    assert "ratio_gpt" in capfd.readouterr().out
    assert eval_main([str(file), "--judge", "rule"]) == 2
    assert eval_main([str(file), "--judge", "rule", "--rescore"]) == 0
    captured = capfd.readouterr()
    assert "ratio_rule 0.3333" in captured.out and "copied aside" in captured.err
    assert {record["scores"]["judge"] for record in records_of(tmp_path)} == {"rule: yes_no (version 3)"}


def test_scores_by_another_version_of_the_rules_are_not_mixed(asked, tmp_path, monkeypatch):
    asked("--judge", "rule")
    for pattern in ("*.jsonl", "*_samples.json"):
        path = one(tmp_path / "out", pattern)
        path.write_text(path.read_text().replace("(version 3)", "(version 0)"))
    refused = asked("--judge", "rule")
    assert refused.returncode == 2 and "3 by rule: yes_no (version 0)" in refused.stderr
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("name", ["justeval", "justeval_safe"])
def test_aspects_cannot_be_read(name):
    with pytest.raises(OptionError, match="rated by aspects from 1 to 5, which no rule can do"):
        JudgeSettings(judge="rule").check_rule(DATA_SETS[name])


@pytest.mark.parametrize(
    ("option", "value"), [("judge_model", "j"), ("judge_host", "http://a/v1"), ("judge_api_key_env", "SOME_KEY")]
)
def test_no_model_beside_a_rule(option, value, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "a-key-of-a-judge")
    with pytest.raises(OptionError, match=f"--judge rule asks no model: leave out --{option}, or --judge"):
        JudgeSettings(judge="rule", **{option: value}).check_rule(DATA_SETS["mmlu"])
    JudgeSettings(judge="rule").check_rule(DATA_SETS["gsm8k"])  # which a rule scores anyway


def test_shards_scored_by_a_rule_and_by_a_judge_do_not_make_one_run(asked, tmp_path, judge_server, capfd):
    asked("--judge", "rule", "--shard", "1/2")
    asked("--judge_model", "j", "--judge_host", judge_server.host, "--shard", "2/2")
    assert merge_main([str(tmp_path / "out")]) == 1
    told = capfd.readouterr().err
    assert "scored in different ways (shard 1 by rule: yes_no (version 3), shard 2 by a judge)" in told
    (judged,) = (tmp_path / "out/strategyqa/all_info").glob("*_shard2of2.json")
    assert eval_main([str(judged), "--judge", "rule", "--rescore"]) == 0
    assert merge_main([str(tmp_path / "out")]) == 0
    assert {record["scores"]["judge"] for record in whole_records(tmp_path)} == {"rule: yes_no (version 3)"}


def whole_records(tmp_path) -> list[dict]:
    (path,) = (
        path for path in (tmp_path / "out/strategyqa/all_info").glob("*_samples.json") if "shard" not in path.name
    )
    return json.loads(path.read_text())


def test_figures_of_mixed_scores_say_so():
    records = [
        {"index": i, "raw_answer": "Yes.", "gold_answer": "true", "scores": {"correct": 1, "judge": judge}}
        for i, judge in enumerate(("m", "rule: yes_no (version 3)"))
    ]
    mixed = summarise(records, "judge", seconds=1)
    assert mixed.published_lines()[-1].startswith("num_sample 2 correct 2 ratio_mixed")
    assert "scored in different ways (no figure to compare)" in mixed.table()
    assert not summarise(records[:1], "judge", seconds=1).is_mixed
