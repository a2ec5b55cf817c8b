"""A real Slurm on this machine, without systemd: munged, slurmctld and two slurmd, with all their state in one folder."""

import os
import shutil
import subprocess
from pathlib import Path

from doubles import free_port
from waiting import wait_until

LOOK = 0.2  # seconds between two questions to Slurm: each starts a process
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=600
MessageTimeout=100
MinJobAge=300
ReturnToService=2
GresTypes=gpu
NodeName=node1 Gres=gpu:8 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port1} CPUs=1 RealMemory=200
NodeName=node2 Gres=gpu:8 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port2} CPUs=1 RealMemory=200
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why Slurm cannot be run here, or nothing."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class SlurmCluster:
    """Two nodes of one CPU and eight GPUs that are plain files; `environment` is what Slurm's commands need to talk to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._processes: list[subprocess.Popen] = []

    def start(self) -> "SlurmCluster":
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        ports = {"controller_port": free_port(), "port1": free_port(), "port2": free_port()}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(folder=self.folder, **ports))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        (self.folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={self.folder}/gpu[0-7]\n")
        for i in range(8):
            (self.folder / f"gpu{i}").touch()
        subprocess.run(["mungekey", "-c", "-k", self.folder / "munge.key"], env=self.environment, check=True)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        self._start("munged", "--foreground", "--force", *(f"--{o}={self.folder}/munge.{f}" for o, f in files.items()))
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D")
        for node in ("node1", "node2"):
            (self.folder / f"spool-{node}").mkdir()
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self("sinfo", "-h", "-o", "%T %D", check=False).split() == ["idle", "2"], "the nodes")
        return self

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            self._processes.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def _wait(self, holds, what: str) -> None:
        def decided() -> bool:
            return any(process.poll() is not None for process in self._processes) or holds()

        wait_until(decided, what, pause=LOOK)
        if any(process.poll() is not None for process in self._processes):
            logs = "".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.[lo][ou][gt]"))
            raise RuntimeError(f"{what} did not come up:\n{logs}")

    def __call__(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self) -> list[list[str]]:
        """Jobs and array tasks that Slurm remembers: id, state, and how often each was restarted."""
        return [line.split() for line in self("squeue", "-h", "-r", "-t", "all", "-o", "%i %T %r").splitlines()]

    def wait_until_empty(self) -> None:
        """Wait until no job is pending or running."""
        wait_until(lambda: not self("squeue", "-h"), "no job is left", pause=LOOK)

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        self("scancel", "-u", "root", check=False)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
