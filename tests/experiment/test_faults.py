"""What goes wrong in runs of days: servers that restart, kills, full disks, stale locks, hostile text, keys."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import needs
import pytest
from doubles import ScriptedServer, completion_reply
from runs import REPOSITORY, Running, final_records, nudging_options, one, run_api, run_api_command, write_rows
from waiting import HANG, in_threads, wait_until
from whole_runs import plain_error, texts

from command import files as files_module
from command.files import ResultsError
from experiment.result_files import ResultFiles

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m\rover\x00\x08\x7f\u202eabc \ud83d end"
CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae|\xed[\xa0-\xbf]")


@pytest.mark.slow
class TestServers:
    def test_a_server_that_is_killed_and_started_again(self, undisturbed, gate, data_dir, tmp_path):
        """The run waits, goes on by itself, and its result is that of an undisturbed one."""
        server = ScriptedServer("--seed", "2").start()
        front = gate(server, tmp_path / "out")
        options = [*nudging_options(front.host, data_dir, tmp_path / "out"), "--num_threads", 2, "--max_retries", 1]
        options += ["--max_outage", HANG]
        running = Running(tmp_path / "said", run_api_command(*options))
        try:
            front.wait_until_closed(running.process)
            server.stop()
            front.open()
            running.until_it_says("asking again for a while")
            # More often than one retry would ask.
            wait_until(lambda: 3 in Counter(front.cut).values(), "a request is sent a third time", running.process)
            server.start()
            code, stderr = running.finish(), running.stderr
        finally:
            server.stop()
        assert code == 0, stderr
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])
        # A model that no sample asked for in those seconds did not notice; each says at most once that it is away, and back.
        away = re.findall(r"warning: (\S+) at .*asking again for a while", stderr)
        assert away and len(away) == len(set(away))
        assert sorted(away) == sorted(re.findall(r"(\S+) at \S+ answers again", stderr))

    def test_a_tenth_of_the_requests_fails_or_is_cut(self, undisturbed, start_server, data_dir, tmp_path):
        faulty = start_server("--seed", "2", "--fail_every", "20", "--drop_every", "21")
        finished = run_api(*nudging_options(faulty.host, data_dir, tmp_path / "out"))
        assert finished.returncode == 0, finished.stderr
        records = final_records(tmp_path / "out")
        assert texts(records) == texts(undisturbed[2])
        usage = [use for record in records for use in record["usage"].values()]
        share = sum(use["retries"] for use in usage) / sum(use["requests"] for use in usage)
        assert 0.05 < share < 0.2

    def test_a_server_that_is_slow(self, undisturbed, start_server, data_dir, tmp_path):
        slow = start_server("--seed", "2", "--request_ms", "150")
        options = nudging_options(slow.host, data_dir, tmp_path / "out")
        assert run_api(*options).returncode == 0
        assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])


@pytest.mark.long
@pytest.mark.slow
def test_kill_9_at_25_random_moments(undisturbed, server, data_dir, tmp_path):
    wanted = one(undisturbed[1], "*_samples.json")
    options = nudging_options(server.host, data_dir, tmp_path / "out")[:-2]
    script = [
        sys.executable,
        REPOSITORY / "tests/support/kill_often.py",
        "25",
        "609",
        wanted,
        tmp_path / "out",
        *options,
    ]
    finished = subprocess.run(list(map(str, script)), capture_output=True, text=True, timeout=HANG)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    print(found)
    assert found["kills"] == 25 and found["finished"] >= 1


def no_flock(error: str):
    """fcntl.flock on a file system that answers it with an error."""

    def flock(*_):
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    return flock


class TestLock:
    """Two runs on one output: the lock goes with its process, whatever the file says."""

    @staticmethod
    def files(folder) -> ResultFiles:
        return ResultFiles(folder, "run")

    def test_a_second_holder_is_refused_and_told_who_has_it(self, tmp_path):
        with self.files(tmp_path).locked():
            with pytest.raises(ResultsError, match=rf"another run \(process {os.getpid()} on \S+, since"):
                with self.files(tmp_path).locked():
                    pass

    @pytest.mark.parametrize("left", ["process 4194399 on here, since long ago", "", "\x1b[2J" * 3, "\udcff"])
    def test_files_without_a_holder_are_no_lock(self, left, tmp_path):
        files = self.files(tmp_path)
        files.jsonl.parent.mkdir()
        for suffix in (".lock", ".holder"):
            files._lock_file.with_suffix(suffix).write_bytes(left.encode("utf-8", "surrogateescape"))
        with files.locked():
            with pytest.raises(ResultsError, match=f"process {os.getpid()} on"), self.files(tmp_path).locked():
                pass
        with files.locked():  # and it is free again
            pass

    @pytest.mark.parametrize("error", [None, "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK"])
    def test_threads_of_one_process(self, error, tmp_path, monkeypatch):
        if error:
            monkeypatch.setattr(fcntl, "flock", no_flock(error))
            monkeypatch.setattr(files_module, "TAKE_OVER_SECONDS", 0.1)
        held, at_once, refused = threading.Lock(), [], []
        together = threading.Barrier(4, timeout=HANG)

        def run() -> None:
            together.wait()
            try:
                with self.files(tmp_path).locked():
                    at_once.append(held.acquire(blocking=False))
                    together.wait()  # until the others have been refused
                    held.release()
            except ResultsError as refusal:
                refused.append(str(refusal))
                together.wait()

        in_threads([run] * 4)
        assert at_once == [True] and len(refused) == 3
        with self.files(tmp_path).locked():
            pass

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [None, "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK"])
    def test_a_holder_that_was_killed_leaves_no_lock(self, error, tmp_path, monkeypatch):
        """Also where the file system knows no locks (some of clusters' do not): there the file's own process id counts."""
        code = "import pathlib, time\nfrom experiment.result_files import ResultFiles\n"
        if error:
            monkeypatch.setattr(fcntl, "flock", no_flock(error))
            code = f"import fcntl\nfrom test_faults import no_flock\nfcntl.flock = no_flock({error!r})\n" + code
        code += f"with ResultFiles(pathlib.Path({str(tmp_path)!r}), 'run').locked():\n    print(flush=True)\n    time.sleep({HANG})"
        paths = [
            *map(str, (REPOSITORY, REPOSITORY / "tests/support", Path(__file__).parent)),
            os.environ.get("PYTHONPATH", ""),
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if error not in (None, "ENOSYS"):  # for one of them the time that users wait
            monkeypatch.setattr(files_module, "TAKE_OVER_SECONDS", 0.1)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as holder:
            holder.stdout.readline()
            with pytest.raises(ResultsError, match=str(holder.pid)) as refused, self.files(tmp_path).locked():
                pass
            assert ("delete" in str(refused.value)) == bool(error)  # what to do where nobody can see whether it lives
            holder.send_signal(signal.SIGKILL)
        monkeypatch.setattr(
            files_module, "TAKE_OVER_SECONDS", HANG
        )  # it is taken over at the second look, whenever that is
        with self.files(tmp_path).locked():
            pass

    def test_a_marker_of_another_machine_stays(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fcntl, "flock", no_flock("ENOSYS"))
        monkeypatch.setattr(files_module, "TAKE_OVER_SECONDS", 0.1)
        files = self.files(tmp_path)
        files.jsonl.parent.mkdir()
        files._lock_file.with_suffix(".softlock").write_text("4194399\nanother-machine\n")
        with pytest.raises(ResultsError, match=r"delete \S+\.softlock if it is gone"), files.locked():
            pass

    def test_a_failure_of_flock_that_is_no_lack_of_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fcntl, "flock", no_flock("EIO"))
        with pytest.raises(ResultsError, match="choose another --output_dir"), self.files(tmp_path).locked():
            pass


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", folder], capture_output=True)
    if mounting.returncode:
        needs.leave_out("no right to mount a file system of its own, to fill it", "run as root, on Linux")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full(undisturbed, server, data_dir, tmp_path, small_disk):
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as filler:
        filler.write(b"x" * 28 * 1024)
    options = [*nudging_options(server.host, data_dir, small_disk / "out"), "--num_threads", 1]
    message = run_api(*options)
    assert message.returncode == 2 and "Traceback" not in message.stderr
    assert "No space left on device" in message.stderr and "the same command continues" in message.stderr
    kept = one(small_disk / "out", "*.jsonl").read_bytes().count(b"\n")
    assert 0 < kept < 6
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    again = run_api(*options)
    assert again.returncode == 0 and f"{kept} of 6 answers are there already" in again.stderr
    assert texts(final_records(small_disk / "out")) == texts(undisturbed[2])


def models_or(reply):
    """Replies of a server with one completion."""
    return lambda path, body: (200, {}, {"data": []} if path.endswith("models") else reply)


@pytest.mark.slow
class TestHostileText:
    """Model output and server messages reach neither the terminal nor the readable file with control characters."""

    def look(self, finished, folder=None):
        assert "Traceback" not in finished.stderr
        for text in (finished.stdout, finished.stderr):
            # The progress bar goes back to the start of its line by itself.
            assert not CONTROLS.search(text.replace("\r", "").encode("utf-8", "surrogatepass")), text
        for path in folder.rglob("*") if folder else ():
            if path.is_file():
                assert not CONTROLS.search(path.read_bytes()), path

    def test_of_a_model(self, reply_server, data_dir, tmp_path):
        begins = f" {HOSTILE}\nnext\tline "
        text = begins + "x" * 1_000_000

        def reply(path, body):  # without log-probabilities a text of this length is no single token
            told = text if body and body.get("logprobs") else begins + "x" * 400
            return models_or(completion_reply(told, (told,), "stop"))(path, body)

        server = reply_server(reply)
        finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"), "--print_intermediate_output")
        assert finished.returncode == 0, finished.stderr
        self.look(finished, tmp_path / "out")
        assert max(map(len, finished.stderr.splitlines())) < 10_000
        readable = one(tmp_path / "out", "*.txt").read_text()
        assert "\\x1b[2J" in readable and "\nnext\tline" in readable
        # What is for programs has the text itself (half a character is none).
        said = text.replace("\ud83d", "\ufffd").strip()[:90]
        answer = final_records(tmp_path / "out")[0]["raw_answer"]
        assert answer[: len(said)] == said, (len(answer), answer[:120], said[:120])

    @pytest.mark.parametrize("status", [200, 400, 500])
    def test_of_an_error_page(self, status, reply_server, data_dir, tmp_path):
        page = ("<html>" + HOSTILE * 20_000).encode("utf-8", "replace")
        server = reply_server(lambda path, body: (status, {"Content-Type": "text/html"}, page))
        finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"), "--max_retries", 0)
        assert len(plain_error(finished)) < 1000
        self.look(finished)

    def test_of_names_of_models_and_of_a_failing_sample(self, reply_server, data_dir, tmp_path):
        names = {"data": [{"id": HOSTILE * 10_000, "object": "model", "created": 0, "owned_by": ""}]}
        count = iter(range(1000))

        def reply(path, body):
            if path.endswith("models"):
                return 200, {}, names
            broken = {"error": {"message": HOSTILE}}
            return (200, {}, completion_reply(tokens=["hello"])) if next(count) < 20 else (403, {}, broken)

        server = reply_server(reply)
        options = [*nudging_options(server.host, data_dir, tmp_path / "out"), "--num_threads", 1]
        finished = run_api(*options)
        assert finished.returncode == 1 and "samples failed" in finished.stderr
        self.look(finished, tmp_path / "out")
        assert len(finished.stderr) < 50_000

    def test_of_a_data_set_in_a_dry_run(self, tmp_path):
        data = write_rows(tmp_path / "data", "gsm8k", [{"question": HOSTILE, "answer": "1"}])
        finished = run_api(*nudging_options("http://127.0.0.1:9/v1", data, tmp_path / "out"), "--dry_run")
        assert finished.returncode == 0 and "\\x1b[2J" in finished.stdout
        self.look(finished)


@pytest.mark.slow
class TestKeys:
    KEY = "sk-test-0123456789abcdefghijklmnopqrstuvwxyz"

    @pytest.mark.parametrize(
        "reply",
        [
            (401, {}, {"error": {"message": "x" * 280 + KEY}}),  # where messages are cut, no half of a key stays
            (400, {}, {"detail": [KEY]}),
            (500, {}, b"<html>" + KEY.encode()),
            (200, {}, b"<html>" + b"x" * 260 + KEY.encode()),
            (200, {}, {"choices": KEY}),
            (200, {}, completion_reply(text=" other words here", tokens=(KEY,), text_offset=None)),
        ],
        ids=["401", "400", "500", "html", "shape", "tokens"],
    )
    def test_a_key_that_a_server_repeats(self, reply, reply_server, data_dir, tmp_path):
        count = iter(range(1000))
        fine = completion_reply(tokens=["hello"])

        def answer(path, body):
            if path.endswith("models"):
                return 200, {}, {"data": []}
            return (200, {}, fine) if next(count) < 20 else reply

        for skipped, code in ((20, 2), (0, 1)):  # in the probe, and in samples
            count = iter(range(skipped, 1000))
            server = reply_server(answer)
            options = [*nudging_options(server.host, data_dir, tmp_path / str(code)), "--num_threads", 1]
            options += ["--max_retries", 0, "--base_api_key_env", "MY_KEY", "--nudging_api_key_env", "MY_KEY"]
            finished = run_api(*options, env={"MY_KEY": self.KEY})
            assert finished.returncode == code, finished.stderr
            written = "".join(p.read_text() for p in (tmp_path / str(code)).rglob("*") if p.is_file())
            for text in (finished.stdout, finished.stderr, written):
                assert self.KEY[:12] not in text

    def test_run_json_and_the_log_hold_none(self, server, data_dir, tmp_path):
        with_password = server.host.replace("http://", "http://user:hunter2@")
        options = nudging_options(with_password, data_dir, tmp_path / "out")
        hosts = f"{server.host},{server.host.replace('127.0.0.1', 'localhost')}"
        keys = ("--base_host", hosts, "--base_api_key_env", "MY_KEY")  # the other model is asked with the password
        finished = run_api(*options, *keys, env={"MY_KEY": self.KEY})
        assert finished.returncode == 0, finished.stderr
        written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
        for text in (finished.stdout, finished.stderr, written):
            assert self.KEY not in text and "hunter2" not in text
        assert "MY_KEY" in written
