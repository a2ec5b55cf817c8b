"""lm-evaluation-harness, run by the Python that has it: runs come as JSON on standard input, what became of them goes to a file.

A run is {"model", "model_args", "task", "more"}; what became of it {"texts": [answer, ...], "score": value} or {"error": words}.
"""

import json
import sys
import traceback
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager


def main() -> None:
    """Make the runs one after another: lm_eval takes long to start."""
    work = json.load(sys.stdin)
    # The harness's own 14,000 tasks take half a minute to be listed.
    tasks = TaskManager(include_path=work["tasks"], include_defaults=False)
    Path(work["output"]).write_text(json.dumps([outcome(run, tasks) for run in work["runs"]]))


def outcome(run: dict, tasks: TaskManager) -> dict:
    """What becomes of one run."""
    arguments = {"model": run["model"], "model_args": run["model_args"], "tasks": [run["task"]], "task_manager": tasks}
    try:
        found = lm_eval.simple_evaluate(**arguments, log_samples=True, bootstrap_iters=0, **run["more"])
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    samples = sorted(found["samples"][run["task"]], key=lambda sample: sample["doc_id"])
    score = found["results"][run["task"]].get("exact_match,last-number")
    return {"texts": [sample["resps"][0][0] for sample in samples], "score": None if score is None else float(score)}


main()
