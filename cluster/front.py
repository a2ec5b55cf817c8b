"""serve_nudged.py over hosted models: the pair as a model, which starts and stops with them."""

import argparse
import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.server_processes import HostingError, free_port

SCRIPT = Path(__file__).resolve().parent.parent / "serve_nudged.py"
NEEDS = ("starlette", "uvicorn", "prometheus_client", "openai")
GRACE_SECONDS = 35.0  # in which it finishes the answers that it is writing; it gives itself 30


@dataclass(frozen=True)
class Front:
    """serve_nudged.py as a process: the address that it listens on, and the models behind it, by role their names."""

    host: str
    port: int
    models: dict[str, str]
    start_timeout: float
    options: str

    def command(self, urls: dict[str, str]) -> list[str]:
        """The command that starts it.

        Args:
            urls: the base URLs of the models, by role.
        """
        command = [sys.executable, str(SCRIPT)]
        for role, name in self.models.items():
            command += [f"--{role}_model", name, f"--{role}_host", urls[role]]
            if os.environ.get("VLLM_API_KEY"):  # which vLLM asks clients for
                command += [f"--{role}_api_key_env", "VLLM_API_KEY"]
        # It is started with the models, and waits for them.
        command += ["--startup_timeout", f"{self.start_timeout:g}", "--host", self.host, "--port", str(self.port)]
        return [*command, *shlex.split(self.options)]


def front_over(options: argparse.Namespace, models: dict[str, str]) -> Front | None:
    """serve_nudged.py over models (by role their names), where the options of serve_models.sh ask for it.

    Raises:
        HostingError: this Python cannot run it.
    """
    if options.serve_nudged is None:
        if options.serve_nudged_options:
            raise HostingError("--serve_nudged_options are those of --serve_nudged PORT, which is not given")
        return None
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise HostingError(
            f"--serve_nudged needs the packages of requirements.txt, and {sys.executable} has no {missing[0]}: "
            "pip install -c constraints.txt -r requirements.txt, in the .venv of this folder"
        )
    port = options.serve_nudged or free_port()
    pair = {role: models[role] for role in ("base", "nudging")}
    return Front(options.host, port, pair, options.start_timeout, options.serve_nudged_options)
