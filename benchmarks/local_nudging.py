"""Nudging in this process: its speed beside the base model alone, the published requests, the baselines, and modelco.

    python benchmarks/local_nudging.py --base FOLDER --nudging FOLDER --data_dir DIR --threads 1 8 \\
        [--dtype bfloat16] [--methods base nudging ...] [--modelco_python OTHER_ENVIRONMENT/bin/python]
    python benchmarks/local_nudging.py --base FOLDER --nudging FOLDER --data_dir DIR --identity

The first command prints, for each way to answer and number of answers at a time: tokens of the answers (in the base model's
tokens) per second, and forward passes per answer token of both models, each sample's part in a pass counted. On a busy machine
the comparison by processor time says more than the one by the clock. "base" is transformers' generate with its cache, in
batches of that many; "base, blocked weights" is the same on the layers that the engine here gives the model on a CPU.
"published" sends the published program's requests, each computed from its first token on. The second command compares the
texts of "nudging" and "published" and shows where they part.
modelco (PyPI) is run by a Python of its own that has it: with its key-value cache, and without, which is its default.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from baselines import average_ensemble, proxy_tuning  # noqa: E402
from datasets_loader import DATA_SETS, load_examples  # noqa: E402
from language_models.interface import SamplingParams  # noqa: E402
from language_models.local.attention import OWN_ATTENTION  # noqa: E402
from language_models.local.devices import ENGINE_CHOICES  # noqa: E402
from language_models.local.loading import load_causal_lm  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402
from nudging import NudgingSettings, nudge  # noqa: E402
from utils import apply_instruct_template  # noqa: E402

METHODS = (
    "base",
    "base, blocked weights",
    "nudging",
    "nudging without drafts",
    "ensemble",
    "proxy_tuning",
    "published",
    "modelco",
    "modelco without its cache",
)
GENERATED = ("base", "base, blocked weights")
MODELCO = ("modelco", "modelco without its cache")
SLOW = ("published", *MODELCO)


@dataclass
class Measured:
    """Answers of one method, the seconds of all, those of the processor, and each model's passes, every sample counted."""

    answers: list[str]
    seconds: float
    processor: float
    base_passes: int = 0
    nudging_passes: int = 0


class FromScratch:
    """A model as a server without any cache between requests has it."""

    runs_ahead = False

    def __init__(self, model: LocalModel):
        self.name, self._view = model.name, model.for_sample(0)

    def complete(self, prompt: str, params: SamplingParams):
        self._view.sample.forget()
        return self._view.complete(prompt, params)


class Pair:
    """The two models, and the ways in which they answer prompts."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        how = {"device": options.device, "dtype": options.dtype, "engine": options.engine}
        how["samples"] = 3 * max(options.threads)
        self.nudging = LocalModel.load(options.nudging, **how)
        self.base = LocalModel.load(options.base, drafter=self.nudging, **how)
        self.settings = NudgingSettings(top_prob_thres=options.top_prob_thres, max_token_total=options.max_token_total)

    def measure(self, method: str, prompts: list[tuple[str, str]], threads: int) -> Measured:
        """Answer all prompts, that many at a time."""
        if method in GENERATED:
            # On the thread that has run passes before: see Worker.call.
            return self.base.slots.worker.call(
                lambda: self.generate(method, [prompt for prompt, _ in prompts], threads)
            )
        ways: dict[str, Callable[[str, str], str]] = {
            "nudging": self.nudged,
            "nudging without drafts": self.nudged,
            "published": self.published,
            "ensemble": lambda base, chat: self.baseline(average_ensemble, [self.base, self.nudging], [base, chat]),
            "proxy_tuning": lambda base, chat: self.baseline(
                proxy_tuning, [self.base, self.nudging, self.nudging], [base, chat, base]
            ),
        }
        for model in (self.base, self.nudging):
            model.draft_ahead = method not in ("nudging without drafts", "published")
        before = [model.engine.sample_passes for model in (self.base, self.nudging)]
        started, began = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(lambda pair: ways[method](*pair), prompts))
        seconds = time.perf_counter() - started, time.process_time() - began
        after = [model.engine.sample_passes for model in (self.base, self.nudging)]
        return Measured(answers, *seconds, *(b - a for a, b in zip(before, after, strict=True)))

    def nudged(self, base_prompt: str, nudging_prompt: str) -> str:
        views = self.base.for_sample(base_prompt), self.nudging.for_sample(base_prompt)
        return nudge(*views, base_prompt, nudging_prompt, self.settings, request_mode="streamed").text

    def published(self, base_prompt: str, nudging_prompt: str) -> str:
        models = FromScratch(self.base), FromScratch(self.nudging)
        return nudge(*models, base_prompt, nudging_prompt, self.settings, request_mode="published").text

    def baseline(self, loop, models: list[LocalModel], prompts: list[str]) -> str:
        views = [model.for_sample(prompts[0]) for model in models]
        return loop(*views, *prompts, max_token_total=self.options.max_token_total, request_mode="streamed").text

    @torch.inference_mode()
    def generate(self, method: str, prompts: list[str], batch: int) -> Measured:
        """The base model alone, by transformers' own generate."""
        engine, tokenizer = self.base.engine, self.base.vocabulary.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model, answers, passes = engine.model, [], 0
        if method == "base":
            model = load_causal_lm(self.options.base, device=model.device, dtype=model.dtype)
        model.set_attn_implementation("sdpa")
        started, began = time.perf_counter(), time.process_time()
        for i in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[i : i + batch], return_tensors="pt", padding=True).to(model.device)
            ids = model.generate(**inputs, max_new_tokens=self.options.max_token_total, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            passes += new.shape[0] * new.shape[1]
            answers += tokenizer.batch_decode(new, skip_special_tokens=True)
        seconds = time.perf_counter() - started, time.process_time() - began
        if model is engine.model:
            model.set_attn_implementation(OWN_ATTENTION)
        return Measured(answers, *seconds, passes)

    def tokens(self, answers: list[str]) -> int:
        """The length of answers in the base model's tokens."""
        return sum(len(self.base.vocabulary.encode(answer, special=False)) for answer in answers)


def modelco(options: argparse.Namespace, prompts: list[tuple[str, str]], batch: int, cache: bool) -> Measured:
    """The same pair and prompts by modelco's nudging method, without sampling."""
    task = {
        "models": [options.base, options.nudging],
        "prompts": prompts,
        "batch": batch,
        "cache": cache,
        "max_new_tokens": options.max_token_total,
        "gamma": options.top_prob_thres,
        "device": options.device,
        "dtype": options.dtype,
    }
    command = [options.modelco_python, str(REPOSITORY / "benchmarks/modelco_nudging.py")]
    finished = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(finished.stdout.splitlines()[-1])
    return Measured(
        found["answers"], found["seconds"], found["processor"], found["base_passes"], found["nudging_passes"]
    )


def table(pair: Pair, prompts: list[tuple[str, str]]) -> Iterator[list]:
    """A row for each method and number of threads."""
    options, alone = pair.options, {}
    for threads in options.threads:
        for method in options.methods:
            few = prompts[: options.slow_questions] if method in SLOW else prompts
            load = os.getloadavg()[0]
            if method in MODELCO:
                found = modelco(options, few, threads, cache=method == MODELCO[0])
            else:
                found = pair.measure(method, few, threads)
            tokens = pair.tokens(found.answers)
            speed = tokens / found.seconds
            if method == "base":
                alone[threads] = speed, tokens / found.processor
            yield [
                method,
                threads,
                len(few),
                tokens,
                f"{speed:.2f}",
                f"{speed / alone[threads][0]:.2f}" if threads in alone else "",
                f"{tokens / found.processor / alone[threads][1]:.2f}" if threads in alone else "",
                f"{found.base_passes / tokens:.2f}",
                f"{found.nudging_passes / tokens:.2f}",
                f"{load:.1f}",
            ]


def identity(pair: Pair, prompts: list[tuple[str, str]]) -> None:
    """Whether the answers are those of the published requests, and how close the decision was where they are not."""
    fast = pair.measure("nudging", prompts, max(pair.options.threads)).answers
    slow = pair.measure("published", prompts, max(pair.options.threads)).answers
    same = sum(a == b for a, b in zip(fast, slow, strict=True))
    print(f"{same} of {len(prompts)} answers are the same")
    for (base_prompt, nudging_prompt), ours, published in zip(prompts, fast, slow, strict=True):
        if ours == published:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, published, strict=False)) if a != b), min(len(ours), len(published))
        )
        print(
            f"\n...{ours[max(0, at - 40) : at]!r}\n  here      {ours[at : at + 40]!r}\n  published {published[at : at + 40]!r}"
        )
        for model, prompt in ((pair.base, base_prompt), (pair.nudging, nudging_prompt)):
            token = model.complete(prompt + ours[:at], SamplingParams(1, logprobs=2)).tokens[0]
            shown = ", ".join(f"{text!r} {math.exp(logprob):.4f}" for text, logprob in token.top)
            print(f"  {model.name}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--nudging", required=True)
    parser.add_argument("--data_dir", help="folder with gsm8k/test.jsonl; without it the hub")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--slow_questions", type=int, default=20, help="fewer for published and modelco")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[name for name in METHODS if name not in MODELCO]
    )
    parser.add_argument("--max_token_total", type=int, default=128)
    parser.add_argument("--top_prob_thres", type=float, default=0.4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engine", choices=ENGINE_CHOICES, default="auto")
    parser.add_argument("--modelco_python", help="a Python that has modelco")
    parser.add_argument("--identity", action="store_true")
    options = parser.parse_args()
    data_set = DATA_SETS["gsm8k"]
    examples = load_examples("gsm8k", num_samples=options.questions, data_dir=options.data_dir)
    prompts = [
        tuple(
            apply_instruct_template(
                name, data_set.system_prompt, data_set.question_prefix + example.question, family=family
            )
            for name, family in ((options.base, "plain"), (options.nudging, "auto"))
        )
        for example in examples
    ]
    pair = Pair(options)
    print(f"base {pair.base.in_words}\nnudging {pair.nudging.in_words}")
    print(f"{torch.get_num_threads()} processor threads, torch {torch.__version__}", flush=True)
    if options.identity:
        return identity(pair, prompts)
    names = [
        "method",
        "at a time",
        "answers",
        "tokens",
        "tokens/s",
        "of base",
        "of base, processor time",
        "base passes/token",
        "nudging passes/token",
        "load before",
    ]
    rows = []
    for row in table(pair, prompts):
        rows.append(row)
        print("  ".join(map(str, row)), flush=True)
    print("\n" + tabulate(rows, names, tablefmt="github", disable_numparse=True))
    for model in (pair.base, pair.nudging):
        print(model.cost_in_words)
        rates = {name: f"{rate.rate:.2f}" for name, rate in model.draft_rates.items()}
        costs = ", ".join(f"{size}: {1000 * seconds:.0f}" for size, seconds in model.engine.costs.table)
        print(f"  drafted tokens that were of use: {rates}; ms of a pass by its new tokens: {costs}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # a pass that goes on in its thread would end this in a crash
