#!/usr/bin/env python
"""In float32 both engines write what transformers writes: tiny models of all architectures, in passes of all kinds.

    python benchmarks/identity_check.py [--device cuda] [--architectures llama gemma2 ...]

For each architecture and engine: texts that transformers writes greedily, each token by a pass over the whole text, are read in
pieces beside one another, written by one greedy token after another inside of the engine (graphs alone), and read at random places
again after being cut back. Every token has to be the same, and its log-probability within 1e-3. On a GPU "graphs" has to have
captured its passes. The exit code is 1 if anything differs. Needs torch, transformers and triton alone.
"""

import argparse
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
from local_models import ARCHITECTURES

from command.errors import UserError
from language_models.local.engine import Engine
from language_models.local.engines import make_engine
from language_models.local.loading import pick_device
from language_models.local.segments import NextToken, Segment

ENGINES = ("graphs", "packed")
PROMPTS, WRITTEN = (3, 17, 40, 70), 24
TOLERANCE = 1e-3
ROUNDS = 12
SOFT_CAPPED_SINCE = (5, 22)  # transformers, for Gemma 2


class Texts:
    """What a model writes by itself, and the log-probability of each token."""

    @torch.inference_mode()
    def __init__(self, model):
        chance = random.Random(3)
        self.ids = [[chance.randrange(3, 500) for _ in range(length)] for length in PROMPTS]
        for ids in self.ids:
            for _ in range(WRITTEN):
                logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
                ids.append(int(logits.argmax()))
        self.next: list[list[tuple[int, float]]] = []
        for ids in self.ids:
            logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()
            best = logits.log_softmax(-1).max(-1)
            self.next.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


class Differences:
    """Counts what an engine says that is not what the model says."""

    def __init__(self, texts: Texts):
        self.texts, self.tokens, self.differ, self.worst = texts, 0, 0, 0.0

    def compare(self, slot: int, at: int, found: list[NextToken]) -> None:
        """`found` follows the tokens from `at` on."""
        for expected, token in zip(self.texts.next[slot][at : at + len(found)], found, strict=True):
            self.tokens += 1
            same = token.token == expected[0] and token.top[0][0] == expected[0]
            self.differ += not same
            if same:
                self.worst = max(self.worst, abs(token.top[0][1] - expected[1]))


def in_pieces(engine: Engine, texts: Texts, found: Differences) -> None:
    """All texts from their beginning, several in a pass."""
    chance, at = random.Random(4), [0] * len(texts.ids)
    while any(n < len(ids) for n, ids in zip(at, texts.ids, strict=True)):
        segments = []
        for slot, ids in enumerate(texts.ids):
            new = ids[at[slot] :][: chance.choice((0, 1, 1, 2, 9, 33))]
            if new:
                segments.append(Segment(slot, at[slot], new, len(new), 1))
                at[slot] += len(new)
        if segments:
            for segment, tokens in zip(segments, engine.run(segments), strict=True):
                found.compare(segment.slot, segment.start, tokens)


def ahead(engine: Engine, texts: Texts, found: Differences) -> None:
    """Greedy tokens inside of the engine, behind prompts that are cut back to."""
    segments = [
        Segment(slot, 0, ids[:length], 1, 1, ahead=WRITTEN - 1)
        for slot, (ids, length) in enumerate(zip(texts.ids, PROMPTS, strict=True))
    ]
    for segment, tokens in zip(segments, engine.run(segments), strict=True):
        found.compare(segment.slot, segment.end - 1, tokens)


def again(engine: Engine, texts: Texts, found: Differences) -> None:
    """Parts of the texts at places that were computed before, in slots cut back."""
    chance = random.Random(5)
    for _ in range(ROUNDS):
        segments = []
        for slot in chance.sample(range(len(texts.ids)), chance.randrange(1, 1 + len(texts.ids))):
            start = chance.randrange(len(texts.ids[slot]))
            new = texts.ids[slot][start:][: chance.choice((1, 3, 20))]
            wanted = chance.randrange(1, 1 + len(new))
            segments.append(Segment(slot, start, new, wanted, 1))
        for segment, tokens in zip(segments, engine.run(segments), strict=True):
            found.compare(segment.slot, segment.end - segment.wanted, tokens)


@torch.inference_mode()
def check(architecture: str, kind: str, device: torch.device) -> tuple[bool, str]:
    """Whether all is the same, and a line about it."""
    texts = Texts(ARCHITECTURES[architecture](1).to(device))
    engine = make_engine(ARCHITECTURES[architecture](1).to(device), slots=len(PROMPTS), longest=128, kind=kind)
    found = Differences(texts)
    in_pieces(engine, texts, found)
    if engine.writes_ahead:
        ahead(engine, texts, found)
        in_pieces(engine, texts, found)
    again(engine, texts, found)
    report = engine.report
    well = not found.differ and found.worst <= TOLERANCE and report["kind"] == kind
    how = f"{found.tokens - found.differ} of {found.tokens} tokens, log-probabilities within {found.worst:.1e}"
    if device.type == "cuda" and kind == "graphs":
        well = well and report["captured"] and not report["uncaptured"] and report["kernels"]
        how += f", {report['graphs']} graphs, kernels {report['kernels'] or report['why_no_kernels']}"
        how += f", fused {report['fused_layers'] or report['why_not_fused']}"
    told = "; ".join([*map(str, report["uncaptured"].values()), *report["fallbacks"]])
    return well, how + (f" ({told})" if told else "")


def main(argv: list[str] | None = None) -> int:
    """A line for each architecture and engine; 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    options = parser.parse_args(argv)
    failed = []
    try:
        device = pick_device(options.device)
    except UserError as error:
        print(f"identity_check.py: {error}", file=sys.stderr)
        return 2
    for architecture in options.architectures:
        if architecture == "gemma2" and tuple(map(int, transformers.__version__.split(".")[:2])) < SOFT_CAPPED_SINCE:
            # Not a fault of the engines, which refuse the model: its own attention does not compute what it should.
            print(
                f"left out {architecture}: transformers {transformers.__version__} leaves its soft-capping out",
                flush=True,
            )
            continue
        for kind in ENGINES:
            try:
                well, how = check(architecture, kind, device)
            except Exception as error:  # the other architectures are worth looking at
                well, how = False, f"{type(error).__name__}: {str(error).strip()[:300]}"
            print(f"{'same ' if well else 'OTHER'} {architecture}, {kind}: {how}", flush=True)
            if not well:
                failed.append(f"{architecture}, {kind}")
    print(f"float32 on {device}: " + (f"{len(failed)} differ: {'; '.join(failed)}" if failed else "all the same"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
