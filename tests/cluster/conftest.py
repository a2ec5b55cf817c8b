"""Shared by the tests of sweeps and their tables."""

import subprocess
from pathlib import Path

import pytest

from cluster import sweep


@pytest.fixture
def run_sweep(capfd, monkeypatch):
    """Run the command in this process; the runs of the sweep are processes of their own."""

    def run(path: Path, *options: str, env: dict | None = None) -> subprocess.CompletedProcess:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = sweep.main([str(path), *options])
        return subprocess.CompletedProcess(["sweep.py", path, *options], code, *capfd.readouterr())

    return run
