"""inspect_ai, run by the Python that has it: evaluations come as JSON on standard input, their logs in short go to a file.

An evaluation is {"inputs", "options"}: texts to ask, and arguments of inspect_ai.eval.
"""

import json
import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message


def main() -> None:
    """Make the evaluations one after another."""
    work = json.load(sys.stdin)
    Path(work["output"]).write_text(json.dumps([evaluate(one, work["logs"]) for one in work["evaluations"]]))


def evaluate(one: dict, logs: str) -> dict:
    """The log of one evaluation, in short."""
    samples = [Sample(input=text, target="the") for text in one["inputs"]]
    task = Task(dataset=samples, solver=[system_message("Be brief."), generate()], scorer=includes())
    (log,) = eval(task, display="none", log_dir=logs, **one["options"])
    return {
        "status": log.status,
        "error": log.error.message if log.error else None,
        "samples": [
            {
                "text": sample.output.completion if sample.output.choices else None,
                "stop_reason": sample.output.stop_reason if sample.output.choices else None,
                "output_tokens": sample.output.usage.output_tokens if sample.output.usage else None,
            }
            for sample in log.samples or []
        ],
    }


main()
