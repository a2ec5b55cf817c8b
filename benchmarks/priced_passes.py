"""An engine that computes nothing: it follows a chain of words and takes as long as a GPU's passes were measured to take.

Where no GPU is at hand, it runs the real loop (views, worker, threads, drafts) with the waiting times of one: what comes out is a
prediction, with the time outside of passes that this machine's processor takes. Passes are put together as GraphEngine does it.
"""

import contextlib
import json
import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from markov_pair import VOCABULARY, Chain

from language_models.local import model as local_model
from language_models.local.costs import PassCosts
from language_models.local.engine import Engine
from language_models.local.segments import NextToken, Segment
from language_models.local.worker import Worker

SLICE, LARGEST, STEPS = 4, 1024, 32
GPU_WORKER = Worker(own_thread=False)
FEW = 200  # other words that are told as alternatives


@dataclass(frozen=True)
class Prices:
    """Milliseconds: of passes by their new tokens, of one greedy token more by the samples that share it, and of each run()."""

    passes: dict[int, float]
    steps: dict[int, float]
    run: float = 0.0

    def seconds(self, segments: Sequence[Segment]) -> tuple[float, int]:
        """What the passes of one run() take, and how many these are."""
        tokens = sum(len(segment.tokens) for segment in segments)
        whole, rest = divmod(tokens, LARGEST)
        ahead = [min(STEPS, segment.ahead) for segment in segments if segment.ahead and not segment.sampling]
        ms = self.run + whole * _of(self.passes, LARGEST) + (_of(self.passes, rest) if rest else 0.0)
        ms += max(ahead, default=0) * (_of(self.steps, len(ahead)) if ahead else 0.0)
        return ms / 1000, whole + bool(rest) + max(ahead, default=0)


def _of(prices: dict[int, float], number: float) -> float:
    """The price of the next larger size; beyond the largest in proportion."""
    sizes = sorted(prices)
    at = bisect_left(sizes, number)
    return prices[sizes[at]] if at < len(sizes) else prices[sizes[-1]] * number / sizes[-1]


# One H100 80GB, bfloat16, replayed graphs, some hundred tokens of context.
H100 = {
    "7b": Prices(
        {1: 6.09, 8: 6.30, 32: 6.92, 64: 6.68, 128: 7.34, 256: 8.71, 512: 11.7, 1024: 20.5},
        {1: 6.10, 8: 6.17, 32: 6.44},
    ),
    "1.1b": Prices(
        {1: 1.79, 8: 1.88, 32: 1.93, 64: 1.97, 128: 2.17, 256: 2.31, 512: 3.0, 1024: 4.5}, {1: 1.70, 8: 1.77, 32: 1.82}
    ),
}
# Not measured: 7b's, by the bytes of the weights that a pass reads.
_MORE = 12.85 / 6.61
H100["13b"] = Prices(*({n: _MORE * ms for n, ms in table.items()} for table in (H100["7b"].passes, H100["7b"].steps)))
# What is left of an answer's time is spent outside of passes.
NOTHING = {name: Prices(*({n: 1e-4 for n in table} for table in (of.passes, of.steps))) for name, of in H100.items()}


def read_prices(path: str | Path) -> dict[str, Prices]:
    """Prices as gpu_nudging.py writes them: {shape: {"passes": {new tokens: ms}, "steps": {samples: ms}, "run": ms}}.

    Raises:
        OSError, ValueError: the file cannot be read, or has not this form.
    """
    with open(path, encoding="utf-8") as file:
        try:
            found = {
                name: Prices(*(_whole(of[key]) for key in ("passes", "steps")), float(of.get("run", 0.0)))
                for name, of in json.load(file).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has no prices ({type(error).__name__}: {error})") from None
    return found


def _whole(table: dict[str, float]) -> dict[int, float]:
    made = {int(number): float(ms) for number, ms in table.items()}
    if not made or min(made) < 1 or not all(math.isfinite(ms) and ms > 0 for ms in made.values()):
        raise ValueError("numbers above 0 are needed")
    return made


def priced_model(chain: Chain, prices: Prices) -> SimpleNamespace:
    """What stands for a model in PricedEngine, and so in LocalModel within `priced_engines`."""
    config = SimpleNamespace(model_type="llama")
    cpu = torch.device("cpu")
    return SimpleNamespace(
        device=cpu,
        dtype=torch.bfloat16,
        config=config,
        chain=chain,
        prices=prices,
        parameters=lambda: iter([torch.empty(0, device=cpu)]),
    )


class PricedEngine(Engine):
    """See Engine; `model` is a `priced_model`. `seconds` are the prices of the passes, not the clock's."""

    kind = "priced"
    writes_ahead = True
    sizes = (1, 8, 32, 64, 128, 256, 512, 1024)
    sleeps = True  # without, the passes cost nothing but are counted: samples join in other passes then

    def __init__(self, model, *, slots: int, longest: int, expected_tokens: int | None = None):
        self.model, self.device, self.longest, self.headless = model, model.device, longest, False
        self.expected_tokens, self.fallbacks, self.grown = expected_tokens, [], 0
        self.name = "PricedModel"
        self.cache = self.make_cache(slots, longest)
        self.parameters, self.vocabulary_size = 0, VOCABULARY
        self.slice = SLICE if slots > 2 else 64
        self.prices: Prices = model.prices
        self.costs = PassCosts(self.sizes)
        self._first = VOCABULARY - len(model.chain.following)
        self._next = [self._first + n for n in model.chain.following.tolist()]
        self._logprob = model.chain.probability.log().tolist()
        self._late = _lateness() if self.sleeps else 0.0
        self._capacity_before = self.capacity
        self.reset_counts()

    @property
    def capacity(self) -> int:
        """See Engine."""
        return self.longest

    def make_cache(self, slots: int, longest: int):
        """See Engine; nothing is cached."""
        return SimpleNamespace(slots=slots, longest=longest, capacity=longest, bytes=0)

    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """See Engine."""
        began = time.perf_counter()
        seconds, passes = self.prices.seconds(segments)
        found = []
        for segment in segments:
            if segment.sampling:
                raise NotImplementedError("a chain of words is not sampled")
            tokens = [
                self._after(token, segment.top) for token in segment.tokens[len(segment.tokens) - segment.wanted :]
            ]
            for _ in range(min(STEPS, segment.ahead)):
                tokens.append(self._after(tokens[-1].token, max(1, segment.top)))
            found.append(tokens)
        steps = sum(min(STEPS, segment.ahead) for segment in segments)
        launches = max(1, math.ceil(sum(len(segment.tokens) for segment in segments) / LARGEST))
        new = sum(len(segment.tokens) for segment in segments)
        self.count(passes, launches * len(segments) + steps, new + steps, seconds)
        if self.sleeps:
            left = seconds - (time.perf_counter() - began) - self._late
            if left > 0:
                time.sleep(left)
        return found

    def _after(self, token: int, top: int) -> NextToken:
        word = token - self._first
        if word < 0:  # a special token or a byte: any word
            return NextToken(self._first, ((self._first, math.log(0.5)),)[: max(0, top)])
        following, logprob = self._next[word], self._logprob[word]
        if top <= 1:
            return NextToken(following, ((following, logprob),)[: max(0, top)])
        rest = math.log((1 - math.exp(logprob)) / VOCABULARY)
        others = range(self._first, self._first + min(FEW, top) - 1)
        return NextToken(following, ((following, logprob), *((n, rest) for n in others if n != following)))

    def outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        found = self.logits(segments)
        seconds, passes = self.prices.seconds(segments)
        new = sum(len(segment.tokens) for segment in segments)
        self.count(passes, len(segments), new, seconds)
        if self.sleeps:
            time.sleep(max(0.0, seconds - self._late))
        return found

    def logits(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        found = []
        for segment in segments:
            rows = torch.zeros(segment.wanted, VOCABULARY)
            for row, token in zip(rows, segment.tokens[len(segment.tokens) - segment.wanted :], strict=True):
                p = self._after(token, 1)
                logit = math.log(VOCABULARY) + p.top[0][1] - math.log(max(1e-6, 1 - math.exp(p.top[0][1])))
                row[p.token] = logit
            found.append(rows)
        return found

    def measure(self) -> None:
        """See Engine; the costs are the prices."""
        self.costs.forget()
        for size in self.sizes:
            self.costs.record(size, (_of(self.prices.passes, size) + self.prices.run) / 1000)

    def step_cost(self, samples: float) -> float:
        """See Engine."""
        return _of(self.prices.steps, samples) / 1000


def _lateness() -> float:
    """By how much time.sleep is late here, in seconds."""
    late = []
    for _ in range(20):
        began = time.perf_counter()
        time.sleep(0.002)
        late.append(time.perf_counter() - began - 0.002)
    return sorted(late)[len(late) // 2]


@contextlib.contextmanager
def priced_engines() -> Iterator[None]:
    """LocalModel puts a `priced_model` into a PricedEngine, whose passes are run as those of a GPU: by the threads that wait."""
    make, workers = local_model.make_engine, dict(local_model._workers)
    local_model.make_engine = lambda model, kind, **options: PricedEngine(model, **options)
    local_model._workers = {torch.device("cpu"): GPU_WORKER}
    try:
        yield
    finally:
        local_model.make_engine, local_model._workers = make, workers
