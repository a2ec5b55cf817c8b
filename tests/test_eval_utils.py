import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import eval_utils
from command.intervals import mean_interval, wilson_interval
from experiment.rules import last_number, rule_score

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "text, number",
    [
        ("1,200", 1200),
        ("It is 3.", 3),
        ("$18.", 18),
        ("3.50 euros", 3.5),
        ("from 7 to 12 of 1,234,567.25 m", 1234567.25),
        ("12 apples, then 5, and so on", 5),
        ("1,20", 20),  # a comma separates thousands alone
        ("-4", 4),
        ("twelve", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    "answer, gold, correct",
    [
        ("So the total is $1,200.", "50 + 1150 = 1,200\n#### 1,200", 1),
        ("It is 6.0.", "#### 6", 1),
        ("6, or is it 7?", "#### 6", 0),
        ("It is 31", "( 48.0 - 17.0 ) = 31", 1),
        ("It is 17", "( 48.0 - 17.0 ) = 31", 0),
        ("I do not know.", "#### 6", 0),
        ("", "no number here either", 0),
    ],
)
def test_rule_score(answer, gold, correct):
    assert rule_score(answer, gold) == {"correct": correct}


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (0, 0, 0, 1),
        (0, 10, 0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1),
        (1, 1, 0.2065, 1),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_mean_interval():
    # Standard deviation 1 over 4 values: half a width of 1.96 / 2.
    assert mean_interval([2, 3, 3, 4]) == pytest.approx(
        (3 - 1.96 * math.sqrt(2 / 3) / 2, 3 + 1.96 * math.sqrt(2 / 3) / 2), abs=1e-4
    )
    assert mean_interval([3]) == (-math.inf, math.inf)


def result_file(tmp_path: Path, content, name: str = "run.json", data_set: str = "gsm8k") -> Path:
    path = tmp_path / data_set / "all_info" / name
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


RECORDS = [
    {"question": "2 * 3?", "raw_answer": "It is 6.", "gold_answer": "#### 6"},
    {"question": "2 + 3?", "raw_answer": "It is 6.", "gold_answer": "#### 5"},
    {"question": "3 + 3?", "gold_answer": "#### 6", "error": "no server"},
]


class TestCommandLine:
    def test_scores_a_published_result_file(self, tmp_path):
        path = result_file(tmp_path, RECORDS)
        run = subprocess.run(
            [sys.executable, REPOSITORY / "eval_utils.py", path], capture_output=True, text=True, cwd=tmp_path
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("num_sample 2 correct 1 ratio_rule 0.5000\n")
        assert "accuracy" in run.stdout and "50.0 % (95 %: 9.5 to 90.5)" in run.stdout
        expected = [
            {"index": 0} | RECORDS[0] | {"scores": {"correct": 1}},
            {"index": 1} | RECORDS[1] | {"scores": {"correct": 0}},
            {"index": 2} | RECORDS[2],
        ]
        assert json.loads(path.read_text()) == expected
        assert [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()] == expected
        assert json.loads(path.with_suffix(".summary.json").read_text())["correct"] == 1
        readable = (path.parents[1] / "run.txt").read_text()
        assert "2 * 3?" in readable and "FAILED: no server" in readable

    def test_scores_a_log_whose_last_line_is_torn(self, tmp_path):
        lines = [json.dumps({"index": i} | record) for i, record in reversed(list(enumerate(RECORDS)))]
        path = result_file(tmp_path, "\n".join(lines) + '\n{"index": 3, "ques', "run.jsonl")
        assert eval_utils.main([str(path)]) == 0
        stored = [json.loads(line) for line in path.read_text().splitlines()]
        assert [record["index"] for record in stored] == [0, 1, 2]
        assert [record.get("scores") for record in stored] == [{"correct": 1}, {"correct": 0}, None]
        assert json.loads(path.with_suffix(".json").read_text()) == stored

    def test_newer_records_in_the_log_survive(self, tmp_path):
        """A run that was continued and killed has more in its log than in the .json of its first end."""
        path = result_file(tmp_path, RECORDS)
        log = path.with_suffix(".jsonl")
        retried = {"index": 2} | RECORDS[0] | {"question": "3 + 3?"}
        log.write_text(
            "".join(json.dumps({"index": i} | r) + "\n" for i, r in enumerate(RECORDS)) + json.dumps(retried) + "\n"
        )
        eval_utils.main([str(path)])
        assert "It is 6." in log.read_text().splitlines()[2]

    @pytest.mark.parametrize(
        "content, name",
        [
            ("no JSON", "run.json"),
            ('{"samples": 3}', "run.summary.json"),
            ("[1, 2]", "run.json"),
            ('[{"a": 1}]', "run.json"),
            ('[{"question": "2 * 3?", "gold_answer": "6"}]', "run.json"),
            ("a readable text", "run.txt"),
            ('{"index": 0}\n', "run.jsonl"),
            ("not a record\n", "run.jsonl"),
            ("[]\n", "run.jsonl"),
        ],
    )
    def test_what_is_no_result_file_is_said_in_a_line(self, tmp_path, capsys, content, name):
        path = result_file(tmp_path, content, name)
        assert eval_utils.main([str(path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"eval_utils.py: error: {path}") and message.count("\n") == 1
        assert [file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")] == [name]

    def test_missing_file(self, tmp_path, capsys):
        assert eval_utils.main([str(tmp_path / "gsm8k" / "run.json")]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_data_set_is_read_from_the_path_or_told(self, tmp_path, capsys):
        path = result_file(tmp_path, RECORDS, data_set="my_answers")
        assert eval_utils.main([str(path)]) == 2
        message = capsys.readouterr().err
        assert str(path) in message and "--dataset_name" in message and message.count("\n") == 1
        assert eval_utils.main([str(path), "--dataset_name", "svamp"]) == 0
        assert "ratio_rule" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "options, reason, exit_code",
        [
            (["--judge", "none"], "--judge none", 0),
            (["--judge_api_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY holds no API key", 1),
        ],
    )
    def test_without_a_judge_answers_stay_unscored(self, tmp_path, capsys, options, reason, exit_code):
        path = result_file(tmp_path, RECORDS[:2], data_set="strategyqa")
        assert eval_utils.main([str(path), *options]) == exit_code
        printed = capsys.readouterr()
        assert reason in printed.err and "unscored" in printed.out and "ratio_gpt" not in printed.out
        assert all(not record.get("scores") for record in json.loads(path.read_text()))
