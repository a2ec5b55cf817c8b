"""Kills a run (kill -9) at random moments, again and again, and continues it each time; prints what was found as JSON.

    python tests/support/kill_often.py KILLS SEED UNDISTURBED.json OUTPUT_DIR RUN_API_OPTION ...

Each run is a process of its own, forked from this one, which has loaded everything already: moments are spread over the
work of a run and not over its imports.
"""

import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import run_api

LONGEST_LIFE = 1.5  # seconds until a kill; a machine that is busy for a moment must not make it a test of minutes
FIELDS = ("index", "question", "raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")


def start(options: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    # A run that hangs says where, and ends.
    faulthandler.dump_traceback_later(1800, exit=True, file=os.fdopen(os.dup(2), "w"))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os._exit(run_api.main(options))


def texts(records: list[dict]) -> list[dict]:
    return [{field: record[field] for field in FIELDS} for record in records]


def whole_lines(output: Path) -> dict[int, dict]:
    """The records that the log holds; a sample twice, or a damaged line, is an error."""
    found = {}
    for log in output.rglob("*.jsonl"):
        for line in log.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            assert record["index"] not in found, f"sample {record['index']} twice"
            found[record["index"]] = record
    return found


def main() -> None:
    kills, moments = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    wanted, output, options = json.loads(Path(sys.argv[3]).read_text()), Path(sys.argv[4]), sys.argv[5:]
    options = [*options, "--output_dir", str(output)]
    began = time.monotonic()
    assert os.waitpid(start(options), 0)[1] == 0
    length = min(time.monotonic() - began, LONGEST_LIFE)
    shutil.rmtree(output)
    killed = finished = torn = 0
    before: dict[int, dict] = {}
    while killed < kills or before or not finished:
        child = start(options)
        if killed < kills:
            time.sleep(moments.uniform(0, length))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        now = whole_lines(output)
        assert texts(now.values()) == [texts(wanted)[i] for i in now], "another text"
        assert all(now.get(i) == record for i, record in before.items()), "a record is lost"
        torn += any(not log.read_bytes().endswith(b"\n") for log in output.rglob("*.jsonl") if log.stat().st_size)
        before = now
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            (result,) = output.rglob("*_samples.json")
            assert texts(json.loads(result.read_text())) == texts(wanted), "another result"
            shutil.rmtree(output)
            finished, before = finished + 1, {}
    print(json.dumps({"kills": killed, "finished": finished, "torn": torn, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
