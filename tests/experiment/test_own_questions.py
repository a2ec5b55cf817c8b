"""Runs over questions of one's own: --questions, --scoring, --system_prompt, and what reads their results."""

import json
import shutil

import pytest
from runs import final_records, nudging_options, one, run_api
from whole_runs import plain_error, texts

import eval_utils
from experiment.command_line import parse_settings
from experiment.merge import main as merge
from reporting.html_report import report_data, run_labels
from reporting.run_table import find_runs, readable_table, results_table

pytestmark = pytest.mark.slow  # runs the command line, many times

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "I have 3 eggs."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "And 2 more. How many?"},
]
ROWS = [
    {"question": "Tom has 3 apples and buys 6 more. How many?", "answer": 9, "id": "apples", "level": "easy"},
    {"messages": TURNS, "answer": "5", "id": 7},
    {"prompt": "Name a colour.", "id": "colour"},
    {"question": "How many?", "context": "There are 4 cats.", "answer": "4", "id": "cats"},
    {"question": "Say yes.", "answer": "yes", "id": "no number"},
]


def write(folder, rows, name="mine.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(server, folder, questions, *more):
    host = getattr(server, "host", server)
    words = nudging_options(host, "", folder / "out")
    at = words.index("--data_dir")
    return [*words[:at], *words[at + 2 :], "--questions", questions, *more]


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """A run of five questions, nothing said of scoring."""
    folder = tmp_path_factory.mktemp("own")
    done = run_api(*options(server, folder, write(folder, ROWS)))
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture
def copied(finished, tmp_path):
    """The same, to go on from."""
    return shutil.copytree(finished[1], tmp_path / "copy")


class TestWholeRun:
    def test_files_and_records(self, finished):
        folder = finished[1]
        name = "questions_top_prob_0.4_thres_nudging_base-lm_llama-2-chat_None_samples"
        assert (folder / f"out/mine/{name}.txt").exists()
        records = final_records(folder / "out")
        assert [record["id"] for record in records] == ["apples", 7, "colour", "cats", "no number"]
        assert [record["gold_answer"] for record in records] == ["9", "5", "", "4", "yes"]
        assert [record["columns"] for record in records] == [{"level": "easy"}, {}, {}, {}, {}]
        assert records[1]["history"] == TURNS[:3] and "history" not in records[0]
        assert records[3]["context"] == "There are 4 cats.\n\n"
        assert all(record["raw_answer"] and record["scores"] is None for record in records)

    def test_prompts(self, finished):
        records = final_records(finished[1] / "out")
        system = "You are a helpful assistant."
        assert records[0]["full_prefix_base"] == f"{system}\n{ROWS[0]['question']}\n"
        assert (
            records[0]["full_prefix_nudging"] == f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{ROWS[0]['question']} [/INST] "
        )
        assert records[1]["full_prefix_base"] == "Be brief.\nI have 3 eggs.\nNoted.\nAnd 2 more. How many?\n"
        assert records[1]["full_prefix_nudging"] == (
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nI have 3 eggs. [/INST] Noted. </s><s>[INST] And 2 more. How many? [/INST] "
        )
        assert records[1]["system_prompt_base"] == "Be brief." and records[0]["system_prompt_base"] == system
        assert records[3]["full_prefix_base"] == f"{system}\nThere are 4 cats.\n\nHow many?\n"

    def test_no_accuracy_where_nothing_is_scored(self, finished):
        done, folder = finished
        assert "questions: 5 in " in done.stderr and "4 with an answer" in done.stderr
        assert "unscored: --scoring says how" in done.stderr and "warning: split" not in done.stderr
        for word in ("accuracy", "correct", "ratio_rule", "ratio_gpt", "ratio_own"):
            assert word not in done.stdout
        summary = json.loads(one(folder, "*.summary.json").read_text())
        assert (summary["scoring"], summary["unscored"], summary["scored"]) == ("none", 5, 0)
        assert "accuracy" not in summary

    def test_run_json(self, finished):
        run = json.loads(one(finished[1], "*.run.json").read_text())
        assert run["settings"]["dataset_name"] == "mine" and run["scoring"] == "none"
        assert not {"split", "system_prompt", "few_shot"} & run["settings"].keys()
        assert "datasets" not in run["sessions"][0]["versions"]

    def test_table_and_report(self, finished):
        runs = find_runs([finished[1]], pytest.fail)
        assert [(run.data_set, run.kind, run.figures["unscored"]) for run in runs] == [("mine", "nudging", 5)]
        shown = readable_table(results_table(runs))
        assert "Accuracy (95 % interval)" not in shown and shown["Answers"][0] == "5\n5 unscored"
        data = report_data(runs, run_labels(runs))
        assert data["questions"][1]["text"].startswith(
            "[system] Be brief.\n[user] I have 3 eggs.\n[assistant] Noted.\n[user]"
        )
        assert {answer["outcome"] for answer in data["answers"]} == {"unscored"}

    def test_runs_that_are_asked_otherwise_are_told_apart(self, finished, tmp_path):
        path = one(shutil.copytree(finished[1], tmp_path / "other"), "*.run.json")
        run = json.loads(path.read_text())
        run["settings"] |= {"few_shot": 4, "system_prompt": "Be kind."}
        path.write_text(json.dumps(run | {"scoring": "rule"}))
        runs = find_runs([finished[1], tmp_path], pytest.fail)
        asked = ["", '4 questions with answers\nsystem prompt "Be kind."']
        assert sorted(readable_table(results_table(runs))["Asked with"]) == asked
        assert any('4 questions with answers, system prompt "Be kind."' in label for label in run_labels(runs))

    def test_the_text_file_shows_conversations(self, finished):
        text = one(finished[1], "*.txt").read_text()
        assert "[1] [system] Be brief.\n[user] I have 3 eggs." in text


class TestGoingOn:
    def again(self, server, folder, *more, rows=ROWS):
        return run_api(*options(server, folder, write(folder, rows), *more))

    def test_the_same_command_only_reads(self, copied, server):
        before = server.stats()
        again = self.again(server, copied)
        assert again.returncode == 0 and server.stats() == before

    def test_scoring_may_come_later_and_stays(self, copied, server):
        scored = self.again(server, copied, "--scoring", "rule")
        records = final_records(copied / "out")
        assert [record["scores"] is None for record in records] == [False, False, True, False, True]
        correct = sum(record["scores"]["correct"] for record in records if record["scores"])
        shown = readable_table(results_table(find_runs([copied], pytest.fail)))
        assert shown["Scored by"][0] == "rule"
        assert scored.returncode == 0 and f"num_sample 3 correct {correct} ratio_rule" in scored.stdout
        assert "only 3 of 5 samples are in the scores (2 unscored)" in scored.stdout
        again = self.again(server, copied)
        assert (
            f"num_sample 3 correct {correct} ratio_rule" in again.stdout and "unscored: --scoring" not in again.stderr
        )

    def test_rows_may_be_added(self, copied, server):
        more = self.again(server, copied, rows=[*ROWS, {"question": "One more?", "id": "new"}])
        assert more.returncode == 0 and "5 of 6 answers are there already, 1 to go" in more.stderr

    def test_another_answer_is_scored_by_what_it_says_now(self, copied, server):
        assert self.again(server, copied, "--scoring", "rule").returncode == 0
        text = final_records(copied / "out")[0]["raw_answer"]
        rows = [ROWS[0] | {"answer": f"{text} 12345", "level": "hard"}, *ROWS[1:]]
        again = self.again(server, copied, rows=rows)
        assert "1 answers to compare with have changed in the file since; these are scored anew" in again.stderr
        record = final_records(copied / "out")[0]
        assert record["gold_answer"].endswith("12345") and record["columns"] == {"level": "hard"}
        assert record["scores"] == {"correct": 0} and record["raw_answer"] == text

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([ROWS[0] | {"question": "Other?"}, *ROWS[1:]], "asked another question than the file has now in sample 0"),
            (
                [*ROWS[:3], ROWS[3] | {"context": "There are 5 cats."}, ROWS[4]],
                "sample 3 was asked of the base model in another",
            ),
            (
                [ROWS[0], ROWS[1] | {"messages": TURNS[1:]}, *ROWS[2:]],
                'its system prompt was "Be brief.", and is "You are',
            ),
        ],
    )
    def test_other_questions_are_refused(self, copied, server, rows, said):
        assert said in plain_error(self.again(server, copied, rows=rows))

    def test_another_system_prompt_is_refused(self, copied, server, tmp_path):
        told = plain_error(self.again(server, copied, "--system_prompt", "Be kind."))
        assert '--system_prompt was the default, is "Be kind."' in told
        usual = self.again(server, copied, "--system_prompt", "You are a helpful assistant.")
        assert usual.returncode == 0

    def test_shards_make_the_same_run(self, finished, server, tmp_path):
        questions = write(tmp_path, ROWS)
        for shard in ("1/2", "2/2"):
            done = run_api(*options(server, tmp_path, questions, "--shard", shard, "--scoring", "rule"))
            assert done.returncode == 0, done.stderr
        assert merge([str(tmp_path / "out")]) == 0
        unscored = [record | {"scores": None} for record in final_records(tmp_path / "out")]
        assert texts(unscored) == texts(final_records(finished[1] / "out"))
        summary = json.loads(one(tmp_path, "*_samples.summary.json").read_text())
        assert (summary["scoring"], summary["scored"]) == ("rule", 3)
        run = json.loads(one(tmp_path, "*_samples.run.json").read_text())
        assert run["scoring"] == "rule"

    def test_shards_that_are_scored_in_two_ways_are_not_joined(self, server, tmp_path, capsys):
        questions = write(tmp_path, ROWS)
        for shard, scoring in (("1/2", "rule"), ("2/2", "none")):
            assert (
                run_api(*options(server, tmp_path, questions, "--shard", shard, "--scoring", scoring)).returncode == 0
            )
        assert merge([str(tmp_path / "out")]) != 0
        assert "is scored by --scoring none, and shard 1 by rule" in capsys.readouterr().err


class TestScoringLater:
    """eval_utils.py over the same results."""

    FUNCTIONS = (
        "def long(record):\n    return len(record['raw_answer']) > 10\n"
        "def share(record):\n    return None if not record['gold_answer'] else min(1.0, len(record['raw_answer']) / 1000)\n"
        "def fails(record):\n    return 1 / len(record['gold_answer'])\n"
    )

    @pytest.fixture
    def score(self, copied, tmp_path, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        path = one(copied, "*_samples.json")
        (tmp_path / "mine.py").write_text(self.FUNCTIONS)
        return path, lambda *words: eval_utils.main(
            [str(path), *(word.replace("MINE", f"{tmp_path}/mine.py") for word in words)]
        )

    def test_without_a_word_nothing_is_scored(self, score, capsys):
        assert score[1]() == 0
        out = capsys.readouterr()
        assert "accuracy" not in out.out and "unscored: --scoring says how" in out.err

    def test_a_function_of_ones_own(self, score, capsys):
        path, run = score
        assert run("--scoring", "MINE:long") == 0
        assert "num_sample 5 correct 5 ratio_own 1.0000" in capsys.readouterr().out
        assert run() == 0 and "correct 5 ratio_own" in capsys.readouterr().out
        assert json.loads(path.with_suffix(".run.json").read_text())["scoring"].endswith("mine.py:long")

    def test_scores_from_0_to_1_are_a_mean_and_no_count(self, score, capsys):
        path, run = score
        assert run("--scoring", "MINE:share") == 0
        out = capsys.readouterr().out
        assert "num_sample 4 mean_score 0." in out and "mean score, 0 to 1" in out and "accuracy" not in out
        runs = find_runs([path], pytest.fail)
        assert "Mean score, 0 to 1 (95 % interval)" in readable_table(results_table(runs))
        outcomes = [answer["outcome"] for answer in report_data(runs, run_labels(runs))["answers"]]
        assert outcomes == ["rated", "rated", "unscored", "rated", "rated"]

    def test_a_function_that_fails_costs_no_answer(self, score, capsys):
        path, run = score
        assert run("--scoring", "MINE:fails") == 1
        assert "1 answers could not be scored by --scoring" in capsys.readouterr().err
        assert all("error" not in record for record in json.loads(path.read_text()))

    def test_a_judge_and_what_was_paid_for_stays(self, score, capsys, judge_server):
        run = score[1]
        assert run("--scoring", "rule") == 0
        assert run("--scoring", "judge", "--judge_host", judge_server.host) == 0
        out = capsys.readouterr()
        assert "num_sample 4 correct 4 ratio_gpt 1.0000" in out.out
        assert "1 answers stay unscored: there is no gold answer to judge them by" in out.err
        asked = [request["messages"][-1]["content"] for request in judge_server.requests]
        assert len(asked) == 4 and any("[assistant] Noted.\n[user] And 2 more." in text for text in asked)
        assert run("--scoring", "rule") == 2
        assert "has 4 scores of a judge already" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--scoring", "rules"], "--scoring has no choice 'rules'"),
            (["--scoring", "no.py:function"], "no.py"),
            (["--scoring", "MINE:other"], "other"),
            (["--scoring", "rule", "--dataset_name", "gsm8k"], "--scoring is of questions of one's own"),
            (["--dataset_name", "gsm8k"], "leave it out, or take --scoring"),
            (["--scoring", "rule", "--rescore"], "--rescore needs a judge; the answers are scored by --scoring rule"),
        ],
    )
    def test_what_cannot_be(self, score, capsys, words, said):
        assert score[1](*words) == 2
        told = capsys.readouterr().err
        assert said in told and "Traceback" not in told

    def test_a_file_by_itself(self, score, tmp_path, capsys):
        alone = shutil.copy(score[0], tmp_path / "alone.json")
        assert eval_utils.main([str(alone)]) == 2
        assert "or for questions of your own --scoring" in capsys.readouterr().err
        assert eval_utils.main([str(alone), "--scoring", "rule"]) == 0
        assert "num_sample 3 correct" in capsys.readouterr().out


def test_dry_run(tmp_path):
    questions = write(tmp_path, ROWS)
    done = run_api(*options("http://127.0.0.1:1/v1", tmp_path, questions, "--dry_run", "--scoring", "rule"))
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert f"experiment: nudging on mine, questions of {questions}: 5 questions" in done.stdout
    assert "the prompt of row apples" in done.stdout


REFUSED = [
    ("--dataset_name mmlu", "--dataset_name is of a data set"),
    ("--dataset_name gsm8k", "--dataset_name is of a data set"),
    ("--split test", "--split is of a data set"),
    ("--data_dir .", "--data_dir is of a data set"),
    ("--scoring rules", "--scoring has no choice 'rules'"),
    ("--scoring no.py:f", "no.py"),
    ("--few_shot 2", "--few_shot with --questions needs --few_shot_file"),
    ("--few_shot -1", "--few_shot must be 0 or more"),
    ("--few_shot_file mine.jsonl", "--few_shot_file needs --few_shot N"),
    ("--questions no.csv", "--questions: there is no file no.csv"),
    ("--questions gsm8k.csv", "gsm8k is the name of a data set"),
    ("--questions x.pdf", "told by its name's ending"),
    ("--system_prompt @no.txt", "no.txt cannot be read"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_goes_not_together_is_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ROWS)
    with pytest.raises(SystemExit):
        parse_settings([str(word) for word in [*options("http://h:1/v1", tmp_path, "mine.jsonl"), *words.split()]])
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


def test_scoring_is_of_own_questions_alone(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--exp", "base_only", "--base_model", "m", "--base_host", "http://h:1/v1", "--scoring", "rule"])
    assert "--scoring is of --questions" in capsys.readouterr().err


def test_a_system_prompt_of_a_file_for_a_data_set(tmp_path):
    (tmp_path / "system.txt").write_text("Be kind.\n\nAlways.\n")
    base = ["--exp", "base_only", "--base_model", "m", "--base_host", "http://h:1/v1"]
    usual, own = parse_settings(base), parse_settings([*base, "--system_prompt", f"@{tmp_path}/system.txt"])
    assert own.data_set.system_prompt == "Be kind.\n\nAlways." and own.data_set.question_prefix == "Question: "
    assert own.decisive == usual.decisive | {"system_prompt": "Be kind.\n\nAlways."}
    assert own.result_name == usual.result_name and not usual.data_set.is_own
    same = parse_settings([*base, "--system_prompt", usual.data_set.system_prompt])
    assert same.decisive == usual.decisive
