"""A run in this process with a model of the test's own: unexpected errors, and result files that others delete meanwhile."""

import errno
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from runs import final_records, gsm8k_rows, one, write_rows

import run_api
from command import files
from command.files import ResultsError
from command.unexpected import REPORT, told_with
from experiment.judge import judge_records
from experiment.judge_settings import JudgeSettings
from experiment.result_files import ResultFiles
from language_models.interface import ChatReply, Completion, ModelError, Usage
from measure_reward import main as measure

SAMPLES = 5


class Model:
    """Answers "It is 1." after `before` has been called with the number of the request."""

    name, runs_ahead, packages, report, connections = "base-lm", False, (), {}, 1

    def __init__(self, before=lambda number: None):
        self.before, self.requests = before, 0
        self.usage, self.usage_by_host = Usage(), {}

    def for_sample(self, sample_id):
        return self

    def streams(self, logprobs):
        return False

    def complete(self, prompt, params):
        self.requests += 1
        self.before(self.requests)
        return Completion("It is 1.", (), "stop", Usage(requests=1))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run base_only on five questions; gives exit code and standard error (`run.printed`: standard output)."""
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(SAMPLES))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def run(before=lambda number: None) -> tuple[int, str]:
        monkeypatch.setattr(run_api, "connect", lambda *_: {"base": Model(before)})
        options = ["--exp", "base_only", "--base_model", "base-lm", "--base_host", "http://127.0.0.1:9/v1"]
        options += ["--data_dir", data, "--output_dir", tmp_path / "out", "--num_threads", 1]
        code = run_api.main(list(map(str, options)))
        run.printed, said = capsys.readouterr()
        return code, said

    return run


def sessions(folder: Path) -> list[dict]:
    return json.loads(one(folder, "*.run.json").read_text())["sessions"]


class TestUnexpectedErrors:
    def test_the_same_one_in_every_sample_is_told_once_and_counted(self, run, tmp_path):
        def before(number):
            raise TypeError(f"'NoneType' object number {number} is not subscriptable")

        code, said = run(before)
        assert code == 1
        assert said.count("Traceback (most recent call last)") == 1 == said.count(REPORT)
        assert "test_run.py" in said and "in before" in said
        plain = "TypeError: 'NoneType' object number 1 is not subscriptable"
        assert f"{SAMPLES} of {SAMPLES} samples failed" in said and f"the first: {plain}" in said
        (session,) = sessions(tmp_path / "out")
        (error,) = session["unexpected_errors"]
        assert error["times"] == SAMPLES and error["traceback"].endswith(plain)
        assert all(record["error"].startswith("TypeError: ") for record in final_records(tmp_path / "out"))
        assert not any("traceback" in record for record in final_records(tmp_path / "out"))

    def test_different_ones_are_told_each(self, run, tmp_path):
        def before(number):
            if number % 2:
                raise TypeError("odd")
            raise ZeroDivisionError("even")

        _, said = run(before)
        assert said.count("Traceback") == 2
        (session,) = sessions(tmp_path / "out")
        assert [error["times"] for error in session["unexpected_errors"]] == [3, 2]

    def test_what_is_expected_has_no_traceback(self, run, tmp_path):
        def before(number):
            raise ModelError("http://x: no answer after 8 retries")

        code, said = run(before)
        assert code == 1 and "Traceback" not in said
        assert "unexpected_errors" not in sessions(tmp_path / "out")[0]

    @pytest.mark.parametrize("place", ["score_by_rule", "as_finished", "summarise", "readable_text"])
    def test_one_that_ends_the_run(self, run, monkeypatch, tmp_path, place):
        def broken(*_, **__):
            raise KeyError("a fault")

        monkeypatch.setattr(f"experiment.run.{place}", broken)
        code, said = run()
        assert code == 1 and said.count("Traceback") == 1 and REPORT in said
        assert sessions(tmp_path / "out")[0]["ended_by"].endswith("KeyError: 'a fault'")
        monkeypatch.undo()

    def test_one_where_all_is_answered(self, run, monkeypatch, tmp_path):
        run()
        monkeypatch.setattr("experiment.run.score_by_rule", lambda records: 1 // 0)
        assert run()[0] == 1
        first, second = sessions(tmp_path / "out")
        assert "ended_by" not in first and "ZeroDivisionError" in second["ended_by"] and second["seconds"] == 0

    def test_a_fault_behind_a_plain_error(self, run, monkeypatch, tmp_path):
        def broken(*_, **__):
            raise told_with(ModelError("it cannot be used"), ValueError("a fault"))

        monkeypatch.setattr("experiment.run.score_by_rule", broken)
        code, said = run()
        assert code == 2 and "error: it cannot be used" in said and "ValueError: a fault" in said
        assert sessions(tmp_path / "out")[0]["ended_by"].endswith("ValueError: a fault")

    def test_one_of_a_judge_is_a_judgement_that_failed(self):
        class Judge:
            name, num_threads = "j", 1

            def ask(self, instructions, question):
                if "two" in question:
                    raise AttributeError("a fault")
                return ChatReply('{"correct": 1}', "stop")

        records = [
            {"index": i, "question": q, "raw_answer": "a", "gold_answer": "g"} for i, q in enumerate(("one", "two"))
        ]
        said: list[str] = []
        came = judge_records(records, "judge", JudgeSettings(), Judge(), lambda entry: None, said.append)
        assert (came.read, came.failed, came.error) == (1, 1, "AttributeError: a fault")
        assert len([line for line in said if "Traceback" in line]) == 1


class TestLostFiles:
    @pytest.mark.parametrize("moved", [True, False])
    @pytest.mark.parametrize("at", range(1, SAMPLES + 1))
    def test_the_output_folder_is_deleted_or_moved_in_mid_run(self, run, tmp_path, moved, at):
        def before(number):
            if number == at:
                # Gone at once: what is written meanwhile would keep a folder from being deleted file by file.
                shutil.move(tmp_path / "out", tmp_path / "aside")
                if not moved:
                    shutil.rmtree(tmp_path / "aside")

        code, said = run(before)
        assert code == 0 and said.count("warning:") == 1
        assert "was deleted or moved while it was being written; it was written anew" in said
        assert Counter(r["raw_answer"] for r in final_records(tmp_path / "out")) == {"It is 1.": SAMPLES}
        assert len(one(tmp_path / "out", "*.jsonl").read_text().splitlines()) == SAMPLES
        assert "end" in sessions(tmp_path / "out")[0] and one(tmp_path / "out", "*.summary.json").exists()
        code, said = run()
        assert code == 0 and "it was written anew" not in said

    def test_it_is_deleted_behind_the_last_record(self, run, tmp_path, monkeypatch):
        def score(records):
            shutil.rmtree(tmp_path / "out")

        monkeypatch.setattr("experiment.run.score_by_rule", score)
        code, _ = run()
        assert code == 0 and len(final_records(tmp_path / "out")) == SAMPLES
        assert sessions(tmp_path / "out")

    def test_another_run_has_written_its_own_file_there(self, run, tmp_path):
        def before(number):
            if number == 3:
                log = one(tmp_path / "out", "*.jsonl")
                log.unlink()
                log.write_text("another's\n")

        code, said = run(before)
        assert code == 2 and "was replaced by another file while it was being written" in said
        assert one(tmp_path / "out", "*.jsonl").read_text() == "another's\n"
        (saved,) = (tmp_path / "temporary").iterdir()
        # The third question may be asked before the first two records are written.
        records = len(saved.read_text().splitlines())
        assert records in (1, 2, 3) and f"all that is in memory ({records} records) is saved in {saved}" in said
        shutil.copy(saved, one(tmp_path / "out", "*.jsonl"))
        code, said = run()
        assert code == 0 and f"{records} of {SAMPLES} answers are there already" in said

    def test_a_disk_that_is_full_when_the_results_are_written(self, run, tmp_path, monkeypatch):
        def full(path, text):
            if path.suffix == ".txt" or path.name.endswith("summary.json"):
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, text)

        write = files.write_atomically
        for module in ("experiment.result_files", "command.json_log"):
            monkeypatch.setattr(f"{module}.write_atomically", full)
        code, said = run()
        (line,) = [line for line in said.splitlines() if "error:" in line]
        assert code == 2 and "No space left on device" in line and "is kept" in line
        assert f"num_sample {SAMPLES} correct" in run.printed  # the figures are shown all the same
        assert len(one(tmp_path / "out", "*.jsonl").read_text().splitlines()) == SAMPLES


def test_the_lock_is_taken_anew_with_the_folder(tmp_path):
    mine, others = ResultFiles(tmp_path / "out", "run"), ResultFiles(tmp_path / "out", "run")
    with mine.locked():
        mine.open_log(tuple, lambda line: None)
        shutil.rmtree(tmp_path / "out")
        mine.append({"index": 0})
        with pytest.raises(ResultsError, match="is being written by another run"), others.locked():
            pass
        shutil.rmtree(tmp_path / "out")
        with others.locked(), pytest.raises(ResultsError, match=r"is being written by another run .* is saved in"):
            mine.append({"index": 1})
    mine.close_log()


def test_figures_that_cannot_be_written_are_saved_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "p", "result": "r"}]))

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pad.reports.write_atomically", full)
    assert measure(["--out_file", str(tmp_path / "a.json"), "--metrics", "--save", str(tmp_path / "new/s.json")]) == 2
    (saved,) = (tmp_path / "temporary").iterdir()
    assert f"is saved in {saved}" in capsys.readouterr().err and json.loads(saved.read_text())[0]["metrics"]
