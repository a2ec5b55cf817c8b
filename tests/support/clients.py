"""Clients of the server that have an environment of their own (requirements-dev-clients.txt): scripts that its Python runs."""

import json
import os
import subprocess
from pathlib import Path

import needs
from runs import REPOSITORY

PYTHON = REPOSITORY / ".venv-clients/bin/python"


def run_client(script: str, work: dict, folder: Path, **environment: str) -> tuple[list | dict, str]:
    """Run a script of this folder with what it reads; where there are no clients, the test is left out.

    Args:
        work: `output`, a file, is added to it.
        folder: where the script works.

    Returns:
        What it wrote to its output, and what it said.
    """
    if not PYTHON.exists():
        needs.leave_out("evaluation harnesses and other clients take 0.8 GB on the disk", "./scripts/test.sh --all")
    output = folder / "output.json"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "HF_", "INSPECT_"))}
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name(script)],
        input=json.dumps(work | {"output": str(output)}),
        cwd=folder,
        env=clean | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONSAFEPATH": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return json.loads(output.read_text()), done.stdout
