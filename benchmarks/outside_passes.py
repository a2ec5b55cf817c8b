"""What nudging costs outside of forward passes, and what it would take with passes at given prices: no model, no GPU.

    python benchmarks/outside_passes.py [--threads 1 8 32] [--tokens 128] [--stops 0.01] [--prices h100|none]

Engines that look their next tokens up in a table stand for both models. With `--prices none` a pass takes no time, so that
what is left of an answer's time is spent outside of passes: on tokenizers, on the loop, on threads that wait for each other.
With `--prices h100` a pass sleeps for as long as it took on one H100 (7b and 1.1b, bfloat16), so that tokens per second are
predictions, for a machine whose processor is this one. "passes only" leaves out what happens between passes. The pair is that
of the measurement there: the base model is uncertain at 15 % of the tokens, the nudging model agrees with it at 75 % of the
certain and 35 % of the uncertain ones.
"""

import argparse
import math
import random
import sys
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import tiktoken
import torch
from tabulate import tabulate
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import utils  # noqa: E402
from language_models.interface import Metered, SamplingParams  # noqa: E402
from language_models.local import model as local_model  # noqa: E402
from language_models.local.costs import PassCosts  # noqa: E402
from language_models.local.engine import Engine  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402
from language_models.local.segments import NextToken, Segment  # noqa: E402
from language_models.local.worker import Worker  # noqa: E402
from nudging import NudgingSettings, nudge  # noqa: E402

SIZES = (1, 8, 32, 64, 128, 256, 512, 1024)
# Milliseconds of a pass by its new tokens, and of one step more for 1, 8 and 32 samples (CUDA graphs on an H100).
PRICES = {
    "h100": {
        "base": ((6.09, 6.30, 6.92, 6.68, 7.34, 8.71, 11.7, 20.5), (6.10, 6.17, 6.44)),
        "nudging": ((1.79, 1.88, 1.93, 1.97, 2.17, 2.31, 3.0, 4.5), (1.70, 1.77, 1.82)),
    },
    "none": {"base": ((0.0,) * 8, (0.0,) * 3), "nudging": ((0.0,) * 8, (0.0,) * 3)},
}
STEP_SAMPLES = (1, 8, 32)
WORDS = 4000


class TableCache:
    """Says how many slots there are; nothing is kept in them but their length."""

    bytes = 0

    def __init__(self, slots: int):
        self.slots, self.layers = slots, {}
        self.lengths = [0] * slots


class TableEngine(Engine):
    """A model whose next token is looked up by its last one; its passes take the time that they are priced at."""

    kind = "table"
    writes_ahead = True
    sleeps = True
    sizes = SIZES

    def __init__(self, name: str, following: list[int], probability: list[float], prices, *, slots: int, longest: int):
        self.name, self.device, self.longest = name, torch.device("cpu"), longest
        self.following, self.logprobs = following, [math.log(p) for p in probability]
        self.slice = 4 if slots > 2 else 64
        self.passes_ms, self.steps_ms = prices
        self.fallbacks, self.grown, self._capacity_before = [], 0, 0
        self.parameters, self.vocabulary_size = 0, len(following)
        self.cache = TableCache(slots)
        self.costs = PassCosts(SIZES)
        self.reset_counts()

    def reset_counts(self) -> None:
        super().reset_counts()
        self.launches = self.steps = 0
        self.priced = 0.0

    def make_cache(self, slots, longest):
        raise NotImplementedError

    def outputs(self, segments):
        raise NotImplementedError

    logits = outputs

    def measure(self) -> None:
        for size, ms in zip(SIZES, self.passes_ms, strict=True):
            self.costs.record(size, max(ms, 1e-6) / 1000)

    def step_cost(self, samples: float) -> float:
        return max(_between(STEP_SAMPLES, self.steps_ms, samples), 1e-6) / 1000

    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """See Engine; a segment must not stand behind what was never computed."""
        began, found = time.perf_counter(), []
        for segment in segments:
            if segment.start > self.cache.lengths[segment.slot]:
                raise ValueError(f"{segment} behind {self.cache.lengths[segment.slot]} tokens")
            self.cache.lengths[segment.slot] = segment.end + segment.ahead
            here = [self._next(token) for token in segment.tokens[len(segment.tokens) - segment.wanted :]]
            for _ in range(segment.ahead):
                here.append(self._next(here[-1].token))
            found.append(here)
        new, ahead = sum(len(s.tokens) for s in segments), max(s.ahead for s in segments)
        stepping = sum(bool(s.ahead) for s in segments)
        padded = SIZES[min(bisect_left(SIZES, new), len(SIZES) - 1)]
        ms = self.passes_ms[SIZES.index(padded)] * max(1, math.ceil(new / padded))
        if ahead:
            samples = STEP_SAMPLES[min(bisect_left(STEP_SAMPLES, stepping), len(STEP_SAMPLES) - 1)]
            ms += ahead * self.steps_ms[STEP_SAMPLES.index(samples)]
        if ms and self.sleeps:
            time.sleep(ms / 1000)
        self.launches, self.steps, self.priced = self.launches + 1, self.steps + ahead, self.priced + ms / 1000
        wanted_ahead = sum(s.ahead for s in segments)
        self.count(1 + ahead, len(segments) + wanted_ahead, new + wanted_ahead, time.perf_counter() - began)
        return found

    def _next(self, token: int) -> NextToken:
        following = self.following[token]
        return NextToken(following, ((following, self.logprobs[token]),))


def _between(places, values, at: float) -> float:
    """A value between those that were measured."""
    for (a, x), (b, y) in pairwise(zip(places, values, strict=True)):
        if at <= b:
            return x + (y - x) * (max(at, a) - a) / (b - a)
    return values[-1] * at / places[-1]


def make_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level; every word with the space before it is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "</s>", *alphabet, *("\u0120" + word for word in words)]
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in ("<s>", "</s>")])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def make_words(chance: random.Random) -> list[str]:
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(chance.choice(syllables) for _ in range(chance.choice((2, 2, 3))))] = None
    return list(words)


def chosen_tables(options, chance: random.Random, first: int) -> dict[str, tuple[list[int], list[float]]]:
    """Next tokens and their probabilities for both models; `first` is the id of the first word."""
    order = list(range(WORDS))
    chance.shuffle(order)
    base = [0] * WORDS
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        base[here] = there  # one cycle through all words: no text comes back to itself
    unsure = [chance.random() < options.uncertain for _ in base]
    nudging = [
        word if chance.random() < (0.35 if uncertain else 0.75) else chance.randrange(WORDS)
        for word, uncertain in zip(base, unsure, strict=True)
    ]
    stops = [chance.random() < options.stops for _ in base]
    before, sure = [first] * first, [0.9] * first
    return {
        "base": (
            before + [first + w for w in base],
            sure + [chance.uniform(0.12, 0.34) if u else 0.95 for u in unsure],
        ),
        "nudging": (
            before + [1 if stop else first + w for w, stop in zip(nudging, stops, strict=True)],
            sure + [0.35 if chance.random() < 0.15 else 0.93 for _ in nudging],
        ),
    }


class Pair:
    """The two models for a number of answers at a time."""

    def __init__(self, tables, tokenizer, prices, threads: int, slots_each: int):
        made = {}
        for role, samples in (("nudging", slots_each * threads), ("base", threads)):

            def engine(model, *, slots, longest, role=role, **_):
                return TableEngine(role, *tables[role], prices[role], slots=slots, longest=longest)

            local_model.make_engine = engine
            made[role] = LocalModel(
                role,
                _Nowhere(),
                tokenizer,
                end_ids=frozenset({1}),
                context_length=4096,
                samples=samples,
                drafter=made.get("nudging"),
            )
        self.base, self.nudging = made["base"], made["nudging"]


class _Nowhere(torch.nn.Module):
    """What an engine has for a model that is none."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--answers", type=int, default=0, help="of each row; twice as many as at a time, 8 at least")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--prices", choices=sorted(PRICES), default="none")
    parser.add_argument("--uncertain", type=float, default=0.15)
    parser.add_argument("--stops", type=float, default=0.0, help="share of words after which the nudging model ends")
    parser.add_argument("--slots", type=int, default=6, help="of the nudging model, for each answer at a time")
    parser.add_argument("--methods", nargs="+", default=["base alone", "nudging"], choices=["base alone", "nudging"])
    parser.add_argument("--profile", action="store_true", help="print where the time goes, of the last row")
    parser.add_argument("--own_thread", action="store_true", help="passes on a thread of their own, as on a CPU")
    parser.add_argument("--awake", action="store_true", help="add up prices only; of use for one answer at a time")
    options = parser.parse_args()
    TableEngine.sleeps = not options.awake
    local_model._workers[_Nowhere.device] = Worker(own_thread=options.own_thread)
    chance = random.Random(3)
    words = make_words(chance)
    tokenizer = make_tokenizer(words)
    first = len(tokenizer) - WORDS
    pieces = [bytes([i]) for i in range(256)] + [(" " + word).encode() for word in words]
    pattern = r"""[^\r\n\p{L}\p{N}]?+\p{L}++|\s"""
    # The length of answers is counted in words: cl100k_base would cut these into several tokens.
    encoding = tiktoken.Encoding(
        "words", pat_str=pattern, mergeable_ranks={p: i for i, p in enumerate(pieces)}, special_tokens={}
    )
    utils.count_tokens_by(encoding.encode_ordinary)
    tables = chosen_tables(options, chance, first)
    rows, texts = [], {}
    for threads in options.threads:
        answers = options.answers or max(8, 2 * threads)
        todo = [" ".join(["", *chance.choices(words, k=99)]) for _ in range(answers)]
        for method in options.methods:
            pair = Pair(tables, tokenizer, PRICES[options.prices], threads, options.slots)

            def answer(prompt: str, pair=pair, method=method) -> str:
                if method == "base alone":
                    pair.base.draft_ahead = False
                    stream = pair.base.for_sample(prompt).stream(prompt, SamplingParams(options.tokens))
                    return "".join(token.text for token in stream)
                views = Metered(pair.base.for_sample(prompt)), Metered(pair.nudging.for_sample(prompt))
                settings = NudgingSettings(top_prob_thres=0.4, max_token_total=options.tokens)
                chat = " ".join(["", *words[:12]]) + prompt
                return nudge(*views, prompt, chat, settings, request_mode="streamed").text

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(answer, todo[:threads]))  # draft rates, tokenizers
                for model in (pair.base, pair.nudging):
                    model.engine.reset_counts()
                began, processor = time.perf_counter(), time.process_time()
                found = list(pool.map(answer, todo))
                seconds, processor = time.perf_counter() - began, time.process_time() - processor
            tokens = sum(map(utils.count_tokens, found))
            if texts.setdefault((method, threads), found) != found:
                raise SystemExit("other texts")
            engines = pair.base.engine, pair.nudging.engine
            priced, passed = sum(e.priced for e in engines), sum(e.seconds for e in engines)
            rows.append([
                method, threads, tokens, f"{tokens / seconds:.0f}",
                f"{tokens / priced:.0f}" if priced else "",
                f"{1e6 * (seconds - passed) / tokens:.0f}", f"{1e6 * processor / tokens:.0f}",
                *(f"{x:.3f}" for e in engines for x in (e.launches / tokens, e.steps / tokens)),
                _mark(found),
            ])  # fmt: skip
            print("  ".join(map(str, rows[-1])), flush=True)
    names = ["method", "at a time", "tokens", "tokens/s", "passes only", "us/token outside", "processor us/token",
             "base launches/token", "base steps", "nudging launches", "nudging steps", "texts"]  # fmt: skip
    print("\n" + tabulate(rows, names, tablefmt="github", disable_numparse=True))
    if options.profile:
        import cProfile

        with_profile = cProfile.Profile()
        with_profile.runcall(lambda: [answer(prompt) for prompt in todo])
        with_profile.print_stats("tottime")


def _mark(texts: list[str]) -> str:
    import zlib

    return f"{zlib.crc32(chr(10).join(texts).encode()):08x}"


if __name__ == "__main__":
    main()
