"""Nudging by the published program's requests and by streams, side by side on the same servers; and the base model alone.

    python benchmarks/nudging_speed.py scripted --cases nudging_gamma0.4 nudging_gamma0.5_small_chunks --threads 1 16
    python benchmarks/nudging_speed.py servers --base_model BASE --base_host http://localhost:8001/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8002/v1 --data_dir DIR --samples 20 --threads 4

`scripted` starts the tests' scripted server twice: the base model with 20 ms per request and 30 ms per token, the small model
with 8 ms and 5 ms (or --small_token_ms). The base model alone decodes as many tokens as each nudged answer has. Tokens are the
servers' own counts (/stats, vLLM's /metrics), with those that were written and thrown away; else the client's.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import re
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/support")]

from baselines import average_ensemble, proxy_tuning  # noqa: E402
from datasets_loader import DATA_SETS, Example, load_examples  # noqa: E402
from experiment.connect import connect, lengths  # noqa: E402
from experiment.prompts import prompt_builders  # noqa: E402
from experiment.sample import sample_prompts  # noqa: E402
from experiment.settings import RunSettings  # noqa: E402
from language_models.hosted.replicas import Replicas  # noqa: E402
from language_models.interface import Metered, SamplingParams  # noqa: E402
from nudging import NudgingResult, nudge  # noqa: E402
from utils import count_tokens  # noqa: E402

BASE_SPEED = {"--request_ms": 20, "--latency_ms": 30}
SMALL_SPEED = {"--request_ms": 8, "--latency_ms": 5}
CASE_OPTIONS = (
    *("exp", "baseline_method", "base_model", "nudging_model", "proxy_chat_model", "proxy_base_model"),
    *("top_prob_thres", "completion_token_num", "completion_token_num_nudging", "max_token_total"),
)


@dataclasses.dataclass
class Measured:
    """One pattern on all samples: latencies and wall-clock time in seconds, requests, and tokens by role, of all answers."""

    seconds: float
    wall: float
    requests: int
    decoded: dict[str, int]
    answers: list


def decoded(model: Replicas) -> int:
    """The tokens that a model's servers have written so far."""
    total = 0
    for endpoint in model.endpoints:
        root = endpoint.host.removesuffix("/v1")
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(root + "/stats", timeout=10) as reply:
                total += json.load(reply)[model.name]["completion_tokens"]
            continue
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(root + "/metrics", timeout=10) as reply:
                counts = re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", reply.read().decode(), re.M)
            total += int(sum(map(float, counts)))
            continue
        total += endpoint.usage.completion_tokens
    return total


def measure(models: dict[str, Replicas], threads: int, jobs: list) -> Measured:
    """Run jobs (functions of the models as a sample sees them) side by side."""

    def timed(number_and_job):
        number, job = number_and_job
        views = {role: Metered(model.for_sample(number)) for role, model in models.items()}
        began = time.monotonic()
        answer = job(views)
        return answer, time.monotonic() - began, sum(view.usage.requests for view in views.values())

    before = {role: decoded(model) for role, model in models.items()}
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        answers, seconds, requests = zip(*pool.map(timed, enumerate(jobs)), strict=True)
    wall = time.monotonic() - began
    time.sleep(0.2)  # servers notice a closed stream a moment later
    after = {role: decoded(model) - before[role] for role, model in models.items()}
    return Measured(sum(seconds), wall, sum(requests), after, list(answers))


def base_alone(prompt: str, tokens: int, settings: RunSettings):
    """A job: the base model writes that many tokens, from the start again after an early end. Its requests: [(seconds, tokens)]."""

    def job(views) -> list[tuple[float, int]]:
        left, requests = tokens, []
        while left > 0:
            before, began = views["base"].usage.completion_tokens, time.monotonic()
            views["base"].complete(prompt, SamplingParams(left, top_p=settings.base_top_p))
            written = max(1, views["base"].usage.completion_tokens - before)
            requests.append((time.monotonic() - began, written))
            left -= written
        return requests

    return job


def without_restarts(alone: Measured, lengths: list[int]) -> Measured:
    """The base model's time if every answer were one request: seconds per request and per token, fitted to what was measured."""
    requests = np.array([request for requests in alone.answers for request in requests])
    per_request, per_token = np.linalg.lstsq(
        np.stack([np.ones(len(requests)), requests[:, 1]], axis=1), requests[:, 0], rcond=None
    )[0]
    seconds = sum(per_request + per_token * n for n in lengths)
    return dataclasses.replace(alone, seconds=seconds, wall=alone.wall * seconds / alone.seconds)


def answer_job(prompts: dict[str, str], settings: RunSettings, request_mode: str):
    """A job: the loop of the experiment, by one pattern."""
    if settings.exp == "nudging":
        return lambda views: nudge(
            *views.values(), *prompts.values(), settings.nudging_settings, request_mode=request_mode
        )
    loop = proxy_tuning if settings.baseline_method == "proxy_tuning" else average_ensemble
    rest = {"max_token_total": settings.max_token_total, "request_mode": request_mode}
    return lambda views: loop(*views.values(), *prompts.values(), **rest)


def compare(settings: RunSettings, models: dict[str, Replicas], prompts: list[dict[str, str]], threads: int) -> dict:
    """Both patterns and the base model alone, measured one after the other: the rows of the table, and answers that differ."""
    runs = {
        request_mode: measure(models, threads, [answer_job(texts, settings, request_mode) for texts in prompts])
        for request_mode in ("published", "streamed")
    }
    lengths = [answer_length(result) for result in runs["streamed"].answers]
    jobs = [base_alone(texts["base"], n, settings) for texts, n in zip(prompts, lengths, strict=True)]
    alone = without_restarts(measure(models, threads, jobs), lengths)
    rows = [row("base alone", alone, alone, None, len(prompts))]
    rows += [row(request_mode, run, alone, runs["published"], len(prompts)) for request_mode, run in runs.items()]
    return {"rows": rows, "differing": differing(runs["published"].answers, runs["streamed"].answers)}


def answer_length(result) -> int:
    """The tokens of an answer: the base model's and cl100k_base's of the nudging words; of a baseline all in cl100k_base's."""
    if isinstance(result, NudgingResult):
        return result.base_tokens + count_tokens("".join(result.nudging_words))
    return max(1, count_tokens(result.text))


def row(name: str, run: Measured, alone: Measured, published: Measured | None, samples: int) -> dict:
    """One line of the table."""
    found = {"request_mode": name, "s/answer": run.seconds / samples, "answers/min": 60 * samples / run.wall}
    if published is None:
        return found | {"x base alone": 1.0}
    found["x base alone"] = run.seconds / alone.seconds
    found["x published"] = run.seconds / published.seconds
    found["identical"] = f"{sum(map(same, run.answers, published.answers))}/{samples}"
    found["requests"] = run.requests / samples
    if isinstance(run.answers[0], NudgingResult):
        kept = sum(result.base_tokens for result in run.answers)
        rounds = sum(len(result.nudging_words) for result in run.answers)
        words = sum(count_tokens("".join(result.nudging_words)) for result in run.answers)
        found["base decoded/kept"] = run.decoded["base"] / kept
        found["base decoded/(kept + rounds)"] = run.decoded["base"] / (kept + rounds)
        found["nudging decoded/kept"] = run.decoded["nudging"] / max(1, words)
        return found
    length = sum(map(answer_length, run.answers))
    return found | {f"{role} decoded/answer token": n / length for role, n in run.decoded.items()}


def same(a, b) -> bool:
    """Whether two answers are the same to the character, and of the same pieces."""
    return a.text == b.text and getattr(a, "pieces", None) == getattr(b, "pieces", None)


def differing(first: list, second: list) -> list[dict]:
    """The answers that differ, and where."""
    found = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if not same(a, b):
            at = next((n for n in range(min(len(a.text), len(b.text))) if a.text[n] != b.text[n]), -1)
            found.append({"sample": i, "at": at, "published": a.text[at : at + 30], "streamed": b.text[at : at + 30]})
            found[-1]["before"] = a.text[:at]
    return found


def near_tie(models: dict[str, Replicas], texts: dict[str, str], found: dict) -> str:
    """What both models say of the place where two answers part: their two most probable tokens' log-probabilities."""
    said = []
    for role, model in models.items():
        view = model.for_sample(0)
        token = view.complete(texts[role] + found["before"], SamplingParams(1, logprobs=2)).tokens[0]
        top = ", ".join(f"{text!r} p={math.exp(logprob):.4f}" for text, logprob in token.top[:2])
        said.append(f"{role}: {top}")
    return "; ".join(said)


def show(title: str, rows: list[dict]) -> None:
    """Print a table for a README."""
    print(f"\n{title}\n")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"), flush=True)


def scripted(options: argparse.Namespace) -> None:
    """The recorded cases on scripted servers of fixed speeds."""
    from doubles import ScriptedServer
    from runs import CASES, gsm8k_rows

    questions = list(dict.fromkeys(record["question"] for case in CASES.values() for record in case["records"]))
    questions += [made["question"] for made in gsm8k_rows(options.samples)]
    for name in options.cases:
        case = CASES[name]
        speeds = (BASE_SPEED, SMALL_SPEED | {"--latency_ms": options.small_token_ms})
        told = [
            [word for pair in ({"--seed": case["seed"]} | speed).items() for word in map(str, pair)] for speed in speeds
        ]
        servers = [ScriptedServer(*words).start() for words in told]
        try:
            small = {f"{role}_host": servers[1].host for role in ("nudging", "proxy_chat", "proxy_base")}
            settings = RunSettings(
                base_host=servers[0].host,
                num_threads=max(options.threads),
                **small,
                **{option: case[option] for option in CASE_OPTIONS if case.get(option) is not None},
            )
            examples = [
                Example(id=str(i), question=question, gold="0")
                for i, question in enumerate(questions[: options.samples])
            ]
            run_all(settings, examples, options.threads, name)
        finally:
            for server in servers:
                server.stop()


def run_all(settings: RunSettings, examples: list[Example], threads: list[int], title: str) -> None:
    """Compare the patterns for each number of threads."""
    data_set = DATA_SETS[settings.dataset_name]
    builders = prompt_builders(settings)
    prompts = [sample_prompts(data_set, example, builders) for example in examples]
    with contextlib.ExitStack() as stack:
        models = connect(settings, lengths(settings, data_set, examples, builders), stack)
        for n in threads:
            found = compare(settings, models, prompts, n)
            show(f"{title}: {len(prompts)} answers, {n} threads", found["rows"])
            for difference in found["differing"]:
                shown = {name: value for name, value in difference.items() if name != "before"}
                print(f"differs: {shown}\n  {near_tie(models, prompts[difference['sample']], difference)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("scripted", "servers"):
        command = kinds.add_parser(kind)
        command.add_argument("--samples", type=int, default=20)
        command.add_argument("--threads", type=int, nargs="+", default=[1, 16])
        if kind == "scripted":
            cases = ["nudging_gamma0.4", "nudging_gamma0.5_small_chunks", "ensemble", "proxy_tuning"]
            command.add_argument("--cases", nargs="+", default=cases)
            command.add_argument("--small_token_ms", type=float, default=SMALL_SPEED["--latency_ms"], metavar="MS")
            continue
        for option in ("base_model", "base_host", "nudging_model", "nudging_host"):
            command.add_argument(f"--{option}", required=True)
        command.add_argument("--data_dir")
        command.add_argument("--dataset_name", default="gsm8k")
        command.add_argument("--top_prob_thres", type=float, default=0.4)
        command.add_argument("--max_token_total", type=int, default=256)
    options = parser.parse_args()
    if options.kind == "scripted":
        scripted(options)
        return
    names = [f.name for f in dataclasses.fields(RunSettings)]
    settings = RunSettings(
        exp="nudging",
        num_threads=max(options.threads),
        **{name: value for name, value in vars(options).items() if name in names},
    )
    examples = load_examples(settings.dataset_name, num_samples=options.samples, data_dir=settings.data_dir)
    run_all(settings, examples, options.threads, f"{settings.base_model} + {settings.nudging_model}")


if __name__ == "__main__":
    main()
