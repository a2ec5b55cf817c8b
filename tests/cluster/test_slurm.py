"""Sweeps on a real Slurm: two nodes on this machine, one array task killed and another requeued in the middle of its samples."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import needs
import pytest
import slurm_cluster
from doubles import Gate, free_port
from runs import REPOSITORY, final_records, gsm8k_rows, one, run_api, write_rows
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
if lack := slurm_cluster.missing():
    needs.leave_out(f"no Slurm to test on ({lack})", needs.DEBIAN.format("slurm-wlm munge"))

TEXT_FIELDS = ("index", "question", "raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")
CONFIG = """\
output_dir = "{folder}/out put"
data_dir = "{folder}/data"
shards = 2
[options]
num_threads = 1
max_token_total = 128
[[pairs]]
name = "small"
base_model = "base-lm"
{base_host}
nudging_model = "llama-2-chat"
{nudging_host}
thresholds = [0.4]
[slurm]
{serve}
[slurm.sbatch]
time = "120"
requeue = true
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = slurm_cluster.SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def texts(records: list[dict]) -> list[dict]:
    return [{field: record[field] for field in TEXT_FIELDS} for record in records]


def write_config(folder: Path, host: str | None, serve: str = "") -> Path:
    hosts = {f"{role}_host": f'{role}_host = "{host}"' if host else "" for role in ("base", "nudging")}
    (folder / "sweep.toml").write_text(CONFIG.format(folder=folder, serve=serve, **hosts))
    return folder / "sweep.toml"


def submit(slurm, config: Path, environment: dict | None = None) -> str:
    command = [sys.executable, REPOSITORY / "scripts/sweep.py", config, "--slurm"]
    done = subprocess.run(command, env=slurm.environment | (environment or {}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.replace(";", " ").split()
    return words[words.index("array") + 1]


def undisturbed(server, folder: Path) -> list[dict]:
    options = [
        "--exp",
        "nudging",
        "--base_model",
        "base-lm",
        "--nudging_model",
        "llama-2-chat",
        "--max_token_total",
        128,
    ]
    options += ["--base_host", server.host, "--nudging_host", server.host, "--top_prob_thres", 0.4]
    done = run_api(*options, "--data_dir", folder / "data", "--output_dir", folder / "whole")
    assert done.returncode == 0, done.stderr
    return texts(final_records(folder / "whole"))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def processes_of(log: Path) -> list[tuple[int, str]]:
    """The run_api.py processes that write to a folder, each with its shard."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(log.parents[2]).encode() in words and any(word.endswith(b"run_api.py") for word in words):
            found.append((int(process.name), words[words.index(b"--shard") + 1].decode()))
    return found


@pytest.fixture
def gate_of_shards(server):
    """Start a gate that lets no shard of two ask anything after its second answer, until it is opened."""
    gates = []

    def start(logs: list[Path]) -> Gate:
        def has_answered_two(body: dict) -> bool:
            shard = shard_of(body)
            return shard is not None and lines(logs[shard]) >= 2

        gates.append(Gate(server, has_answered_two))
        return gates[-1]

    yield start
    for one_of_them in gates:
        one_of_them.stop()


def shard_of(body: dict) -> int | None:
    """Which of two shards asks for a question of gsm8k_rows (0 or 1); None for what a probe asks."""
    found = re.search(r"Tom has (\d+) apples", str(body.get("prompt")))
    return int(found[1]) % 2 if found else None


def test_a_sweep_whose_tasks_are_killed_and_requeued(slurm, server, gate_of_shards, tmp_path):
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(16))
    name = "split_test_top_prob_0.4_thres_nudging_base-lm_llama-2-chat_None_samples"
    folder = tmp_path / "out put/gsm8k/all_info"
    logs = [folder / f"{name}_shard{i}of2.jsonl" for i in (1, 2)]
    front = gate_of_shards(logs)
    array = submit(slurm, write_config(tmp_path, front.host))
    wait_until(lambda: {shard_of(body) for body in front.held} == {0, 1}, "each shard waits after two answers")
    (killed,) = (pid for pid, shard in processes_of(logs[1]) if shard == "2/2")
    os.kill(killed, signal.SIGKILL)
    slurm("scontrol", "requeue", f"{array}_1")
    failed = f"{array}_2 FAILED"
    wait_until(lambda: failed in {f"{job[0]} {job[1]}" for job in slurm.jobs()}, failed, pause=slurm_cluster.LOOK)
    slurm("scontrol", "requeue", f"{array}_2")
    kept = [lines(log) for log in logs]
    assert kept == [2, 2]
    front.open()
    slurm.wait_until_empty()
    for i, n in enumerate(kept, 1):
        told = one(tmp_path / "out put/slurm", f"{i}.log").read_text()
        (went_on,) = re.findall(r"(\d) of 8 answers are there already", told)
        assert n <= int(went_on) < 8  # a task that was told to stop may still finish what was in flight
        assert "Restarts=1" in slurm("scontrol", "show", "job", f"{array}_{i}")
    assert "told to stop by the scheduler" in one(tmp_path / "out put/slurm", "1.log").read_text()
    told = one(tmp_path / "out put/slurm", "table.log").read_text()
    assert "16 samples of 2 shards" in told, told
    assert texts(json.loads((folder / f"{name}.json").read_text())) == undisturbed(server, tmp_path)
    rows = (tmp_path / "out put/results.csv").read_text().splitlines()
    assert len(rows) == 2 and ",True,16," in rows[1]


def test_every_task_hosts_its_pair_and_stops_it(slurm, server, tmp_path):
    """The servers are a stand-in that says where the scripted server is, and when it is told to stop."""
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(2))
    stand_in = tmp_path / "serve.sh"
    stand_in.write_text(
        f'#!/usr/bin/env bash\necho "$@" >"{tmp_path}/asked-$$"\nwhile [ "$1" != --ready_file ]; do shift; done\n'
        f'printf "BASE_HOST=%s\\nNUDGING_HOST=%s\\n" {server.host} {server.host} >"$2"\n'
        f'trap "touch {tmp_path}/stopped-$$; exit" TERM\nwhile :; do sleep 0.1; done\n'
    )
    stand_in.chmod(0o755)
    config = write_config(tmp_path, None, 'serve = "--base_gpus 0"')
    submit(slurm, config, {"SERVE_MODELS": str(stand_in)})
    slurm.wait_until_empty()
    told = one(tmp_path / "out put/slurm", "table.log").read_text()
    assert "2 samples of 2 shards" in told, told + one(tmp_path / "out put/slurm", "1.log").read_text()
    asked = [path.read_text().split() for path in tmp_path.glob("asked-*")]
    assert len(asked) == len(list(tmp_path.glob("stopped-*"))) == 2
    assert all(words[:2] == ["base-lm", "llama-2-chat"] and words[-2:] == ["--base_gpus", "0"] for words in asked)
    assert texts(final_records(tmp_path / "out put")) == undisturbed(server, tmp_path)


VLLM = """\
#!/usr/bin/env bash
echo "$SLURMD_NODENAME $*" >>{folder}/started
while [ $# -gt 0 ]; do [ "$1" != --port ] || port=$2; shift; done
[ -n "$port" ] || exec sleep 1000
exec {python} {repository}/tests/support/scripted_lm_server.py --host 0.0.0.0 --seed 2 --port "$port"
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def work(tmp_path):
    """A folder in which the batch files find what they find in the repository."""
    write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(2))
    folder = tmp_path / "work"
    write_program(folder / ".venv/bin/python", f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    for name in ("scripts", "run_api.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def run_batch_file(slurm, name: str, work: Path, environment: dict, *options: str) -> list[dict]:
    """Submit a batch file as it is, but for its ports, and wait for the answers."""
    script = (REPOSITORY / "scripts/slurm" / name).read_text()
    for port in ("8000", "8001"):
        script = script.replace(f"_port={port}", f"_port={free_port()}")
    (work / name).write_text(script)
    command = ["sbatch", "--cpus-per-task=1", "--time=120", *options, name, "--data_dir", str(work.parent / "data")]
    command += ["--max_token_total", "64", "--output_dir", str(work.parent / "out")]
    done = subprocess.run(command, cwd=work, env=slurm.environment | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    slurm.wait_until_empty()
    logs = "".join(path.read_text() for path in work.glob("slurm-*.log"))
    assert "answers " in logs and "Traceback" not in logs, logs
    return final_records(work.parent / "out")


def test_host_and_run(slurm, server, work):
    hosts = f"BASE_HOST={server.host}\\nNUDGING_HOST={server.host}\\n"
    write_program(
        work / "serve",
        f'#!/usr/bin/env bash\nwhile [ "$1" != --ready_file ]; do shift; done\nprintf \'{hosts}\' >"$2"\nexec sleep 1000\n',
    )
    records = run_batch_file(slurm, "host_and_run.sbatch", work, {"SERVE_MODELS": str(work / "serve")})
    assert len(records) == 2 and all(record["raw_answer"] for record in records)


def test_host_and_serve(slurm, work):
    """Until it is cancelled; the servers are a stand-in that says what it was started with, and when it is told to stop."""
    write_program(
        work / "serve",
        f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" "key of ${{#VLLM_API_KEY}}" >"{work}/asked"\n'
        'while [ "$1" != --ready_file ]; do shift; done\nprintf "PAIR_HOST=http://node:8010/v1\\n" >"$2"\n'
        f'trap "touch {work}/stopped; exit" TERM\nwhile :; do sleep 0.1; done\n',
    )
    (work / "serve.sbatch").write_text((REPOSITORY / "scripts/slurm/host_and_serve.sbatch").read_text())
    command = ["sbatch", "--parsable", "--cpus-per-task=1", "--time=120", "serve.sbatch", "--max_model_len", "4096"]
    environment = slurm.environment | {"SERVE_MODELS": str(work / "serve"), "PAIR_KEY": "sk-pair"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    url = work / f"pair-{done.stdout.strip()}.url"
    wait_until(url.exists, "the pair is served", pause=slurm_cluster.LOOK)
    assert url.read_text() == "http://node:8010/v1\n"
    asked = (work / "asked").read_text().splitlines()
    options = "--api_key_env PAIR_KEY --top_prob_thres 0.4"
    assert asked[:2] == ["meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-7b-chat-hf"]
    assert asked[-9:] == [
        *("--host", "0.0.0.0", "--serve_nudged", "0", "--serve_nudged_options", options),
        *("--max_model_len", "4096", "key of 32"),
    ]
    slurm("scancel", done.stdout.strip())
    slurm.wait_until_empty()
    assert (work / "stopped").exists() and not url.exists()
    assert "sk-pair" not in "".join(path.read_text() for path in work.glob("slurm-*.log"))


def test_two_nodes(slurm, work):
    """vLLM is a stand-in: what it is called with on which node, and that the job ends with its servers."""
    write_program(work / "bin/vllm", VLLM.format(folder=work, python=sys.executable, repository=REPOSITORY))
    path = f"{work}/bin:{slurm.environment['PATH']}"
    records = run_batch_file(slurm, "two_nodes.sbatch", work, {"PATH": path})
    assert len(records) == 2 and all(record["raw_answer"] for record in records)
    nudging, *base = (work / "started").read_text().splitlines()
    assert nudging.startswith("node1 serve meta-llama/Llama-3.1-8B-Instruct ")
    first, second = sorted(base)
    assert first.startswith("node1 serve meta-llama/Llama-3.1-405B ") and "--nnodes 2 " in first
    assert "--node-rank 0 --port" in first and second.startswith("node2 ")
    assert second.endswith("--node-rank 1 --headless")
