"""Every command of README.md and docs/*.md is run, as written; documented_standins.py says what stands in for what is not here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import needs
import pytest
from documented import NO_COMMANDS, SHELLS, Commands, fenced_commands, inline_commands, languages
from documented_programs import COVERED, PROGRAMS, link_system_programs
from documented_server import write_client
from documented_standins import PYTHON, given
from runs import REPOSITORY, gsm8k_rows, write_rows
from waiting import HANG, wait_until

pytestmark = pytest.mark.slow
SCRIPT = """
command_not_found_handle() { echo "no stand-in for $1" >&2; return 127; }
set -o pipefail
trap 'echo "exit status $?: $BASH_COMMAND" >>"$DOCUMENTED_FAILED"' ERR
"""
# Words that readers put their own in the place of.
MODELS = {
    "SMALL_BASE": "proxy-base-lm",
    "BASE": "base-lm",
    "CHAT": "llama-2-chat",
    "NUDGING": "llama-2-chat",
    "TWIN": "llama-2-chat",
}
PLACEHOLDERS = {
    r"<(this|the) repository>": "https://example.org/guided.git",
    r"<its folder>": "guided",
    # Not within $BASE_HOST or SMALL_BASE, but within split_test_CHAT_100_samples.json.
    **{rf"(?<![A-Z$])(?<![A-Z]_){name}(?![A-Z]|_[A-Z])": model for name, model in MODELS.items()},
}
# Commands whose exit status is not 0, and why.
STATUS = {
    "serve_nudged.py": {0, 143},  # it is stopped once it serves
    "serve_models.py": {0, 143},
    "fake_vllm.py": {0, 143},
}
# What sets up whole environments of the real packages: only read by bash.
SHELL_ONLY = ("scripts/from_nothing.sh", "scripts/renew_constraints.sh")
ENDS_OTHERWISE = ("wait $servers",)  # with the status of a server that is stopped


class Workshop:
    """A copy of the repository's files for each block of commands, and programs that stand in for others on the PATH."""

    def __init__(self, folder: Path, host: str):
        self.folder, self.host = folder, host
        self.bin, self.venv, self.count = folder / "bin", folder / "venv/bin", 0
        self._results: dict[str, Path] = {}
        self.bin.mkdir()
        self.venv.mkdir(parents=True)
        self.sockets = tempfile.mkdtemp()  # whose path is short, as that of a socket has to be
        address = Path(self.sockets) / "s"
        for path in (*(self.bin / name for name in ("python", "python3", *PROGRAMS)), self.venv / "python"):
            write_client(path, address)
        link_system_programs(self.bin)
        data = folder / "data"
        for name, split, rows in DATA:
            write_rows(data, name, rows, split)
        plan = {
            "host": host,
            "models": str(folder / "models"),
            "data": str(data),
            "python": str(self.bin / "python"),
            "real_python": sys.executable,
            "repository": str(REPOSITORY),
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, str(REPOSITORY / "tests/support/documented_server.py"), str(address)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [*command, str(folder / "plan.json")], env=environment, stderr=said, start_new_session=True
            )
        wait_until(address.exists, "commands can be run", self.process)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.sockets)

    def results(self, data_set: str, more: str) -> Path:
        """The folder of a finished run of the nudging model alone, which is made once."""
        if data_set not in self._results:
            self._results[data_set] = self._run(data_set, more)
        return self._results[data_set]

    def _run(self, data_set: str, more: str) -> Path:
        exp = "--exp nudging_only --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100"
        ran = self.run(f"python run_api.py --dataset_name {data_set} {exp}{more}")
        ran.check()
        return ran.folder / "outputs" / data_set

    def run(self, commands: str, parse_only: bool = False) -> "Ran":
        """Type commands into a shell, in a fresh copy of the repository."""
        self.count += 1
        place = self.folder / f"place{self.count}"
        place.mkdir()
        checkout = copy_of_the_repository(place / "checkout")
        log, failed = place / "log", place / "failed"
        environment = {
            "PATH": str(self.bin),
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "NUDGING_VENV": str(self.venv.parent),
            "DOCUMENTED_LOG": str(log),
            "DOCUMENTED_FAILED": str(failed),
            "DOCUMENTED_FOLDER": str(checkout),
            "HF_HUB_OFFLINE": "1",
            "PAIR_KEY": "a-key",
            "VLLM_PYTHON": str(self.bin / "python"),
            "MPLCONFIGDIR": str(self.folder),
        }
        if parse_only:
            environment["DOCUMENTED_PARSE_ONLY"] = "1"
        else:
            for pattern, make in BEFORE.items():
                if re.search(pattern, commands):
                    make(checkout, self)
        for words, instead in PLACEHOLDERS.items():
            commands = re.sub(words, instead, commands)
        shell = ["/bin/bash", "-c", SCRIPT + commands]
        done = subprocess.run(shell, cwd=checkout, env=environment, capture_output=True, text=True, timeout=HANG)
        records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return Ran(checkout, done, records, failed.read_text().splitlines() if failed.exists() else [])


class Ran:
    """What came of commands."""

    def __init__(self, folder: Path, done: subprocess.CompletedProcess, log: list, failed: list[str]):
        self.folder, self.done, self.log = folder, done, log
        self.failed = [line for line in failed if not line.endswith(ENDS_OTHERWISE) and not self._allowed(line)]

    def ran(self, script: str) -> list[list[str]]:
        """The words of each command of a script that was to do its work."""
        named = [words for _, words, _ in self.log if words and Path(words[0]).name == script]
        return [words for words in named if not {"--help", "--help_all", "--version", "--dry_run"} & set(words)]

    @staticmethod
    def _allowed(line: str) -> bool:
        return any(name in line and int(line.split()[2].rstrip(":")) in codes for name, codes in STATUS.items())

    def check(self) -> None:
        """Every command has ended well.

        Raises:
            AssertionError: with what was said.
        """
        wrong = [
            f"exit status {code}: {program} {' '.join(words)}"
            for program, words, code in self.log
            if code not in STATUS.get(Path(words[0] if words else "").name, {0})
        ]
        said = f"{self.done.stdout[-2000:]}\n{self.done.stderr[-4000:]}"
        assert not wrong and not self.failed and "no stand-in for" not in said, "\n".join((*wrong, *self.failed, said))
        assert self.done.returncode in (0, 143), said


def copy_of_the_repository(folder: Path) -> Path:
    """Files that commands read or may write beside; modules come from the repository itself."""
    folder.mkdir()
    for name in ("scripts", "configs", "benchmarks", "examples"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHELL_ONLY:
        script = folder / name
        script.rename(f"{script}.written")
        script.write_text('#!/bin/bash\nexec bash -n "$0.written"\n')
        script.chmod(0o755)
    for path in (*REPOSITORY.glob("*.py"), *REPOSITORY.glob("*.txt"), REPOSITORY / "README.md"):
        shutil.copy(path, folder)
    return folder


YES_NO = [
    {"question": f"Is {i} even?", "answer": i % 2 == 0, "facts": "Even numbers halve.", "qid": str(i)} for i in range(3)
]
SVAMP = [
    {"question_concat": f"Ann has {i} eggs. How many?", "Equation": f"( {i}.0 )", "Answer": str(i)} for i in range(3)
]
DATA = [
    ("gsm8k", "test", gsm8k_rows(4)),
    ("gsm8k", "train", gsm8k_rows(9)[5:]),
    ("svamp", "test", SVAMP),
    ("strategyqa", "test", YES_NO),
    ("Dahoas/full-hh-rlhf", "test", [{"prompt": f" Human: Is {i} even? Assistant: "} for i in range(8)]),
]


def _environment(folder: Path, _: Workshop) -> None:
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()


def _questions(folder: Path, _: Workshop) -> None:
    (folder / "mine.csv").write_text("question,A,B,answer\nIs ice cold?,yes,no,A\nIs fire cold?,yes,no,B\n")


def _prompts(folder: Path, _: Workshop) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "Write a line of verse."}\n{"prompt": "Name a river."}\n')


def _results(folder: Path, workshop: Workshop) -> None:
    """A finished run, of which NAME is the name."""
    for name, more in (("gsm8k", ""), ("strategyqa", " --judge rule")):
        shutil.copytree(workshop.results(name, more), folder / "outputs" / name)
        all_info = folder / "outputs" / name / "all_info"
        for path in list(all_info.iterdir()):
            kind = re.search(r"_samples(\..*)$", path.name)
            shutil.copy(path, all_info / f"NAME{kind[1]}")


def _rewarded(folder: Path, _: Workshop) -> None:
    (folder / "results").mkdir()
    for name in ("psoups_llama3SFT_hhh_0", "psoups_vanilla_0"):
        rows = [{"prompt": f"Is {i} even?", "response": f"Is {i} even? {name}", "result": name} for i in range(3)]
        (folder / f"results/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# What lies in the folder before commands in which this stands.
BEFORE: dict[str, Callable[[Path, Workshop], None]] = {
    r"(?m)^\. \.venv/bin/activate": _environment,
    r"mine\.csv": _questions,
    r"prompts\.jsonl": _prompts,
    r"NAME\.json|(table|report)\.py outputs": _results,
    r"results/psoups_vanilla": _rewarded,
}

# What commands leave behind.
WRITES = {
    "run_api.py": "outputs/**/all_info/*_samples*.json",
    "find_threshold.py": "outputs/find_threshold/**/*.md",
    "analyse.py": "outputs/analysis/**/*",
    "report.py": "**/report.html",
    "merge_shards.py": "outputs/gsm8k/all_info/*_samples.json",
    "fit_scorer.py": "models/*/config.json",
}


@pytest.fixture(scope="module")
def workshop(server, tmp_path_factory) -> Iterator[Workshop]:
    needs.module("torch")
    made = Workshop(tmp_path_factory.mktemp("documented"), server.host)
    yield made
    made.stop()


def test_there_are_commands():
    assert len(fenced_commands()) >= 20 and len(inline_commands()) >= 15


def test_every_block_has_a_language_that_is_known():
    assert languages() <= {*SHELLS, *NO_COMMANDS, ""}


def test_the_table_names_what_is_there():
    assert all((REPOSITORY / path).is_file() for path in (*PYTHON, *COVERED.values()))


@pytest.mark.parametrize("commands", fenced_commands(), ids=str)
def test_block(workshop: Workshop, commands: Commands):
    ran = workshop.run(commands.text)
    ran.check()
    for script, written in WRITES.items():
        if ran.ran(script):
            assert list(ran.folder.glob(written)), f"{script} wrote nothing: {ran.done.stderr[-2000:]}"
    for words in ran.ran("collect_model_outs.py"):
        out_file = given(words, "out_file")
        # Without a file, the answers are printed.
        assert list(ran.folder.glob(f"{out_file}_0.jsonl")) if out_file else ran.done.stdout.strip()


@pytest.mark.parametrize("commands", inline_commands(), ids=lambda commands: commands.text)
def test_in_running_text(workshop: Workshop, commands: Commands):
    workshop.run(commands.text, parse_only=True).check()


RUN = "python run_api.py --exp nudging_only --nudging_host http://localhost:8001/v1 --nudging_model"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("frobnicate --all\ntrue", "no stand-in for frobnicate"),
        ("python setup.py install", "No such file"),
        ("python utils.py", "no stand-in for python utils.py"),
        ("./scripts/deno.sh", "No such file"),
        ("scripts/sweep.sh scripts/sweep_exemple.toml --dry_run", "sweep_exemple.toml"),
        (f"{RUN} CHAT --nudging_modell CHAT", "unrecognized arguments"),
        (f"{RUN} gpt2", "its name tells no instruct template"),
        (f"for i in 1 2; do {RUN} gpt2 & done; wait", "its name tells no instruct template"),
        (
            "python run_api.py --exp base_only --base_model EleutherAI/pythia-70m",
            "no stand-in for the model EleutherAI",
        ),
        (f"{RUN} CHAT | tail -1 | grep nothing", "exit status 1"),
        ("python benchmarks/serving.py --sevrers 3", "unrecognized arguments"),
        ("pip install -r requirements-lokal.txt", "there is no file requirements-lokal.txt"),
        ("vllm serve meta-llama/Llama-2-7b-hf --max-len 3", "no stand-in for vllm's --max-len"),
        ("sbatch scripts/slurm/host.sbatch", "host.sbatch: No such file"),
        ("./scripts/test.sh --installing_vlm 3 --installing_vllm", "expected one argument"),
    ],
)
def test_what_is_wrong_is_found(workshop: Workshop, command: str, said: str):
    with pytest.raises(AssertionError, match=re.escape(said)):
        workshop.run(command).check()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python eval_utils.py FILE --score rule", "unrecognized arguments"),
        ("scripts/serve_models.sh BASE NUDGING --base_gpu 0", "unrecognized arguments"),  # no abbreviations
        ("scripts/find_treshold.sh", "No such file"),
    ],
)
def test_what_is_wrong_in_running_text_is_found(workshop: Workshop, command: str, said: str):
    with pytest.raises(AssertionError, match=re.escape(said)):
        workshop.run(command, parse_only=True).check()


def test_the_checkout_stays_as_it_is(workshop: Workshop):
    before = {path.stat().st_mtime_ns for path in (REPOSITORY / "scripts").iterdir()}
    ran = workshop.run("echo 1 > scripts/new.sh; python run_api.py --help > README.md")
    ran.check()
    assert {path.stat().st_mtime_ns for path in (REPOSITORY / "scripts").iterdir()} == before
    assert "usage" in (ran.folder / "README.md").read_text()
