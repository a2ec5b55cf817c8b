"""run_api.py in processes forked from one that has imported it: the import alone takes longer than most runs of the tests.

Tests of kills, of signals and of the environment of a whole process start Python anew: `conftest.run_api_command`.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

from waiting import HANG

REPOSITORY = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "run_api"])


def _be_run_api(words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """What the new process does: what `python run_api.py` would do."""
    for path, number in ((out, 1), (err, 2)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(REPOSITORY / "run_api.py"), *words]
    import run_api

    code = run_api.main()
    sys.stdout.flush()
    os._exit(code)


def forked_run_api(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run it to its end; what `subprocess.run` would return.

    Raises subprocess.TimeoutExpired where it hangs.
    """
    with contextlib.chdir(REPOSITORY):  # where the first call starts the process that imports
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = CONTEXT.Process(target=_be_run_api, args=(words, environment, out, err))
        process.start()
        process.join(HANG)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["run_api.py", *words], HANG, stderr=err.read_bytes())
        return subprocess.CompletedProcess(
            ["run_api.py", *words], process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )
