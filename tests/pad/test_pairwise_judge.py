import json
import re
import threading

import pytest
from runs import REPOSITORY

import measure_reward
from datasets_loader import DataError
from pad.answers import Answered
from pad.pairwise_judge import CRITERIA, ReplyLog, compare, instructions, read_marks, sample_indices

MARK = {"good": 9, "fair": 6, "poor": 2}


def answers(**texts: str) -> dict[int, Answered]:
    return {int(i[1:]): Answered(int(i[1:]), f"Q{i}?", text, f"Q{i}?") for i, text in texts.items()}


class ScriptedJudge:
    """Gives the answers the marks of MARK, and the first one `bias` more; `broken` answers get garbled replies."""

    def __init__(self, bias: int = 0, broken: str = "-"):
        self.bias, self.broken, self.asked = bias, broken, []
        self.lock = threading.Lock()

    def __call__(self, told: str, question: str) -> str:
        with self.lock:
            self.asked.append(question)
        first, second = re.search(r"First answer:\n(\w+)\n\nSecond answer:\n(\w+)", question).groups()
        if self.broken in (first, second):
            return "The first one, I think."
        marks = {"first": min(10, MARK[first] + self.bias), "second": MARK[second]}
        return f"```json\n{json.dumps({'reason': 'so', **marks})}\n```"


MINE = answers(i0="good", i1="fair", i2="poor", i3="good")
BASE = answers(i0="poor", i1="fair", i2="fair", i4="good")


def test_a_pair_that_fails_in_a_way_that_nobody_foresaw_is_one_that_was_not_judged():
    judge = ScriptedJudge()

    def ask(told: str, question: str) -> str:
        if "fair\n\nSecond answer:\nfair" in question:
            raise BaseException("a panic")
        return judge(told, question)

    found = compare(MINE, BASE, ask, judge="j")
    assert (found["wins"], found["losses"], found["failed"], found["error"]) == (1, 1, 1, "BaseException: a panic")


def test_both_orders_are_asked_and_a_biased_judge_does_no_harm():
    judge = ScriptedJudge(bias=3)
    found = compare(MINE, BASE, judge, judge="j")
    assert (found["wins"], found["ties"], found["losses"], found["pairs"]) == (1, 1, 1, 3)
    assert found["win_rate"] == pytest.approx(1 / 3) and found["win_or_tie_rate"] == pytest.approx(2 / 3)
    # The two answers of prompt 1 are equal, so both orders are one question.
    assert len(judge.asked) == 5 and sum("First answer:\ngood" in q for q in judge.asked) == 1
    assert found["mean_marks"] == pytest.approx([(9 + 10 + 6 + 9 + 2 + 5) / 6, (2 + 5 + 6 + 9 + 6 + 9) / 6])


def test_unreadable_replies_are_counted_apart_after_three_tries():
    judge = ScriptedJudge(broken="poor")
    found = compare(MINE, BASE, judge, judge="j")
    assert (found["unreadable"], found["read"], found["ties"]) == (2, 1, 1)
    assert len(judge.asked) == 2 * 2 * 3 + 1


def test_unreadable_replies_in_the_log_are_asked_for_again(tmp_path):
    path = tmp_path / "log.jsonl"
    first = compare(MINE, BASE, ScriptedJudge(broken="poor"), judge="j", log=ReplyLog(path))
    assert first["unreadable"] == 2 and "The first one, I think." in first["unreadable_reply"]
    replayed = compare(MINE, BASE, None, judge="j", log=ReplyLog(path), replay=True)
    assert replayed == first
    judge = ScriptedJudge()
    again = compare(MINE, BASE, judge, judge="j", log=ReplyLog(path))
    assert (again["unreadable"], again["read"]) == (0, 3) and len(judge.asked) == 4
    assert compare(MINE, BASE, None, judge="j", log=ReplyLog(path)) == again


def test_a_judge_whose_replies_mostly_cannot_be_read_is_asked_no_more():
    many = {i: Answered(i, f"Q{i}?", "poor", f"Q{i}?") for i in range(60)}
    good = {i: Answered(i, f"Q{i}?", "good", f"Q{i}?") for i in range(60)}
    found = compare(many, good, ScriptedJudge(broken="poor"), judge="j", num_threads=1)
    assert (found["unreadable"], found["left"]) == (10, 50)


def test_the_sample_is_the_seeds():
    assert sample_indices([3, 1, 2], None, 0) == sample_indices([3, 1, 2], 9, 0) == [1, 2, 3]
    drawn = [sample_indices(list(range(50)), 10, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(set(d)) == 10 for d in drawn)
    assert compare(MINE, BASE, ScriptedJudge(), judge="j", n=2, seed=3)["pairs"] == 2


def test_replies_are_kept_and_not_asked_again(tmp_path):
    path, judge = tmp_path / "sub/log.jsonl", ScriptedJudge()
    first = compare(MINE, BASE, judge, judge="j", log=ReplyLog(path))
    lines = path.read_text()
    path.write_text(lines + '{"key": "torn')

    def never(*_):
        raise AssertionError("asked again")

    assert compare(MINE, BASE, never, judge="j", log=ReplyLog(path)) == first
    assert path.read_text() == lines
    said: list[str] = []
    asked = compare(MINE, BASE, never, judge="another", log=ReplyLog(path, say=said.append))
    assert (asked["failed"], asked["error"]) == (3, "AssertionError: asked again")
    assert len(said) == 1 and "Traceback" in said[0]  # an error that nobody expected, told once
    path.write_text("{}\n")
    with pytest.raises(DataError, match="line 1: not a judge's reply"):
        ReplyLog(path)


def test_a_log_that_is_deleted_meanwhile_is_written_anew(tmp_path):
    path, judge, said = tmp_path / "sub/log.jsonl", ScriptedJudge(), []

    def ask(told, question):
        if len(judge.asked) == 3:
            path.unlink()
        return judge(told, question)

    first = compare(MINE, BASE, ask, judge="j", num_threads=1, log=ReplyLog(path, say=said.append))
    assert len(path.read_text().splitlines()) == 5 and "was deleted or moved while it was being written" in said[0]
    assert compare(MINE, BASE, None, judge="j", log=ReplyLog(path)) == first


@pytest.mark.parametrize(
    "text, marks",
    [
        ('{"first": 1, "second": 10}', (1, 10)),
        ('{"reason": "x", "first": "3", "second": 4.0}', (3, 4)),
        ('Both are fine. {"reason": "\\( x \\)", "first": " 3 ", "second": 4}\nSo the second.', (3, 4)),
        ('<think>{"first": 1, "second": 1}</think>{"first": 3, "second": 4}', (3, 4)),
        ('{"first": 3, "sec', None),
        ('{"first": 0, "second": 4}', None),
        ('{"first": 11, "second": 4}', None),
        ('{"first": 3.5, "second": 4}', None),
        ('{"first": 3}', None),
        ("[3, 4]", None),
        ("3 4", None),
        ("", None),
    ],
)
def test_marks(text, marks):
    assert read_marks(text) == marks


def test_each_criterion_has_instructions():
    assert len({instructions(c) for c in CRITERIA}) == 4 and "how funny it is" in instructions("humor")


class TestCommand:
    """measure_reward.py with a scripted server; no torch."""

    @pytest.fixture
    def files(self, tmp_path):
        for name, rows in (("mine", MINE), ("base", BASE)):
            text = "".join(
                json.dumps({"index": i, "prompt": a.question, "result": a.answer}) + "\n" for i, a in rows.items()
            )
            (tmp_path / f"{name}.jsonl").write_text(text)
        return ["--out_file", str(tmp_path / "mine.jsonl"), "--baseline", str(tmp_path / "base.jsonl")]

    def test_win_rates_and_the_replay(self, files, reply_server, tmp_path, capsys):
        judge = ScriptedJudge()

        def reply(path, body):
            assert body["temperature"] == 0 and body["model"] == "small-judge"
            content = judge(*(message["content"] for message in body["messages"]))
            return 200, {}, {"choices": [{"message": {"content": content}}]}

        log = str(tmp_path / "log.jsonl")
        options = [*files, "--judge_model", "small-judge", "--judge_log", log, "--metrics"]
        server = reply_server(reply)
        assert measure_reward.main([*options, "--judge_host", server.host]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (report["judged"]["wins"], report["judged"]["ties"], report["judged"]["losses"]) == (1, 1, 1)
        assert len(server.requests) == 5
        # All replies are in the log: neither a server nor a key is needed.
        assert measure_reward.main(options) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["judged"] == report["judged"]
        assert len(server.requests) == 5

    def test_a_judge_that_does_not_answer(self, files, reply_server, capsys):
        server = reply_server(lambda path, body: (400, {}, {"error": {"message": "no such model"}}))
        options = ["--judge_model", "j", "--judge_host", server.host, "--max_retries", "0"]
        assert measure_reward.main([*files, *options]) == 1
        judged = json.loads(capsys.readouterr().out.splitlines()[-1])["judged"]
        assert (judged["failed"], judged["read"]) == (3, 0) and "no such model" in judged["error"]

    def test_replies_that_cannot_be_read(self, files, reply_server, capsys):
        server = reply_server(lambda path, body: (200, {}, {"choices": [{"message": {"content": "Hm."}}]}))
        assert measure_reward.main([*files, "--judge_model", "j", "--judge_host", server.host]) == 1
        assert (
            "3 pairs are not counted, since the judge's replies cannot be read, such as 'Hm.'"
            in capsys.readouterr().err
        )

    @pytest.mark.slow
    def test_a_bundled_model_judges(self, files, capsys):
        assert measure_reward.main([*files, "--judge_model", "demo-aligned", "--n", "1"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["judged"]["read"] == 1

    @pytest.mark.parametrize(
        "more, message",
        [
            ([], "nothing to measure"),
            (["--metrics", "--n", "0"], "--n must be at least 1"),
            (["--judge_model", "j", "--judge_host", "localhost"], "--judge_host must be a URL"),
            (["--judge_model", "j", "--judge_api_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY holds no API key"),
        ],
    )
    def test_options_that_cannot_work(self, files, more, message, capsys):
        assert measure_reward.main([*files, *more]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("measure_reward.py: error: ") and message in error


def test_no_torch_without_a_reward_model():
    assert "import torch\n" not in (REPOSITORY / "measure_reward.py").read_text()
