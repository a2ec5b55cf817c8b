"""Tests of --shard, experiment/shards.py, scripts/merge_shards.py, and of SIGTERM (command/stopping.py)."""

import json
import shutil
import signal
import threading

import pytest
from doubles import NeverAnswers
from runs import Running, final_records, gsm8k_rows, nudging_options, one, run_api, run_api_command, write_rows
from waiting import HANG, wait_until

from experiment.merge import main
from experiment.settings import RunSettings, SettingsError
from reporting.run_table import find_runs, readable_table, results_table

NAME = "split_test_top_prob_0.4_thres_nudging_base-lm_llama-2-chat_None_samples"
TEXT_FIELDS = ("index", "question", "raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")


def texts(records: list[dict]) -> list[dict]:
    return [{field: record[field] for field in TEXT_FIELDS} for record in records]


def settings(**more) -> RunSettings:
    return RunSettings(exp="base_only", base_model="lm", base_host="http://localhost:1/v1", **more)


class TestSettings:
    def test_every_sample_is_in_one_shard(self):
        indices = [i for k in range(1, 5) for i in settings(shard=f"{k}/4").shard_indices(10)]
        assert sorted(indices) == list(range(10))
        assert list(settings(shard="2/4").shard_indices(10)) == [1, 5, 9]
        assert list(settings().shard_indices(3)) == [0, 1, 2]

    def test_name_and_decisive(self):
        assert settings(shard="2/4").result_name == settings().result_name + "_shard2of4"
        assert settings(shard="2/4").decisive["shard"] == "2/4" and "shard" not in settings().decisive

    @pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "1 / 2", "²/3"])
    def test_what_is_no_shard(self, shard):
        with pytest.raises(SettingsError, match="--shard is i/n with i from 1 to n"):
            settings(shard=shard)


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """A run of seven questions as a whole, and the same in two shards; the data, and both output folders."""
    folder = tmp_path_factory.mktemp("shards")
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(7))
    for output, more in (("whole", ()), ("parts", ("--shard", "1/2")), ("parts", ("--shard", "2/2"))):
        finished = run_api(*nudging_options(server.host, data, folder / output), *more)
        assert finished.returncode == 0, finished.stderr
    return data, folder / "whole", folder / "parts"


@pytest.fixture
def parts(runs, tmp_path):
    """A copy of the two shards, to be harmed."""
    return shutil.copytree(runs[2], tmp_path / "parts")


def shard_log(folder, i):
    return one(folder, f"{NAME}_shard{i}of2.jsonl")


def refusal(capsys, *arguments, code=1) -> str:
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("merge_shards.py: error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.slow
class TestMerging:
    def test_the_merged_run_is_the_whole_run(self, runs, parts, capsys, server):
        data, whole, _ = runs
        assert main([str(parts)]) == 0 and "7 samples of 2 shards" in capsys.readouterr().out
        assert texts(json.loads(one(parts, f"{NAME}.json").read_text())) == texts(final_records(whole))
        assert one(parts, f"{NAME}.txt").read_text() == one(whole, f"{NAME}.txt").read_text()
        summary, expected = (json.loads(one(f, f"{NAME}.summary.json").read_text()) for f in (parts, whole))
        assert summary["accuracy"] == expected["accuracy"] and summary["samples"] == 7
        metadata = json.loads(one(parts, f"{NAME}.run.json").read_text())
        assert metadata["settings"] == json.loads(one(whole, f"{NAME}.run.json").read_text())["settings"]
        assert {session["shard"] for session in metadata["sessions"]} == {"1/2", "2/2"}
        before = server.stats()
        again = run_api(*nudging_options(server.host, data, parts))  # the normal command goes on from it
        assert again.returncode == 0 and "num_sample 7 " in again.stdout and server.stats() == before
        assert main([str(parts)]) == 0 and "merged already" in capsys.readouterr().out

    def test_a_merge_cut_short_is_completed(self, parts, capsys):
        main([str(parts)])
        for suffix in ("json", "summary.json", "txt"):
            one(parts, f"{NAME}.{suffix}").unlink()
        assert main([str(parts)]) == 0 and one(parts, f"{NAME}.summary.json").exists()

    def test_missing_shard(self, parts, capsys):
        for path in list(parts.rglob("*_shard2of2*")):
            path.unlink()
        assert "missing shard 2 of 2" in refusal(capsys, parts)
        assert not list(parts.rglob(f"{NAME}.*"))

    def test_missing_samples(self, parts, capsys):
        log = shard_log(parts, 2)
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
        assert "missing samples 3, 5 of 7; continue shard 2 of 2 first" in refusal(capsys, parts)

    def test_duplicates_and_strangers(self, parts, capsys):
        first, second = shard_log(parts, 1), shard_log(parts, 2)
        kept = second.read_text()
        second.write_text(kept + first.read_text().splitlines(keepends=True)[1])
        assert "sample 2 is in shard 1 and in 2" in refusal(capsys, parts)
        second.write_text(kept.replace('"index": 3', '"index": 9'))
        assert "sample 9 does not belong to shard 2 of 2" in refusal(capsys, parts)

    def test_other_settings(self, parts, capsys):
        run = one(parts, f"{NAME}_shard2of2.run.json")
        run.write_text(run.read_text().replace('"max_token_total": 128', '"max_token_total": 64'))
        assert "other settings than shard 1: --max_token_total" in refusal(capsys, parts)

    def test_other_questions(self, parts, capsys):
        run = one(parts, f"{NAME}_shard2of2.run.json")
        told = json.loads(run.read_text())
        run.write_text(json.dumps(told | {"questions_sha256": "0" * 64}))
        assert "shard2of2.jsonl asked other questions than shard 1: use the same data for both" in refusal(
            capsys, parts
        )

    @pytest.mark.parametrize("data_set, earlier", [("mmlu", [1]), ("mmlu", [2]), ("mmlu", [1, 2]), ("gsm8k", [1])])
    def test_shards_of_a_version_that_cut_off_blanks(self, data_set, earlier, parts, capsys):
        for i in (1, 2):
            run = one(parts, f"{NAME}_shard{i}of2.run.json")
            told = json.loads(run.read_text())
            told["settings"]["dataset_name"] = data_set
            if i in earlier:
                del told["questions_sha256"]
            run.write_text(json.dumps(told))
        if data_set == "gsm8k" or len(earlier) == 2:
            assert main([str(parts)]) == 0
        else:
            message = refusal(capsys, parts)
            assert f"shard{earlier[0]}of2.jsonl: an earlier version made it" in message
            assert f"answer shard {earlier[0]} of 2 again with --rerun" in message

    def test_a_whole_run_of_its_own_is_not_overwritten(self, runs, parts, capsys):
        shutil.copytree(runs[1], parts, dirs_exist_ok=True)
        assert "--replace" in refusal(capsys, parts)
        assert main([str(parts), "--replace"]) == 0
        assert len(list(parts.rglob("replaced-*/*.json"))) == 3

    def test_two_ways_of_splitting(self, parts, capsys):
        log = shard_log(parts, 1)
        log.with_name(f"{NAME}_shard1of3.jsonl").write_text("")
        assert "split into 2 and 3 shards" in refusal(capsys, parts, code=2)

    def test_nothing_to_merge(self, tmp_path, runs, capsys):
        assert "no shards found" in refusal(capsys, tmp_path, code=2)
        assert "does not exist" in refusal(capsys, tmp_path / "x", code=2)
        assert "is no shard's file" in refusal(capsys, one(runs[1], f"{NAME}.json"), code=2)

    def test_the_table_shows_shards_until_they_are_merged(self, parts):
        def table():
            return results_table(find_runs([parts], print))

        assert list(table()["n"]) == [4, 3]
        assert list(readable_table(table())["State"]) == ["shard 1/2", "shard 2/2"]
        main([str(parts)])
        assert list(table()["n"]) == [7] and "shard" not in table().columns


@pytest.mark.slow
def test_a_shard_without_samples(runs, server, tmp_path):
    finished = run_api(*nudging_options(server.host, runs[0], tmp_path), "--shard", "8/8")
    assert finished.returncode == 2 and "--shard 8/8 has no samples, since there are 7" in finished.stderr


@pytest.mark.slow
class TestSigterm:
    def start(self, server, data, output, *more) -> Running:
        options = [*nudging_options(server.host, data, output), "--num_threads", 2, *more]
        return Running(output / "said", run_api_command(*options))

    def test_it_saves_and_the_same_command_continues(self, runs, server, gate, tmp_path):
        front = gate(server, tmp_path)
        running = self.start(front, runs[0], tmp_path)
        front.wait_until_closed(running.process)
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGTERM)  # schedulers repeat it
        running.until_it_says("told to stop")
        front.open()
        assert running.finish() == 143 and "Traceback" not in running.stderr
        kept = one(tmp_path, "*.jsonl").read_bytes().count(b"\n")
        assert 0 < kept < 7 and f"{kept} of 7 answers are saved" in running.stderr
        assert "the same command continues" in running.stderr
        assert json.loads(one(tmp_path, "*.run.json").read_text())["sessions"][0]["end"]
        assert run_api(*nudging_options(server.host, runs[0], tmp_path)).returncode == 0
        assert texts(final_records(tmp_path)) == texts(final_records(runs[1]))

    def test_samples_in_flight_are_not_waited_for(self, runs, reply_server, tmp_path):
        reply = NeverAnswers(77)

        host = reply_server(reply).host
        options = ["--exp", "base_only", "--base_model", "lm", "--base_host", host, "--max_token_total", 77]
        options += ["--data_dir", runs[0], "--output_dir", tmp_path]
        running = Running(tmp_path / "said", run_api_command(*options))
        try:
            wait_until(lambda: reply.asked, "a request", running.process)
            running.process.send_signal(signal.SIGTERM)
            assert running.finish() == 143 and "0 of 7 answers are saved" in running.stderr
        finally:
            reply.over.set()

    def test_before_the_first_sample(self, runs, reply_server, tmp_path):
        asked, over = [], threading.Event()

        def reply(path, body):
            asked.append(path)
            over.wait(HANG)
            return 200, {}, {"data": []}

        running = self.start(reply_server(reply), runs[0], tmp_path)
        try:
            wait_until(lambda: asked, "a request", running.process)
            running.process.send_signal(signal.SIGTERM)
            assert running.finish() == 143 and "Traceback" not in running.stderr
        finally:
            over.set()
        assert "the same command continues" in running.stderr
