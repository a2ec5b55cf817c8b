"""vLLM servers with real weights, hosted by scripts/serve_models.sh on the CPU, for the tests that are marked real_servers.

A base model (gemma-3-270m) and an aligned one (SmolLM2-135M-Instruct) of different families, and stories15M with
Llama-2's tokenizer as it is published, on which vLLM's logprobs.tokens lose their spaces.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import needs
import pytest
from runs import REPOSITORY
from waiting import HANG, wait_until

from demo.catalogue import demo_cache_dir

STORIES = "stories15m-llama-2"
MARKS = [
    pytest.mark.slow,
    pytest.mark.real_servers,
    pytest.mark.skipif(
        (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
        reason=needs.reason("vLLM's CPU build is not for this system", "Linux on x86-64 with Python 3.11"),
    ),
]


@dataclass
class Hosts:
    """The base URLs of the three servers, and the command that hosts them."""

    base: str
    nudging: str
    stories: str
    process: subprocess.Popen

    @property
    def base_options(self) -> tuple[str, ...]:
        return "--base_model", "demo-base", "--base_host", self.base

    @property
    def nudging_options(self) -> tuple[str, ...]:
        return "--nudging_model", "demo-aligned", "--nudging_host", self.nudging

    @property
    def stories_options(self) -> tuple[str, ...]:
        return "--base_model", STORIES, "--base_host", self.stories


def with_published_tokenizer(converted: Path, folder: Path) -> Path:
    """Stories15M with a tokenizer.json such as Llama 2's: its normalizer writes the spaces, it has no pre-tokenizer."""
    folder.mkdir()
    for file in converted.iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer = json.loads((converted / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = None
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    config = json.loads((converted / "tokenizer_config.json").read_text())
    # Under its own class transformers would make the tokenizer anew.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
    return folder


def left_behind(mark: str) -> list[str]:
    """Processes with that variable in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@contextmanager
def real_hosts(folder: Path) -> Iterator[Hosts]:
    """The servers, hosted as a user hosts them; at the end the command is stopped, and nothing of them may be left."""
    script = REPOSITORY / "scripts/serve_models.sh"
    converted = demo_cache_dir() / "stories15m-transformers"
    environment = os.environ | {"SERVED_FOR": str(folder)}
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):  # the servers are to run as a user's do
        environment.pop(name, None)
    if not converted.is_dir():
        python = environment.get("VLLM_PYTHON") or REPOSITORY / ".venv-vllm/bin/python"
        command = [str(python), str(REPOSITORY / "scripts/get_demo_models.py"), "--transformers", "stories15m"]
        subprocess.run(command, check=True, env=environment)
    stories = with_published_tokenizer(converted, folder / STORIES)
    ready, log = folder / "ready", folder / "serve_models.log"
    options = ["--device", "cpu", "--base_port", "0", "--nudging_port", "0", "--proxy_base_port", "0"]
    options += [
        "--proxy_base",
        str(stories),
        "--proxy_base_options",
        f"--max-model-len 256 --served-model-name {STORIES}",
    ]
    command = [str(script), "demo-base", "demo-aligned", *options, "--ready_file", str(ready), "--log_dir", str(folder)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, "the servers are ready")
        assert process.poll() is None, log.read_text()
        urls = dict(line.split("=") for line in ready.read_text().splitlines())
        yield Hosts(urls["BASE_HOST"], urls["NUDGING_HOST"], urls["PROXY_BASE_HOST"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(HANG)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, log.read_text()
    wait_until(lambda: not left_behind(f"SERVED_FOR={folder}"), "nothing is left behind")
