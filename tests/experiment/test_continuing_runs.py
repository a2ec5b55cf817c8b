"""Runs that were killed, interrupted or finished, and the same command again."""

import json
import os
import signal
import subprocess
import sys

import pytest
from doubles import NeverAnswers, ScriptedServer, free_port
from runs import (
    REPOSITORY,
    Running,
    final_records,
    gsm8k_rows,
    nudging_options,
    one,
    run_api,
    run_api_command,
    write_rows,
)
from waiting import wait_until
from whole_runs import plain_error, texts

from experiment.result_files import ResultFiles

pytestmark = pytest.mark.slow  # runs the command line, many times

MMLU_ROWS = [
    {"question": f"{blank}What is {i} + 2?", "subject": "algebra", "choices": ["1", "2", "3", "4 "], "answer": 3}
    for i, blank in enumerate((" ", " ", " ", ""))
]


class TestContinuing:
    @pytest.mark.parametrize("wanted", [1, 3])
    def test_kill_9_and_continue(self, wanted, undisturbed, server, gate, data_dir, tmp_path):
        front = gate(server, tmp_path / "out", wanted)
        options = [*nudging_options(front.host, data_dir, tmp_path / "out"), "--num_threads", 2]
        running = Running(tmp_path / "said", run_api_command(*options))
        front.wait_until_closed(running.process)
        running.process.kill()
        running.finish()
        front.open()
        log = one(tmp_path / "out", "*.jsonl")
        kept = log.read_bytes().count(b"\n")
        assert kept >= wanted
        with log.open("ab") as file:  # what a kill in the middle of a line leaves
            file.write(b'{"index": 5, "question": "torn')
        finished = run_api(*options)
        assert finished.returncode == 0 and f"{kept} of 6 answers are there already" in finished.stderr
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])
        assert log.read_bytes().count(b"\n") == 6

    def test_a_server_that_dies_in_mid_run(self, undisturbed, gate, data_dir, tmp_path):
        server = ScriptedServer("--seed", "2").start()
        front = gate(server, tmp_path / "out")
        options = [*nudging_options(front.host, data_dir, tmp_path / "out"), "--num_threads", 1, "--max_retries", 1]
        options += ["--max_outage", 0]
        running = Running(tmp_path / "said", run_api_command(*options))
        try:
            front.wait_until_closed(running.process)
        finally:
            server.stop()
        front.open()
        assert running.finish() == 1 and "Traceback" not in running.stderr
        records = final_records(tmp_path / "out")
        failed = [record for record in records if "error" in record]
        assert 0 < len(failed) < 6 and f"{len(failed)} of 6 samples failed" in running.stderr
        assert all("raw_answer" not in record and "scores" not in record for record in failed)
        assert f"num_sample {6 - len(failed)} " in running.stdout  # never scored as answers
        server.start()
        try:
            assert run_api(*options).returncode == 0
        finally:
            server.stop()
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])

    def test_the_first_interrupt_saves_and_the_same_command_continues(
        self, undisturbed, server, gate, data_dir, tmp_path
    ):
        front = gate(server, tmp_path / "out")
        options = [*nudging_options(front.host, data_dir, tmp_path / "out"), "--num_threads", 2]
        running = Running(tmp_path / "said", run_api_command(*options))
        front.wait_until_closed(running.process)
        running.process.send_signal(signal.SIGINT)
        running.until_it_says("interrupted")
        front.open()
        assert running.finish() == 130 and "Traceback" not in running.stderr
        assert "the same command continues" in running.stderr
        kept = one(tmp_path / "out", "*.jsonl").read_bytes().count(b"\n")
        assert 0 < kept < 6
        assert run_api(*options).returncode == 0
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])

    def test_the_second_interrupt_leaves_at_once(self, reply_server, data_dir, tmp_path):
        """While the replies that the first interrupt lets it wait for have not come, and do not come."""
        reply = NeverAnswers(77)

        options = ["--exp", "base_only", "--base_model", "lm", "--base_host", reply_server(reply).host]
        options += ["--max_token_total", 77, "--num_threads", 2, "--data_dir", data_dir]
        command = run_api_command(*options, "--output_dir", tmp_path / "out")
        running = Running(tmp_path / "said", command)
        try:
            wait_until(lambda: len(reply.asked) == 2, "requests of both threads", running.process)
            running.process.send_signal(signal.SIGINT)
            running.until_it_says("interrupted")
            running.process.send_signal(signal.SIGINT)
            assert running.finish() == 130
        finally:
            reply.over.set()
        assert len(reply.asked) == 2

    def test_other_settings_are_refused_by_name(self, undisturbed, server):
        _, output, records = undisturbed
        options = nudging_options(server.host, output.parent / "data", output)
        message = plain_error(run_api(*options, "--max_token_total", 64, "--completion_token_num", 8))
        assert "--max_token_total was 128, is 64" in message and "--completion_token_num was 16, is 8" in message
        assert "--rerun" in message and final_records(output) == records

    def test_hosts_and_threads_may_differ(self, undisturbed, start_server):
        _, output, _ = undisturbed
        other = start_server("--seed", "2")
        options = nudging_options(other.host, output.parent / "data", output)
        assert run_api(*options, "--num_threads", 3).returncode == 0

    def test_other_questions_are_refused(self, undisturbed, server, tmp_path):
        _, output, _ = undisturbed
        data = write_rows(tmp_path, "gsm8k", gsm8k_rows(7)[1:])
        assert "another question" in plain_error(run_api(*nudging_options(server.host, data, output)))

    @pytest.mark.parametrize("old, which", [((1,), "sample 1"), ((0, 2), "sample 0 and 1 more"), ((), "")])
    def test_a_run_of_a_version_that_cut_off_blanks_is_not_mixed_with_this_one(
        self, old, which, undisturbed, server, tmp_path
    ):
        """Blanks at the ends of mmlu's questions are part of the prompt now, as published."""
        data = write_rows(tmp_path, "mmlu", MMLU_ROWS)
        options = [*nudging_options(server.host, data, tmp_path / "out"), "--dataset_name", "mmlu", "--judge", "none"]
        assert run_api(*options).returncode == 0
        log = one(tmp_path / "out", "*.jsonl")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert [record["question"][0] for record in records] == [" ", " ", " ", "W"]
        assert "Question:  What" in records[0]["full_prefix_base"]
        for index in old:
            records[index]["question"] = records[index]["question"].strip()
        log.write_text("".join(json.dumps(record) + "\n" for record in records[:3]))
        kept, finished = log.read_bytes(), run_api(*options)
        if not old:
            assert finished.returncode == 0 and len(final_records(tmp_path / "out")) == 4
            return
        message = plain_error(finished)
        assert (
            f"asked another question than the data set has now in {which} (blanks at its ends alone differ" in message
        )
        assert "use the earlier version, another --output_dir, or start afresh with --rerun" in message
        assert log.read_bytes() == kept

    def test_rerun_moves_the_old_files_aside(self, server, data_dir, tmp_path):
        options = nudging_options(server.host, data_dir, tmp_path / "out")
        assert run_api(*options).returncode == 0
        old = one(tmp_path / "out", "*_samples.json").read_text()
        finished = run_api(*options, "--rerun", "--max_token_total", 64)
        assert finished.returncode == 0
        kept = [path for path in (tmp_path / "out").rglob("*_samples.json") if "replaced-" in str(path)]
        assert [path.read_text() for path in kept] == [old]

    def test_results_of_the_published_program_are_only_scored(self, undisturbed, server, data_dir, tmp_path):
        _, output, records = undisturbed
        published = [
            {k: v for k, v in record.items() if k not in ("index", "id", "usage", "seconds")} for record in records
        ]
        path = tmp_path / "out" / one(output, "*_samples.json").relative_to(output)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(published))
        before = server.stats()
        finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"))
        assert finished.returncode == 0 and server.stats() == before
        assert finished.stdout.splitlines()[:2] == undisturbed[0].stdout.splitlines()[:2]

    @pytest.mark.parametrize("scores", [None, True, 1, [1], {"score": 1}, {"correct": True}])
    def test_whatever_scores_are_there_the_rule_is_applied_again(self, scores, undisturbed, server, data_dir, tmp_path):
        _, output, records = undisturbed
        path = tmp_path / "out" / one(output, "*_samples.json").relative_to(output)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([record | {"scores": scores} for record in records]))
        finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"))
        assert finished.stdout.splitlines()[:2] == undisturbed[0].stdout.splitlines()[:2], finished.stderr

    def test_a_second_run_on_the_same_files_is_refused(self, undisturbed, server):
        _, output, records = undisturbed
        options = nudging_options(server.host, output.parent / "data", output)
        log = one(output, "*.jsonl")
        scoring = [sys.executable, str(REPOSITORY / "eval_utils.py"), str(log), "--dataset_name", "gsm8k"]
        with ResultFiles.of(log).locked():
            assert f"process {os.getpid()} on " in plain_error(run_api(*options))
            assert f"process {os.getpid()} on " in plain_error(run_api(*options, "--rerun"))
            assert subprocess.run(scoring, capture_output=True, text=True).returncode == 2
        assert final_records(output) == records
        assert run_api(*options).returncode == 0  # the lock is gone with its holder

    def test_an_interrupted_rerun_names_the_command_that_continues(self, server, gate, data_dir, tmp_path):
        front = gate(server, tmp_path / "out")
        options = [*nudging_options(front.host, data_dir, tmp_path / "out"), "--num_threads", 1, "--rerun"]
        running = Running(tmp_path / "said", run_api_command(*options))
        front.wait_until_closed(running.process)
        running.process.send_signal(signal.SIGINT)
        running.until_it_says("interrupted")
        front.open()
        assert running.finish() == 130 and "the same command without --rerun continues" in running.stderr

    def test_a_rerun_that_cannot_start_moves_nothing(self, undisturbed):
        _, output, records = undisturbed
        nowhere = f"http://127.0.0.1:{free_port()}/v1"
        plain_error(run_api(*nudging_options(nowhere, output.parent / "data", output), "--rerun"))
        assert final_records(output) == records

    def test_a_damaged_log_is_named_by_line(self, undisturbed, server, data_dir, tmp_path):
        log = tmp_path / "out" / one(undisturbed[1], "*.jsonl").relative_to(undisturbed[1])
        log.parent.mkdir(parents=True)
        log.write_text('{"index": 0}\nnonsense\n{"index": 1}\n')
        message = plain_error(run_api(*nudging_options(server.host, data_dir, tmp_path / "out")))
        assert "line 2: not a record" in message
