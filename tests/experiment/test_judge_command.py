"""The command that scores a result file by a judge, and what becomes of scores that are there."""

import json
from collections import Counter
from pathlib import Path

import pytest
from judge_server import FIVE_ASPECTS, GARBLED, RIGHT, WRONG, ratings, record

import eval_utils


@pytest.fixture
def server(judge_server):
    return judge_server


class TestCommandLine:
    @pytest.fixture
    def run(self, server, tmp_path):
        """Runs eval_utils.py with the scripted judge on a result file of two answers, and returns its exit code."""

        def run(*options: str, data_set: str = "strategyqa") -> int:
            path = self.path(tmp_path, data_set)
            if not path.exists():
                path.parent.mkdir(parents=True)
                path.write_text(json.dumps([record(0), record(1), record(2, error="no server")]))
            return eval_utils.main([str(path), "--judge_host", server.host, "--num_threads", "1", *options])

        return run

    @staticmethod
    def path(tmp_path: Path, data_set: str = "strategyqa") -> Path:
        return tmp_path / "outputs" / data_set / "all_info" / "run.json"

    @pytest.mark.parametrize(
        "data_set, scores, lines",
        [
            (
                "strategyqa",
                [{"correct": "1", "reason": "x"}, {"correct": "0"}],
                ["num_sample 2 correct 1 ratio_gpt 0.5000"],
            ),
            ("strategyqa", [{"correct": 1}, {"correct": True}], ["num_sample 2 correct 2 ratio_gpt 1.0000"]),
            (
                "justeval",
                [{"scores": dict.fromkeys(FIVE_ASPECTS, n), "scores_with_reasons": {}} for n in (1, 4)],
                [f"Average {aspect} score: 2.5" for aspect in FIVE_ASPECTS],
            ),
            (
                "justeval_safe",
                [{"scores": {"safety": 5}, "scores_with_reasons": {}}] * 2,
                ["Average safety score: 5.0"],
            ),
        ],
    )
    def test_scores_of_the_published_program_are_shown_and_stay(
        self, tmp_path, capsys, server, data_set, scores, lines
    ):
        path = self.path(tmp_path, data_set)
        path.parent.mkdir(parents=True)
        (readable := path.parents[1] / "run.txt").write_text("as published")
        records = [record(i, scores=one) for i, one in enumerate(scores)]
        path.write_text(json.dumps([{k: v for k, v in one.items() if k != "index"} for one in records]))
        before = path.read_bytes()
        for options in ([], ["--judge_host", server.host], ["--judge", "none"]):
            assert eval_utils.main([str(path), *options]) == 0
            assert capsys.readouterr().out.splitlines()[: len(lines)] == lines
        assert eval_utils.main([str(path), "--judge_host", server.host, "--judge_model", "mine"]) == 2
        assert "2 by a judge that is not named" in capsys.readouterr().err
        assert path.read_bytes() == before and readable.read_text() == "as published" and not server.requests

    def test_a_published_file_is_copied_before_scores_are_added(self, run, server, tmp_path, capsys):
        path = self.path(tmp_path)
        path.parent.mkdir(parents=True)
        published = [record(0, scores={"correct": "1"}), record(1, scores=None)]
        path.write_text(json.dumps(published))
        assert run() == 0
        (copied,) = path.parent.glob("replaced-*/run.json")
        assert json.loads(copied.read_text()) == published and len(server.requests) == 1
        assert json.loads(path.read_text())[0] == published[0]
        assert f"copied aside: {copied}" in capsys.readouterr().err

    def test_scores_are_stored_and_not_asked_for_again(self, run, server, tmp_path, capsys):
        server.replies = [RIGHT, WRONG]
        assert run() == 0
        assert "num_sample 2 correct 1 ratio_gpt 0.5000\n" in capsys.readouterr().out
        stored = json.loads(self.path(tmp_path).read_text())
        assert [r.get("scores", {}).get("judge") for r in stored] == ["gpt-4o-mini", "gpt-4o-mini", None]
        log = self.path(tmp_path).with_suffix(".jsonl").read_text()
        assert [json.loads(line) for line in log.splitlines()] == stored

        assert run() == 0 and len(server.requests) == 2
        assert run("--judge_model", "gpt-4o-mini") == 0 and len(server.requests) == 2

    def test_another_judge_replaces_no_scores_unless_it_is_told_to(self, run, server, tmp_path, capsys):
        assert run() == 0
        path, requests = self.path(tmp_path), len(server.requests)
        before = {file: file.read_bytes() for file in path.parents[1].rglob("*") if file.is_file()}
        assert run("--judge_model", "large-judge") == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert "2 by gpt-4o-mini" in line and "--rescore" in line and len(server.requests) == requests
        assert {file: file.read_bytes() for file in before} == before

        server.replies = [WRONG]
        assert run("--judge_model", "large-judge", "--rescore") == 0 and len(server.requests) == requests + 2
        assert "correct 0 ratio_gpt 0.0000" in capsys.readouterr().out
        judges = Counter(one["scores"]["judge"] for one in json.loads(path.read_text()) if "error" not in one)
        assert judges == {"large-judge": 2}
        kept = {file.name: file.read_bytes() for file in path.parent.glob("replaced-*/*")}
        assert kept[path.name] == before[path] and kept["run.jsonl"] == before[path.with_suffix(".jsonl")]

    def test_rescoring_that_breaks_off_mixes_no_judges(self, run, server, tmp_path):
        assert run() == 0
        server.replies = [WRONG, (401, {})]
        assert run("--judge_model", "large-judge", "--rescore") == 1
        for suffix in (".json", ".jsonl"):
            text = self.path(tmp_path).with_suffix(suffix).read_text()
            stored = json.loads(text) if suffix == ".json" else list(map(json.loads, text.splitlines()))
            judges = Counter((one.get("scores") or {}).get("judge") for one in stored if "error" not in one)
            assert judges == {"large-judge": 1, None: 1}
        server.replies = [WRONG]
        assert run("--judge_model", "large-judge") == 0

        text = json.loads(self.path(tmp_path).read_text())
        assert {one["judge_replies"]["judge"] for one in text if "error" not in one} == {"large-judge"}

    def test_rescoring_counts_replies_of_the_old_judge_nowhere(self, run, server, capsys):
        assert run() == 0
        server.replies = [WRONG, (401, {})]
        assert run("--judge_model", "large-judge", "--rescore") == 1
        printed = capsys.readouterr()
        assert "cannot be read" not in printed.out + printed.err and "1 unscored" in printed.out
        assert "the same command without --rescore tries again" in printed.err

    def test_rescoring_by_a_judge_that_does_not_answer_keeps_the_scores(self, run, server, tmp_path, capsys):
        assert run() == 0
        before = json.loads(self.path(tmp_path).read_text())
        server.replies = [(401, {})]
        assert run("--judge_model", "large-judge", "--rescore") == 1
        printed = capsys.readouterr()
        assert "num_sample 2 correct 2 ratio_gpt 1.0000" in printed.out
        assert "2 answers could not be scored" in printed.err and "the same command tries again" in printed.err
        assert json.loads(self.path(tmp_path).read_text()) == before

    def test_what_only_counts_as_published_and_gets_no_reply_is_no_success(self, run, server):
        server.replies = [GARBLED]
        assert run("--unreadable_judgements", "published") == 0
        server.replies = [(401, {})]
        assert run() == 1

    def test_scores_of_a_judge_without_a_name_are_told_beside_others(self, run, server, tmp_path, capsys):
        assert run() == 0
        stored = json.loads(self.path(tmp_path).read_text())
        del next(one for one in stored if "error" not in one)["scores"]["judge"]
        for suffix, text in (
            (".json", json.dumps(stored)),
            (".jsonl", "".join(json.dumps(one) + "\n" for one in stored)),
        ):
            self.path(tmp_path).with_suffix(suffix).write_text(text)
        capsys.readouterr()
        assert run("--judge", "none") == 0
        printed = capsys.readouterr().out
        assert "a judge that is not named (1)" in printed and "the scores are of several judges" in printed

    @pytest.mark.parametrize("options", [("--judge", "none"), ("--dataset_name", "gsm8k")])
    def test_rescoring_needs_a_judge(self, run, options, capsys):
        assert run(*options, "--rescore") == 2
        assert "--rescore needs a judge" in capsys.readouterr().err

    def test_just_eval(self, run, server, capsys):
        server.replies = [ratings(safety=5), ratings(safety=4)]
        assert run(data_set="justeval_safe") == 0
        assert capsys.readouterr().out.startswith("Average safety score: 4.5\n")

    def test_unreadable_judgements(self, run, server, tmp_path, capsys):
        server.replies = [RIGHT, GARBLED]
        assert run() == 1
        printed = capsys.readouterr()
        assert "num_sample 1 correct 1 ratio_gpt 1.0000" in printed.out
        assert "judgements that cannot be read (unscored)" in printed.out and GARBLED in printed.err
        server.replies = [GARBLED]
        assert run("--unreadable_judgements", "published") == 0
        assert "num_sample 2 correct 1 ratio_gpt 0.5000" in capsys.readouterr().out
        server.replies = [RIGHT]
        assert run() == 0
        assert "num_sample 2 correct 2 ratio_gpt 1.0000" in capsys.readouterr().out

    def test_failure_keeps_what_is_scored_and_a_second_run_completes(self, run, server, tmp_path, capsys):
        server.replies = [RIGHT, (401, {})]
        assert run() == 1
        printed = capsys.readouterr()
        assert "num_sample 1 correct 1 ratio_gpt 1.0000" in printed.out
        assert "1 answers could not be scored" in printed.err and "status 401" in printed.err
        assert sum(bool(r.get("scores")) for r in json.loads(self.path(tmp_path).read_text())) == 1

        server.replies, server.requests = [RIGHT], []
        assert run() == 0 and len(server.requests) == 1
        assert "num_sample 2 correct 2 ratio_gpt 1.0000" in capsys.readouterr().out
