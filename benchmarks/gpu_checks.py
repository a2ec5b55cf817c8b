#!/usr/bin/env python
"""All checks of the in-process engine on a GPU machine, in one go: what has to be right first, then the speed.

    python benchmarks/gpu_checks.py [--checkpoint FOLDER ...] [--out gpu_checks] [--minutes 9]
    python benchmarks/gpu_checks.py --scale tiny            on a CPU, without captures, to see that it runs

Steps, each a process of its own (an error of the device ends the step alone), the most important first:
    identity    float32: both engines write what transformers writes, for all architectures, captured (identity_check.py)
    tests       the project's tests of captures and fallbacks on a GPU, where pytest is installed
    half        bfloat16 on the checkpoints and on random weights: rounding or more (half_precision.py)
    main        base alone and nudging at 1, 8 and 32 answers, 7b nudged by 1.1b, and the floor (gpu_nudging.py)
    13b         base alone and nudging at one answer, 13b nudged by 1.1b
    rest        everything else of gpu_nudging.py
Each step prints its output and one line, its verdict; OUT/gpu_checks.json has all of them after each step. The exit code is 1 if
the identity fails, 3 if another step does. Needs torch, transformers and triton alone.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
TESTS = [
    f"tests/language_models/local/test_{name}.py"
    for name in ("captures", "graph_engine", "fallbacks", "fixed_attention", "fused_layers", "architectures")
]
MAIN = ("floor", "alone", "nudging")
LEAST_S = 20
ENDING_S = 70  # a benchmark over its budget ends itself within that


@dataclass(frozen=True)
class Step:
    """A command, and the share of the time that is left which it may take; `why_not` it cannot be run."""

    name: str
    command: list[str]
    share: float = 1.0
    why_not: str = ""
    budgeted: bool = False  # takes --budget_s


def steps(options: argparse.Namespace) -> list[Step]:
    """All steps in their order."""
    tiny = options.scale == "tiny"
    out, device = options.out, ["--device", options.device]

    def script(name: str, *arguments: object) -> list[str]:
        return [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments), *device]

    def speed(name: str, *arguments: object) -> list[str]:
        return script("gpu_nudging", "--out", out / name, *arguments, *(["--scale", "tiny"] if tiny else []))

    there = [test for test in TESTS if (REPOSITORY / test).exists()]
    pytest_missing = importlib.util.find_spec("pytest") is None or importlib.util.find_spec("hypothesis") is None
    why_no_tests = "pytest or hypothesis is not installed" if pytest_missing else "of a tiny run" if tiny else ""
    few = ["--architectures", "llama", "gemma2"] if tiny else []
    half = [*options.checkpoint, "random", *(["--tokens", 4] if tiny else []), "--out", out / "half_precision.json"]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "not real_servers", *there]
    main = ["--only", *(["alone@1", "nudging@1"] if tiny else MAIN), "--engines", "graphs"]
    rest = ["--only", "passes"] if tiny else ["--skip", *MAIN]
    larger = ["--base", "13b", "--only", "alone@1", "nudging@1", "--engines", "graphs"]
    of_tiny = "of a tiny run" if tiny else ""
    return [
        Step("identity", script("identity_check", *few), 0.4),
        Step("tests", tests, 0.25, why_no_tests),
        Step("half", script("half_precision", *half), 0.25),
        Step("main", speed("7b", *main), 0.5, budgeted=True),
        Step("13b", speed("13b", *larger), 0.4, of_tiny, budgeted=True),
        Step("rest", speed("rest", *rest), 1.0, budgeted=True),
    ]


def run(step: Step, left_s: float) -> dict:
    """Run a step for at most its share of the time; its verdict, exit code and the end of its output."""
    if step.why_not:
        return {"verdict": f"not run: {step.why_not}"}
    if left_s < LEAST_S:
        return {"verdict": f"not run: {max(0, left_s):.0f} s are left"}
    limit = max(LEAST_S, step.share * left_s)
    budget = ["--budget_s", str(int(max(LEAST_S, limit - ENDING_S)))] if step.budgeted else []
    began, lines = time.monotonic(), []
    process = subprocess.Popen(
        [*step.command, *budget],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    reader.join(10)
    seconds = round(time.monotonic() - began, 1)
    verdict = (
        "passed" if code == 0 else f"over its time of {limit:.0f} s" if code is None else f"FAILED (exit code {code})"
    )
    return {
        "verdict": verdict,
        "code": code,
        "seconds": seconds,
        "command": step.command + budget,
        "output": lines[-200:],
    }


def _read(process: subprocess.Popen, lines: list[str]) -> None:
    """Print what a process says, and keep it."""
    with process.stdout:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            print("  " + line, end="", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the steps; 1 if the identity fails, 3 if another step does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="FOLDER", help="models in the transformers format"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_checks"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9, help="for all steps together")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP")
    parser.add_argument("--scale", choices=("real", "tiny"), default="real")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    all_steps = steps(options)
    if unknown := set(options.only) - {step.name for step in all_steps}:
        parser.error(f"--only: no steps {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in all_steps)}")
    for folder in options.checkpoint:
        if not (Path(folder) / "config.json").is_file():
            parser.error(
                f"--checkpoint {folder}: no model in the transformers format lies there (config.json is missing)"
            )
    options.checkpoint = [str(Path(folder).resolve()) for folder in options.checkpoint]
    all_steps = steps(options)
    options.out.mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + 60 * options.minutes, {}
    for step in all_steps:
        if options.only and step.name not in options.only:
            continue
        print(f"== {step.name}", flush=True)
        found[step.name] = run(step, end - time.monotonic())
        print(f"== {step.name}: {found[step.name]['verdict']}", flush=True)
        (options.out / "gpu_checks.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(f"{name}: {result['verdict']}" for name, result in found.items()))
    print(options.out / "gpu_checks.json")
    failed = {name for name, result in found.items() if result.get("code", 0) != 0}
    return 1 if "identity" in failed else 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
