"""Answers of modelco's nudging method, timed; run by benchmarks/local_nudging.py with a Python that has modelco.

Reads a task as JSON from standard input; the last line of its output is a JSON object.
"""

import json
import sys
import time

import torch
from model_collaboration.method.api_nudging import Nudging


def main() -> None:
    task = json.load(sys.stdin)
    device = "cuda" if task["device"] == "auto" and torch.cuda.is_available() else task["device"].replace("auto", "cpu")
    models = Nudging(task["models"], [device] * 2)
    if task["dtype"] != "bfloat16":
        models.models = [model.to(getattr(torch, task["dtype"].replace("auto", "float32"))) for model in models.models]
    passes = [0, 0]

    def count(which: int):
        def hook(module, args, kwargs, output):
            passes[which] += len(kwargs["input_ids"])

        return hook

    for which, model in enumerate(models.models):
        model.register_forward_hook(count(which), with_kwargs=True)
    generate = models.generate_with_kv_cache if task["cache"] else models.generate
    answers, started, began = [], time.perf_counter(), time.process_time()
    for i in range(0, len(task["prompts"]), task["batch"]):
        base, nudging = zip(*task["prompts"][i : i + task["batch"]], strict=True)
        answers += generate(
            list(base), list(nudging), max_new_tokens=task["max_new_tokens"], do_sample=False, gamma=task["gamma"]
        )
    found = {"answers": answers, "seconds": time.perf_counter() - started, "processor": time.process_time() - began}
    print(json.dumps(found | {"base_passes": passes[0], "nudging_passes": passes[1]}))


if __name__ == "__main__":
    main()
