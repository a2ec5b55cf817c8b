"""run_api.py as a user runs it: a whole run, refusals, faults, judged data sets."""

import json
import os
import resource
import subprocess
import sys

import pytest
from doubles import ReplyServer, completion_reply, free_port
from runs import REPOSITORY, final_records, gsm8k_rows, nudging_options, one, run_api, run_api_command, write_rows
from whole_runs import plain_error, texts

from command.provenance import version

pytestmark = pytest.mark.slow  # runs the command line, many times


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
        assert session["version"] == version()
        # of packages those alone that had a part: the rows were local files, and nothing was computed in this process
        assert set(session["versions"]) == {"python", "openai", "httpx2", "tiktoken"}
        assert session["templates"] == {"base": "plain (by name)", "nudging": "llama-2 (by name)"}
        total = sum(record["usage"]["base"]["requests"] for record in undisturbed[2])
        assert session["usage"]["base"]["requests"] == total > 6

    def test_summary(self, undisturbed):
        finished, output, records = undisturbed
        summary = json.loads(one(output, "*.summary.json").read_text())
        correct = sum(record["scores"]["correct"] for record in records)
        assert (summary["answered"], summary["failed"], summary["correct"]) == (6, 0, correct)
        lines = finished.stdout.splitlines()
        assert lines[0].startswith("num_q: 6, mean_num_nudging: ") and lines[0].endswith("%")
        assert lines[1:3] == [f"num_sample 6 correct {correct} ratio_rule {correct / 6:.4f}", ""]
        for word in (
            "95 %",
            "intervention rate",
            "nudged characters",
            "stop reasons",
            "base model, per answer",
            "seconds",
        ):
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
        """In a question and in a server's text it becomes a replacement character."""
        rows = [*gsm8k_rows(2), {"question": "Half \ud83d?", "answer": "1"}]
        data = write_rows(tmp_path / "data", "gsm8k", rows)
        finished = run_api(*nudging_options(server.host, data, tmp_path / "out"))
        assert finished.returncode == 0, finished.stderr
        half = final_records(tmp_path / "out")[2]
        assert half["question"] == "Half \ud83d?" and "Half \ufffd?" in half["full_prefix_base"] and half["raw_answer"]
        reply = completion_reply(" a\ud83d", (" a", "\ud83d"), "stop")
        half = reply_server(lambda path, body: (200, {}, {"data": []} if path.endswith("models") else reply))
        options = ["--exp", "baseline", "--base_model", "lm", "--proxy_chat_model", "lm", "--base_host", half.host]
        options += [
            "--nudging_template",
            "plain",
            "--proxy_chat_host",
            half.host,
            "--data_dir",
            write_rows(tmp_path / "d", "gsm8k", gsm8k_rows(1)),
        ]
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
        assert finished.returncode == 1
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
        assert again.returncode == 0 and "num_sample 6 correct 6 ratio_gpt 1.0000" in again.stdout

    def test_unreadable_replies_are_not_counted_and_asked_for_again(self, server, tmp_path):
        judge = self.judge(["what?"] * 36 + ['{"correct": 1}'] * 6)
        options = [*self.options(server, tmp_path), "--judge_host", judge.host]
        finished = run_api(*options)
        assert finished.returncode == 1 and "ratio_gpt" not in finished.stdout
        assert "6 judgements cannot be read and are not counted, such as 'what?'" in finished.stderr
        assert len(judge.requests) == 18
        published = run_api(*options, "--unreadable_judgements", "published")
        assert published.returncode == 0 and "num_sample 6 correct 0 ratio_gpt 0.0000" in published.stdout
        assert "counted as wrong or 1 (as published)  6" in published.stdout
        again = run_api(*options)
        judge.stop()
        assert again.returncode == 0 and len(judge.requests) == 42
        assert "num_sample 6 correct 6 ratio_gpt 1.0000" in again.stdout

    def test_judge_none(self, server, tmp_path):
        finished = run_api(*self.options(server, tmp_path), "--judge", "none")
        assert finished.returncode == 0 and "unscored" in finished.stdout

    def test_scores_of_another_judge_are_not_replaced(self, server, tmp_path):
        first = self.judge(['{"correct": 1}'] * 6)
        assert run_api(*self.options(server, tmp_path), "--judge_host", first.host).returncode == 0
        finished = run_api(*self.options(server, tmp_path), "--judge_host", first.host, "--judge_model", "b")
        assert "6 by gpt-4o-mini" in plain_error(finished) and "--rescore" in finished.stderr
        finished = run_api(*self.options(server, tmp_path), "--judge_host", first.host)
        first.stop()
        assert finished.returncode == 0 and "gpt-4o-mini (6)" in finished.stdout and len(first.requests) == 6

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
    finished = run_api(*options[:5], echoing.host, *options[6:], "--rerun", env={"MY_KEY": "secret-5\n"})
    assert "wrong key ***" in plain_error(finished) and "secret-5" not in finished.stderr + finished.stdout
    # A request has room for one of them.
    host = echoing.host.replace("http://", "http://bob:hunter2@")
    finished = run_api(*options[:5], host, *options[6:], env={"MY_KEY": "secret-5"})
    assert "--base_host has a user and password, and --base_api_key_env names a key" in plain_error(finished)
    assert "hunter2" not in finished.stderr + finished.stdout
    finished = run_api(*options[:5], host, *options[6:-2], "--dry_run")
    assert finished.returncode == 0 and "***@127.0.0.1" in finished.stdout and "hunter2" not in finished.stdout
    assert "hunter2" not in plain_error(run_api(*options[:5], host + "?x", *options[6:-2]))
