"""run_api.py as a user runs it: a whole run, continuing, refusals, faults, interrupts."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    REPOSITORY,
    ReplyServer,
    ScriptedServer,
    completion_reply,
    final_records,
    free_port,
    gsm8k_rows,
    nudging_options,
    one,
    run_api,
    run_api_command,
    write_rows,
)

from results import ResultFiles

pytestmark = pytest.mark.slow  # runs the command line, many times

TEXT_FIELDS = ("index", "question", "raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")


def texts(records: list[dict]) -> list[dict]:
    return [{field: record[field] for field in TEXT_FIELDS} for record in records]


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The records of a run of six questions that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run_api(
        *nudging_options(server.host, write_rows(folder / "data", "gsm8k", gsm8k_rows(6)), folder / "out")
    )
    assert finished.returncode == 0, finished.stderr
    return finished, folder / "out", final_records(folder / "out")


def plain_error(finished: subprocess.CompletedProcess, code: int = 2) -> str:
    """The last lines of a run that could not start: one or two, and no traceback."""
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    message = [line for line in finished.stderr.splitlines() if "error: " in line]
    assert len(message) == 1 and len(finished.stderr.strip().splitlines()) <= 2, finished.stderr
    return message[0]


class TestWholeRun:
    def test_files(self, undisturbed):
        _, output, records = undisturbed
        name = "split_test_top_prob_0.4_thres_nudging_base-lm_llama-2-chat_None_samples"
        folder = output / "gsm8k"
        suffixes = (".json", ".jsonl", ".run.json", ".summary.json")
        assert sorted(p.name for p in folder.iterdir()) == ["all_info", f"{name}.txt"]
        written = sorted(p.name for p in (folder / "all_info").iterdir() if not p.name.startswith("."))
        assert written == [name + suffix for suffix in suffixes]
        assert [record["index"] for record in records] == list(range(6))
        lines = (folder / "all_info" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == records
        assert records[2]["question"] in (folder / f"{name}.txt").read_text()

    def test_run_json(self, undisturbed, server):
        run = json.loads(one(undisturbed[1], "*.run.json").read_text())
        (session,) = run["sessions"]
        assert run["settings"]["top_prob_thres"] == 0.4
        assert session["servers"]["base"]["served_models"] and session["servers"]["base"]["host"] == server.host
        assert {"start", "end", "versions", "git_commit", "usage"} <= set(session)
        total = sum(record["usage"]["base"]["requests"] for record in undisturbed[2])
        assert session["usage"]["base"]["requests"] == total > 6

    def test_summary(self, undisturbed):
        finished, output, records = undisturbed
        summary = json.loads(one(output, "*.summary.json").read_text())
        correct = sum(record["scores"]["correct"] for record in records)
        assert (summary["answered"], summary["failed"], summary["correct"]) == (6, 0, correct)
        lines = finished.stdout.splitlines()
        assert lines[0] == f"num_sample 6 correct {correct} ratio_rule {correct / 6:.4f}"
        assert lines[1].startswith("num_q: 6, mean_num_nudging: ") and lines[1].endswith("%")
        for word in ("95 %", "intervention rate", "stop reasons", "base model, per answer", "seconds"):
            assert word in finished.stdout

    def test_a_second_run_only_reads(self, undisturbed, server):
        _, output, records = undisturbed
        before = server.stats()
        again = run_api(*nudging_options(server.host, output.parent / "data", output))
        assert again.returncode == 0 and again.stdout.splitlines()[:2] == undisturbed[0].stdout.splitlines()[:2]
        assert server.stats() == before and final_records(output) == records

    def test_print_intermediate_output(self, server, data_dir, tmp_path):
        finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"), "--print_intermediate_output")
        assert "[sample 0, round 1] nudging" in finished.stderr and "round" not in finished.stdout


def test_one_sample_with_20_threads(server, tmp_path):
    data = write_rows(tmp_path, "gsm8k", gsm8k_rows(1))
    assert run_api(*nudging_options(server.host, data, tmp_path / "out"), "--num_threads", 20).returncode == 0
    assert len(final_records(tmp_path / "out")) == 1


def test_dry_run_sends_nothing_and_writes_nothing(data_dir, tmp_path):
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    finished = run_api(*nudging_options(nowhere, data_dir, tmp_path / "out"), "--dry_run")
    assert finished.returncode == 0 and not (tmp_path / "out").exists()
    question = gsm8k_rows(1)[0]["question"]
    system = "Answer the question by walking through the reasoning steps."
    assert f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\nQuestion: {question} [/INST] <<<answer>>>" in finished.stdout
    assert f"{system}\nQuestion: {question}\n<<<answer>>>" in finished.stdout


class TestContinuing:
    @pytest.mark.parametrize("moment", [0.2, 0.5])
    def test_kill_9_and_continue(self, moment, undisturbed, start_server, data_dir, tmp_path):
        slow = start_server("--seed", "2", "--request_ms", "15")
        options = [*nudging_options(slow.host, data_dir, tmp_path / "out"), "--num_threads", 2]
        running = subprocess.Popen(run_api_command(*options), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wanted = round(6 * moment)
        until = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < until:
            logs = list((tmp_path / "out").rglob("*.jsonl"))
            if logs and logs[0].read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.01)
        assert running.poll() is None, "the run was over before it could be killed"
        running.kill()
        running.wait()
        log = one(tmp_path / "out", "*.jsonl")
        kept = log.read_bytes().count(b"\n")
        assert kept >= wanted
        with log.open("ab") as file:  # what a kill in the middle of a line leaves
            file.write(b'{"index": 5, "question": "torn')
        finished = run_api(*options)
        assert finished.returncode == 0 and f"{kept} of 6 answers are there already" in finished.stderr
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])
        assert log.read_bytes().count(b"\n") == 6

    def test_a_server_that_dies_in_mid_run(self, undisturbed, data_dir, tmp_path):
        server = ScriptedServer("--seed", "2", "--request_ms", "10").start()
        options = [*nudging_options(server.host, data_dir, tmp_path / "out"), "--num_threads", 1, "--max_retries", 1]
        options += ["--max_outage", 0]
        running = subprocess.Popen(run_api_command(*options), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not any(log.stat().st_size for log in (tmp_path / "out").rglob("*.jsonl")):
            assert running.poll() is None
            time.sleep(0.01)
        server.stop()
        stdout, stderr = running.communicate(timeout=60)
        assert running.returncode == 1 and "Traceback" not in stderr
        records = final_records(tmp_path / "out")
        failed = [record for record in records if "error" in record]
        assert 0 < len(failed) < 6 and f"{len(failed)} of 6 samples failed" in stderr
        assert all("raw_answer" not in record and "scores" not in record for record in failed)
        assert f"num_sample {6 - len(failed)} " in stdout  # never scored as answers
        server.start()
        try:
            assert run_api(*options).returncode == 0
        finally:
            server.stop()
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])

    def test_the_first_interrupt_saves_and_the_same_command_continues(
        self, undisturbed, start_server, data_dir, tmp_path
    ):
        slow = start_server("--seed", "2", "--request_ms", "15")
        options = [*nudging_options(slow.host, data_dir, tmp_path / "out"), "--num_threads", 2]
        running = subprocess.Popen(run_api_command(*options), stderr=subprocess.PIPE, text=True)
        while not any(log.stat().st_size for log in (tmp_path / "out").rglob("*.jsonl")):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
        assert running.returncode == 130 and "the same command continues" in stderr and "Traceback" not in stderr
        kept = one(tmp_path / "out", "*.jsonl").read_bytes().count(b"\n")
        assert 0 < kept < 6
        assert run_api(*options).returncode == 0
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])

    def test_the_second_interrupt_leaves_at_once(self, start_server, data_dir, tmp_path):
        hanging = start_server("--seed", "2", "--request_ms", "3000")
        running = subprocess.Popen(
            run_api_command(*nudging_options(hanging.host, data_dir, tmp_path / "out")),
            stderr=subprocess.PIPE,
            text=True,
        )
        while running.poll() is None and "0/6" not in (line := running.stderr.readline()) and line:
            pass
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        time.sleep(0.7)
        running.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert running.wait(timeout=30) == 130
        assert time.monotonic() - started < 2.5  # not even one request more

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

    def test_an_interrupted_rerun_names_the_command_that_continues(self, start_server, data_dir, tmp_path):
        slow = start_server("--seed", "2", "--request_ms", "15")
        options = [*nudging_options(slow.host, data_dir, tmp_path / "out"), "--num_threads", 1, "--rerun"]
        running = subprocess.Popen(run_api_command(*options), stderr=subprocess.PIPE, text=True)
        while not any(log.stat().st_size for log in (tmp_path / "out").rglob("*.jsonl")):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
        assert "the same command without --rerun continues" in stderr

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


class TestFaults:
    @pytest.mark.parametrize("fault", ["--fail_every", "--drop_every"])
    def test_every_seventh_request_fails(self, fault, undisturbed, start_server, data_dir, tmp_path):
        faulty = start_server("--seed", "2", fault, "7")
        finished = run_api(*nudging_options(faulty.host, data_dir, tmp_path / "out"))
        assert finished.returncode == 0, finished.stderr
        records = final_records(tmp_path / "out")
        assert texts(records) == texts(undisturbed[2])
        assert sum(usage["retries"] for record in records for usage in record["usage"].values()) > 0
        assert "retries" in finished.stdout

    def test_a_full_disk_damages_nothing(self, undisturbed, server, data_dir, tmp_path):
        size = one(undisturbed[1], "*.jsonl").stat().st_size
        options = [*nudging_options(server.host, data_dir, tmp_path / "out"), "--num_threads", 1]
        finished = subprocess.run(
            run_api_command(*options),
            capture_output=True,
            text=True,
            # No file may grow beyond half of what the run writes: writing fails as on a full disk.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
        )
        assert finished.returncode == 2 and "Traceback" not in finished.stderr
        assert "cannot be written" in finished.stderr and "the same command continues" in finished.stderr
        kept = one(tmp_path / "out", "*.jsonl").read_bytes().count(b"\n")
        assert 0 < kept < 6
        again = run_api(*options)
        assert again.returncode == 0 and f"{kept} of 6 answers are there already" in again.stderr
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])

    @pytest.mark.parametrize("folder", ["file/out", "/proc/out"], ids=["below_a_file", "read_only"])
    def test_an_output_folder_that_cannot_be_written(self, folder, server, data_dir, tmp_path):
        (tmp_path / "file").write_text("")
        message = plain_error(run_api(*nudging_options(server.host, data_dir, tmp_path / folder)))
        assert "--output_dir" in message

    def test_a_model_that_is_not_served(self, start_server, data_dir, tmp_path):
        named = start_server("--models", "base-lm", "other-chat")
        message = plain_error(run_api(*nudging_options(named.host, data_dir, tmp_path / "out")))
        assert "--nudging_host" in message and "llama-2-chat" in message and "it serves: base-lm, other-chat" in message

    def test_no_server(self, data_dir, tmp_path):
        nowhere = f"http://127.0.0.1:{free_port()}/v1"
        message = plain_error(run_api(*nudging_options(nowhere, data_dir, tmp_path / "out"), "--max_retries", 0))
        assert f"--base_host: base-lm at {nowhere}: no server answers there" in message

    def test_no_log_probabilities(self, reply_server, data_dir, tmp_path):
        reply = {"choices": [{"text": " a", "finish_reason": "length", "logprobs": None}]}
        server = reply_server(lambda path, body: (200, {}, {"data": []} if path.endswith("models") else reply))
        message = plain_error(run_api(*nudging_options(server.host, data_dir, tmp_path / "out")))
        assert "returns no log-probabilities on /v1/completions" in message

    def test_half_a_character(self, reply_server, server, tmp_path):
        """In a question it fails that sample alone; in a server's text it becomes a replacement character."""
        rows = [*gsm8k_rows(2), {"question": "Half \ud83d?", "answer": "1"}]
        data = write_rows(tmp_path / "data", "gsm8k", rows)
        finished = run_api(*nudging_options(server.host, data, tmp_path / "out"))
        assert finished.returncode == 1 and "1 of 3 samples failed" in finished.stderr
        assert "UnicodeEncodeError" in final_records(tmp_path / "out")[2]["error"]
        reply = completion_reply(" a\ud83d", (" a", "\ud83d"), "stop")
        half = reply_server(lambda path, body: (200, {}, {"data": []} if path.endswith("models") else reply))
        options = ["--exp", "baseline", "--base_model", "lm", "--proxy_chat_model", "lm", "--base_host", half.host]
        options += ["--proxy_chat_host", half.host, "--data_dir", write_rows(tmp_path / "d", "gsm8k", gsm8k_rows(1))]
        assert run_api(*options, "--output_dir", tmp_path / "half").returncode == 0
        assert final_records(tmp_path / "half")[0]["raw_answer"] == " a\ufffd"

    def test_no_room_in_the_context_window_is_a_result(self, start_server, data_dir, tmp_path):
        short = start_server("--seed", "2", "--max_model_len", "130")
        finished = run_api(*nudging_options(short.host, data_dir, tmp_path / "out"))
        assert finished.returncode == 0 and "context_length" in finished.stdout
        records = final_records(tmp_path / "out")
        cut = [record for record in records if record["stop_reason"] == "context_length"]
        assert cut and any(record["raw_answer"] for record in cut) and not any("error" in record for record in records)

    @pytest.mark.parametrize(
        ("content", "said"),
        [("", "has no rows"), ('{"question": "q", "answer": "1"}\n{"question": \n', "gsm8k/test.jsonl, line 2")],
    )
    def test_bad_data_files(self, content, said, server, data_dir, tmp_path):
        (data_dir / "gsm8k" / "test.jsonl").write_text(content)
        assert said in plain_error(run_api(*nudging_options(server.host, data_dir, tmp_path / "out")))

    def test_a_split_that_does_not_exist(self, server, data_dir, tmp_path):
        message = plain_error(
            run_api(*nudging_options(server.host, data_dir, tmp_path / "out"), "--split", "validation")
        )
        assert "splits there: test" in message

    def test_no_hub_connection(self, server, tmp_path):
        options = [o for o in nudging_options(server.host, "", tmp_path / "out") if o not in ("--data_dir", "")]
        message = plain_error(run_api(*options, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}))
        assert "--data_dir" in message and "Hugging Face hub" in message


class TestJudgedRuns:
    """A judged data set (strategyqa), with and without a judge."""

    ROWS = [{"question": f"Is {n} more than 3?", "answer": n > 3} for n in range(6)]

    def options(self, server, folder) -> list[object]:
        data = write_rows(folder / "data", "strategyqa", self.ROWS)
        return [*nudging_options(server.host, data, folder / "out"), "--dataset_name", "strategyqa"]

    @staticmethod
    def judge(replies) -> ReplyServer:
        texts = iter(replies)

        def reply(path, body):
            message = {"role": "assistant", "content": next(texts)}
            return 200, {}, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}

        return ReplyServer(reply)

    def test_without_a_key_the_answers_are_saved_and_the_scoring_command_works(self, server, tmp_path):
        finished = run_api(*self.options(server, tmp_path))
        assert finished.returncode == 0
        lines = [line for line in finished.stderr.splitlines() if "python eval_utils.py" in line]
        assert "OPENAI_API_KEY" in lines[0] and len(lines) == 2  # before the first sample, and at the end
        assert all(record["scores"] is None for record in final_records(tmp_path / "out"))
        judge = self.judge(['{"reason": "so", "correct": 1}'] * 6)
        command = lines[-1].split("to score: ")[1] + f" --judge_host {judge.host}"
        # `python` is the virtual environment's, as for a user who has activated it.
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        scored = subprocess.run(
            command, shell=True, cwd=REPOSITORY, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        judge.stop()
        assert scored.returncode == 0, scored.stderr
        assert "num_sample 6 correct 6 ratio_gpt 1.0000" in scored.stdout
        # and the run itself knows the scores now
        again = run_api(*self.options(server, tmp_path))
        assert "num_sample 6 correct 6 ratio_gpt 1.0000" in again.stdout

    def test_unreadable_replies_count_as_incorrect_and_are_counted(self, server, tmp_path):
        judge = self.judge(["what?"] * 18)
        finished = run_api(*self.options(server, tmp_path), "--judge_host", judge.host)
        assert finished.returncode == 0, finished.stderr
        assert "num_sample 6 correct 0 ratio_gpt 0.0000" in finished.stdout
        assert "judgements that stayed unreadable  6" in finished.stdout
        assert len(judge.requests) == 18
        again = run_api(*self.options(server, tmp_path), "--judge_host", judge.host)
        judge.stop()
        assert again.returncode == 0 and len(judge.requests) == 18  # stored: nothing is asked for again

    def test_judge_none(self, server, tmp_path):
        finished = run_api(*self.options(server, tmp_path), "--judge", "none")
        assert finished.returncode == 0 and "unscored" in finished.stdout

    def test_scores_of_another_judge_do_not_count(self, server, tmp_path):
        first = self.judge(['{"correct": 1}'] * 6)
        assert run_api(*self.options(server, tmp_path), "--judge_host", first.host).returncode == 0
        first.stop()
        count = iter(range(100))
        good = {"choices": [{"message": {"content": '{"correct": 0}'}}]}
        second = ReplyServer(lambda path, body: (200, {}, good) if next(count) < 2 else (401, {}, {"error": "no"}))
        finished = run_api(
            *self.options(server, tmp_path), "--judge_host", second.host, "--judge_model", "b", "--num_threads", 1
        )
        second.stop()
        assert finished.returncode == 1 and "4 answers could not be scored" in finished.stderr
        assert "num_sample 2 correct 0 ratio_gpt 0.0000" in finished.stdout and "b (2)" in finished.stdout

    def test_a_judge_that_fails(self, server, tmp_path):
        judge = ReplyServer(lambda path, body: (401, {}, {"error": {"message": "bad key"}}))
        finished = run_api(*self.options(server, tmp_path), "--judge_host", judge.host)
        judge.stop()
        assert (
            finished.returncode == 1
            and "6 answers could not be scored" in finished.stderr
            and "bad key" in finished.stderr
        )
        assert len(final_records(tmp_path / "out")) == 6


def test_api_keys_come_from_the_named_variables(data_dir, tmp_path, reply_server):
    server = reply_server(lambda path, body: (200, {}, {"data": []} if path.endswith("models") else completion_reply()))
    options = ["--exp", "base_only", "--base_model", "lm", "--base_host", server.host, "--data_dir", data_dir]
    options += ["--output_dir", tmp_path / "out", "--base_api_key_env", "MY_KEY"]
    assert "MY_KEY is not set" in plain_error(run_api(*options))
    finished = run_api(*options, env={"MY_KEY": "secret-5"})
    assert finished.returncode == 0
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "secret-5" not in written + finished.stdout + finished.stderr
    # nor where a server repeats the key, nor a password in a URL
    echoing = reply_server(lambda path, body: (401, {}, {"error": {"message": "wrong key secret-5"}}))
    host = echoing.host.replace("http://", "http://bob:hunter2@")
    finished = run_api(*options[:5], host, *options[6:], "--rerun", env={"MY_KEY": "secret-5\n"})
    assert "wrong key ***" in plain_error(finished) and "secret-5" not in finished.stderr + finished.stdout
    assert "hunter2" not in finished.stderr + finished.stdout
    finished = run_api(*options[:5], host, *options[6:], "--dry_run", env={"MY_KEY": "secret-5"})
    assert finished.returncode == 0 and "***@127.0.0.1" in finished.stdout and "hunter2" not in finished.stdout
    assert "hunter2" not in plain_error(run_api(*options[:5], host + "?x", *options[6:]))
