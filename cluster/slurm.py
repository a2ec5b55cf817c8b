"""A sweep as Slurm jobs: an array with one task per run, and a job behind it that makes the table."""

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from cluster.sweep_config import Sweep, Task
from command.errors import UserError
from command.files import write_private
from command.schema import Text, open_table, read_as

ROOT = Path(__file__).resolve().parent.parent
ARRAY = ROOT / "scripts/slurm/sweep_array.sbatch"


class SlurmError(UserError):
    """The jobs cannot be submitted, or a task list cannot be read; the message says why."""


def submit(sweep: Sweep, tasks: list[Task], more_options: list[str]) -> tuple[str, str, Path]:
    """Write the task list and the scripts into a folder of the sweep's output and submit them.

    Args:
        more_options: options of sweep.sh for the job that makes the table.

    Returns:
        The ids of the array and of the job that makes the table, and the folder.

    Raises:
        SlurmError: the folder cannot be written, or sbatch refuses.
    """
    if len(tasks) > (most := largest_array()):
        raise SlurmError(
            f"{len(tasks)} tasks are more than the {most} of an array on this cluster (MaxArraySize); "
            "submit them in parts with --only, or use fewer shards"
        )
    folder = Path(_folder(sweep.output_dir.absolute())) / "slurm" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o700)  # hosts may hold a password, and the jobs' logs what they print
        write_private(folder / "tasks.jsonl", "".join(_task_line(task) for task in tasks))
        write_private(folder / "serve.txt", "".join(_serve_line(task) + "\n" for task in tasks))
        if sweep.slurm.setup:
            write_private(folder / "setup.sh", sweep.slurm.setup + "\n")
        array = folder / "sweep_array.sbatch"
        write_private(array, _array_script(sweep, folder, len(tasks)))
        table = folder / "table.sbatch"
        write_private(table, _table_script(sweep, folder, more_options))
    except OSError as error:
        raise SlurmError(f"the jobs cannot be written to {folder} ({error})") from None
    job = _sbatch(str(array))
    return job, _sbatch(f"--dependency=afterany:{job}", str(table)), folder


def largest_array() -> int:
    """How many tasks an array may have on this cluster: MaxArraySize - 1, which is 1000 where nothing else is set."""
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        shown = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.M)
    return int(found[1]) - 1 if found else 1000


def _task_line(task: Task) -> str:
    return json.dumps({"label": task.label, "options": task.options}) + "\n"


def _serve_line(task: Task) -> str:
    """What scripts/serve_models.sh is called with for a task; empty where its models are served already."""
    if task.serve is None:
        return ""
    base = task.models["aligned" if task.experiment == "aligned_only" else "base"]
    words = [base, task.models["nudging"]]
    if task.experiment == "proxy_tuning":
        words += ["--proxy_base", task.models["proxy_base"]]
    return shlex.join([*words, *shlex.split(task.serve)])


def _directives(script: str, options: dict[str, object]) -> str:
    """A script with #SBATCH lines added, in the place of those for the same options; one that is False is left out."""
    shebang, *lines = script.splitlines(keepends=True)
    kept = [line for line in lines if not any(re.match(rf"#SBATCH --{name}[=\s]", line) for name in options)]
    shown = [
        f"#SBATCH --{name}" + ("" if value is True else f"={_quoted(value)}")
        for name, value in options.items()
        if value is not False
    ]
    return shebang + "".join(f"{line}\n" for line in shown) + "".join(kept)


def _quoted(value: object) -> str:
    """A value for a #SBATCH line: in quotes where sbatch would take it for several words, or its end for a comment."""
    text = str(value)
    return f'"{text}"' if re.search(r"[\s#]", text) and text[0] not in "'\"" else text


def _folder(path: Path) -> str:
    """A folder for a #SBATCH line.

    Raises:
        SlurmError: no quotes can hold its name.
    """
    if re.search(r"""["\\\x00-\x1f\x7f]""", str(path)):
        raise SlurmError(
            f"{str(path)!r} holds a quote, a backslash or a control character, which sbatch cannot be told; "
            "choose another output_dir, or begin from another folder"
        )
    return str(path)


def _patterns(path: Path) -> str:
    """The same where sbatch replaces %a and its like."""
    return _folder(path).replace("%", "%%")


def _array_script(sweep: Sweep, folder: Path, n: int) -> str:
    at_once = sweep.slurm.max_at_once
    ours = {
        "array": f"1-{n}" + (f"%{at_once}" if at_once else ""),
        "output": f'"{_patterns(folder)}/%a.log"',
        "chdir": f'"{_folder(Path.cwd())}"',
    }
    script = _directives(ARRAY.read_text(), ours | sweep.slurm.sbatch)
    values = {"NUDGING_ROOT": ROOT, "SWEEP_FOLDER": folder, "SWEEP_PYTHON": sys.executable}
    exports = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in values.items())
    return script.replace("set -euo pipefail\n", f"set -euo pipefail\n{exports}", 1)


def _table_script(sweep: Sweep, folder: Path, more_options: list[str]) -> str:
    """A small job: of the config's options it takes those that say where and on whose account."""
    kept = {name: value for name, value in sweep.slurm.sbatch.items() if name in ("partition", "account", "qos")}
    ours = {
        "job-name": "sweep-table",
        "time": "1:00:00",
        "output": f'"{_patterns(folder)}/table.log"',
        "chdir": f'"{_folder(Path.cwd())}"',
    }
    command = [sys.executable, ROOT / "scripts/sweep.py", sweep.path.absolute(), "--table_only", *more_options]
    return _directives("#!/usr/bin/env bash\n", ours | kept) + shlex.join(map(str, command)) + "\n"


def _sbatch(*arguments: str) -> str:
    """Submit a script and return its job's id.

    Raises:
        SlurmError: there is no Slurm here, or it refuses.
    """
    # An array inside an allocation must not take the allocation's own settings for its options.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_JOB", "SBATCH_"))}
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise SlurmError("there is no sbatch here: --slurm works on the login node of a Slurm cluster") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SlurmError(f"sbatch refuses {arguments[-1]}: {reason}")
    return done.stdout.strip().split(";")[0]


@open_table
class _TaskLine:
    """A line of a task list; its label is for readers."""

    options: list[Text]


def read_task(path: Path, number: int) -> list[str]:
    """The options of run_api.py in a line, from 1, of a task list.

    Raises:
        SlurmError: there is no such line, or it is no task.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not 1 <= number <= len(lines):
            raise ValueError(f"it has {len(lines)} lines")
        line = json.loads(lines[number - 1])
    except (OSError, ValueError, RecursionError) as error:
        raise SlurmError(f"{path} has no task {number} ({type(error).__name__}: {error})") from None
    return read_as(_TaskLine, line, f"{path}, line {number}", SlurmError, remedy="submit the sweep again").options
