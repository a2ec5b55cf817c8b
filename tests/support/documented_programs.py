"""Programs other than Python that the documentation's commands name, and what stands for them.

Each takes its arguments, checks of them what can be checked, and returns its exit status.
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Their subcommand, and the options that the documentation may use.
OPTIONS = {
    "vllm": (
        "serve",
        {
            *("--tensor-parallel-size", "--port", "--host", "--max-model-len", "--max-logprobs", "--generation-config"),
            *("--dtype", "--api-key", "--served-model-name", "--gpu-memory-utilization", "--enable-prefix-caching"),
        },
    ),
    "lm_eval": ("", {"--model", "--apply_chat_template", "--tasks", "--limit", "--model_args", "--gen_kwargs"}),
    "inspect": ("eval", {"--model"}),
    "open-webui": ("", set()),
}
# Commands that other tests run against a server that serves: here they do nothing more.
COVERED = {
    "curl": "tests/serving/test_clients_docs.py",
    "lm_eval": "tests/serving/test_clients_lm_eval.py",
    "inspect": "tests/serving/test_clients_inspect_ai.py",
    "open-webui": "tests/serving/test_clients_open_webui.py",
}


class NoStandIn(SystemExit):
    """Nothing stands in for what a command asks."""

    def __init__(self, what: str):
        print(f"no stand-in for {what}", file=sys.stderr)
        super().__init__(70)


def module(words: list[str]) -> int:
    """What stands for `python -m`, and its exit status."""
    if words[0] == "venv":
        for name in words[1:]:
            (Path(name) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(name) / "bin/activate").touch()
        return 0
    if words[0] == "pip":
        return _pip(words[1:])
    raise NoStandIn(f"python -m {words[0]}")


def _pip(words: list[str]) -> int:
    if words[:1] != ["install"]:
        raise NoStandIn(f"pip {' '.join(words)}")
    for option, file in itertools.pairwise(words):
        if option in ("-r", "-c") and not Path(file).is_file():
            print(f"pip: there is no file {file}", file=sys.stderr)
            return 1
    named = [word for i, word in enumerate(words[1:]) if not word.startswith("-") and words[i] not in ("-r", "-c")]
    return 0 if len(named) + words.count("-r") else 1


def _with_known_options(program: str) -> Callable[[list[str]], int]:
    """A program that is not here, whose options are checked."""

    def check(words: list[str]) -> int:
        subcommand, known = OPTIONS[program]
        if subcommand and (words[:1] != [subcommand] or words[1].startswith("-")):
            raise NoStandIn(f"{program} {' '.join(words)}")
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if unknown := options - known:
            raise NoStandIn(f"{program}'s {', '.join(sorted(unknown))}")
        return 0

    return check


def _sbatch(words: list[str]) -> int:
    (file,) = [word for word in words if not word.startswith("-")][-1:]
    print(1 if "--parsable" in words else "Submitted batch job 1")
    return subprocess.run(["bash", "-n", file], check=False).returncode


def _git(words: list[str]) -> int:
    words = [word for word in words[1:] if not word.startswith("-")]
    Path(words[-1] if len(words) > 1 else Path(words[0]).stem).symlink_to(os.environ["DOCUMENTED_FOLDER"])
    return 0


def _curl(words: list[str]) -> int:
    if any("http://127.0.0.1:8010" in word for word in words):
        return 0
    raise NoStandIn(f"curl {' '.join(words)}")


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "pip": _pip,
    "sbatch": _sbatch,
    "git": _git,
    "git-clone": _git,
    "curl": _curl,
    **{program: _with_known_options(program) for program in OPTIONS},
    "sleep": lambda _: time.sleep(0.2) or 0,
    # What scripts/test.sh --all looks for, or would install.
    **dict.fromkeys(("chromedriver", "slurmctld", "apt-get"), lambda _: 0),
    "id": lambda _: print(0) or 0,
    "openssl": lambda _: print("0" * 32) or 0,
}
# Of the system, on the PATH as they are.
SYSTEM = (
    *(
        "awk",
        "basename",
        "bash",
        "cat",
        "chmod",
        "cp",
        "cut",
        "date",
        "dirname",
        "env",
        "grep",
        "head",
        "ln",
        "ls",
        "mkdir",
    ),
    *("mktemp", "mv", "nproc", "rm", "sed", "sort", "tail", "tee", "touch", "tr", "uname", "wc"),
)


def link_system_programs(folder: Path) -> None:
    """Put the system's own programs that commands may use into a folder; git is one but for `git clone`."""
    for name in SYSTEM:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    clone = (folder / "git").rename(folder / "git-clone")
    (folder / "git").write_text(
        f'#!/bin/bash\n[ "$1" = clone ] || exec {shutil.which("git")} "$@"\nexec "{clone}" "$@"\n'
    )
    (folder / "git").chmod(0o755)
