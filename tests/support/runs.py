"""run_api.py as a user runs it, and the files that it reads and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from forked_runs import forked_run_api
from waiting import finish, wait_until

REPOSITORY = Path(__file__).parents[2]
CASES = {path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "tests/reference").glob("*.json"))}


def run_api_command(*options: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / "run_api.py"), *map(str, options)]


def run_api(*options: object, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run run_api.py to its end, in an environment that holds nothing of the developer's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "HF_"))}
    return forked_run_api([str(option) for option in options], clean | (env or {}))


class Running:
    """A command at work; what it says goes to files, so that it can be read meanwhile."""

    def __init__(self, folder: Path, command: list[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = folder / "stdout", folder / "stderr"
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()

    def until_it_says(self, words: str) -> None:
        wait_until(lambda: words in self.stderr, f"saying {words!r}", self.process)

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        finish(self.process)
        return self.process.returncode


def write_rows(folder: Path, name: str, rows: list[dict], split: str = "test") -> Path:
    """Write a data set in the hub's schema below a folder, for --data_dir; returns the folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / f"{split}.jsonl").write_text(text)
    return folder


def gsm8k_rows(n: int) -> list[dict]:
    return [
        {"question": f"Tom has {i} apples and buys {i + 3} more. How many are there?", "answer": f"#### {2 * i + 3}"}
        for i in range(n)
    ]


def nudging_options(host: str, data_dir: Path, output_dir: Path) -> list[object]:
    return [
        *("--exp", "nudging", "--base_model", "base-lm", "--base_host", host),
        *("--nudging_model", "llama-2-chat", "--nudging_host", host, "--top_prob_thres", "0.4"),
        *("--max_token_total", "128", "--data_dir", data_dir, "--output_dir", output_dir),
    ]


def one(folder: Path, pattern: str) -> Path:
    """The only file below a folder that fits a pattern."""
    (path,) = folder.rglob(pattern)
    return path


def final_records(output_dir: Path) -> list[dict]:
    return json.loads(one(output_dir, "*_samples.json").read_text())
