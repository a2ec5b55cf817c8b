"""scripts/slurm/common.sh with stand-ins for squeue and scontrol: requeueing, servers that end, runs that go on."""

import os
import signal
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from runs import REPOSITORY
from waiting import finish, wait_until


@pytest.fixture
def batch(tmp_path):
    """Start a batch script's body after common.sh; `ends_in` seconds stands for the job's time limit (None: squeue fails)."""

    def start(body: str, ends_in: float | None = 3600, **environment: str) -> subprocess.Popen:
        end = "" if ends_in is None else f"{datetime.now() + timedelta(seconds=ends_in):%Y-%m-%dT%H:%M:%S}"
        for name, line in {
            "squeue": f'echo "$@" >>{tmp_path}/squeue-asked; echo {end}',
            "scontrol": f"echo $@ >>{tmp_path}/told",
        }.items():
            (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
            (tmp_path / name).chmod(0o755)
        script = tmp_path / "job"
        script.write_text(f"set -euo pipefail\n. {REPOSITORY}/scripts/slurm/common.sh\n{body}\n")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        environment = clean | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"} | environment
        return subprocess.Popen(
            ["bash", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def terminate_when(path: Path, job: subprocess.Popen) -> str:
    wait_until(path.exists, f"{path} is there", job)
    job.send_signal(signal.SIGTERM)
    return finish(job)[0]


def told(folder: Path) -> str:
    return (folder / "told").read_text() if (folder / "told").exists() else ""


WAITS = "run_and_finish bash -c 'touch {}/begun; exec sleep 1800'"
ARRAY = {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(("array", "name"), [({}, "1"), (ARRAY, "1_2")], ids=["job", "last_task_of_an_array"])
def test_out_of_time_the_job_requeues_itself_and_no_sibling(batch, tmp_path, array, name):
    job = batch(WAITS.format(tmp_path), ends_in=250, **array)
    terminate_when(tmp_path / "begun", job)
    assert job.returncode == 143 and told(tmp_path).split() == ["requeue", name]
    assert f"-j {name} " in (tmp_path / "squeue-asked").read_text()


@pytest.mark.parametrize("ends_in", [3600, None], ids=["long_before_the_limit", "squeue_says_nothing"])
def test_otherwise_a_sigterm_is_the_end(batch, tmp_path, ends_in):
    job = batch(WAITS.format(tmp_path), ends_in=ends_in)
    terminate_when(tmp_path / "begun", job)
    assert job.returncode == 143 and told(tmp_path) == ""


def test_a_server_that_ends_stops_the_run(batch, tmp_path):
    job = batch(f"sleep 1 & servers=$!\n{WAITS.format(tmp_path)}")
    shown = finish(job)[0]
    assert job.returncode == 1 and "a server has ended" in shown and told(tmp_path) == ""


def test_the_command_s_own_exit_code_is_the_job_s(batch):
    job = batch("sleep 1800 & servers=$!\nrun_and_finish bash -c 'exit 7'")
    finish(job)
    assert job.returncode == 7


@pytest.mark.parametrize(("restarts", "words"), [("0", "--rerun --x"), ("1", "--x")])
def test_a_job_that_runs_again_sets_nothing_aside(batch, restarts, words):
    job = batch("run_and_finish echo --rerun --x", SLURM_RESTART_COUNT=restarts)
    assert finish(job)[0].strip() == words


def test_servers_of_this_machine_are_asked_without_a_proxy(batch):
    job = batch('echo "$no_proxy $NO_PROXY"', no_proxy="example.org", NO_PROXY="")
    assert finish(job)[0].split() == ["127.0.0.1,localhost,example.org"] * 2
