#!/usr/bin/env python
"""Half precision: how far transformers and both engines are from float32, and whether where they differ is more than rounding.

    python benchmarks/half_precision.py FOLDER [FOLDER ...] [--dtypes bfloat16 float16] [--device cuda] [--out FILE]
    python benchmarks/half_precision.py random          a small Llama of random weights, whose choices are close

A model writes texts greedily in float32, by transformers. Over these texts, each way in half precision says what it would write
at every place: transformers in one pass ("whole") and token by token with its cache ("steps"), and the engines in passes as
nudging makes them: several texts in a pass, prompts first, then pieces of one to sixteen tokens. On a GPU "graphs" is captured.
For each way: mean and largest error of logits against float32; at how many places the most probable token is another one than in
float32; and the margin there, float32's most probable token over the second. Then at how many places each two ways differ.
It is rounding if an engine's errors are no larger than transformers' own and it differs from float32 no more often than that
(within chance); the exit code is 1 otherwise. Needs torch and transformers alone, and triton on a GPU.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, cycle, islice
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from markov_pair import Sizes, llama
from torch import Tensor
from transformers import DynamicCache

from command.errors import UserError
from language_models.local.engines import make_engine
from language_models.local.loading import cache_argument, load_causal_lm, load_tokenizer, pick_device
from language_models.local.segments import Segment

RANDOM = "random"
RANDOM_SIZES = Sizes(512, 4, 8, 2, 1024)
SLOTS, LONGEST = 4, 512
PIECES = (1, 1, 4, 1, 16, 2, 8)
WORSE = 1.25  # times transformers' mean error
REFERENCE = "transformers, steps"
TEXTS = (
    "Once upon a time, there was a little girl named Lily who had a red ball.",
    "Tom and his dog went to the park. It was a sunny day, and",
    "Question: Natalia sold clips to 48 of her friends in April, and then half as many in May. How many in all?\nAnswer:",
    "The capital of France is",
    "One day, a big bear came out of the forest and said,",
    "To bake bread without an oven, take a pan with a lid. First",
    "Sara was sad because her kite was stuck in a tall tree.",
    "The three most important things about a good answer are",
)


@dataclass(frozen=True)
class Text:
    """Tokens, of which those from `begin` on were written; what follows each token from `begin` - 1 on is compared."""

    ids: list[int]
    begin: int

    @property
    def places(self) -> slice:
        """Which rows of a text's logits are compared: what the last token gives was not written."""
        return slice(self.begin - 1, len(self.ids) - 1)


class Subject:
    """A model by its folder or hub id, or the one of random weights, in a number format."""

    def __init__(self, name: str, device: torch.device):
        self.name, self.device = name, device

    def load(self, dtype: torch.dtype):
        """A new one."""
        if self.name == RANDOM:
            model = llama(RANDOM_SIZES, torch.device("cpu"), torch.float32, initializer_range=0.06)
            return model.to(self.device, dtype)
        return load_causal_lm(self.name, device=self.device, dtype=dtype)

    def prompts(self) -> list[list[int]]:
        """Token ids."""
        if self.name == RANDOM:
            return [[1000 + (7 * i + 131 * n) % 30000 for i in range(20 + 9 * n)] for n in range(len(TEXTS))]
        tokenizer = load_tokenizer(self.name)
        return [tokenizer(text)["input_ids"] for text in TEXTS]

    @torch.inference_mode()
    def texts(self, tokens: int) -> list[Text]:
        """The model's own, written greedily in float32."""
        model = self.load(torch.float32)
        found = []
        for ids in self.prompts():
            how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
            written = model.generate(torch.tensor([ids], device=self.device), **how)[0].tolist()
            found.append(Text(written, len(ids)))
        return found


def whole(model, texts: list[Text]) -> list[Tensor]:
    """Logits [places, vocabulary] of each text by one pass of transformers."""
    return [
        model(torch.tensor([text.ids], device=model.device), use_cache=False).logits[0, text.places] for text in texts
    ]


def by_steps(model, texts: list[Text]) -> list[Tensor]:
    """The same by transformers' cache, as generate runs."""
    found = []
    for text in texts:
        options = {cache_argument(model): DynamicCache(config=model.config)}
        rows = []
        for begin, end in ((0, text.begin), *((n, n + 1) for n in range(text.begin, len(text.ids) - 1))):
            ids = torch.tensor([text.ids[begin:end]], device=model.device)
            rows.append(model(ids, use_cache=True, **options).logits[0, -1])
        found.append(torch.stack(rows))
    return found


def by_engine(kind: str) -> Callable[[object, list[Text]], list[Tensor]]:
    """The same by an engine's passes over some texts at a time."""

    def logits(model, texts: list[Text]) -> list[Tensor]:
        engine = make_engine(model, slots=SLOTS, longest=LONGEST, kind=kind)
        # outputs() replays graphs; logits() is the same without.
        run = engine.outputs if model.device.type == "cuda" else engine.logits
        found: list[Tensor] = []
        for first in range(0, len(texts), SLOTS):
            some = texts[first : first + SLOTS]
            rows: list[list[Tensor]] = [[] for _ in some]
            for segments in _passes(some):
                for segment, out in zip(segments, run(segments), strict=True):
                    rows[segment.slot].append(out.clone())
            found += [torch.cat(row) for row in rows]
        return found

    return logits


def _passes(texts: list[Text]) -> Iterator[list[Segment]]:
    """Prompts, and then pieces of several lengths."""
    yield [Segment(slot, 0, text.ids[: text.begin], 1) for slot, text in enumerate(texts)]
    at, sizes = [text.begin for text in texts], [islice(cycle(PIECES), n, None) for n in range(len(texts))]
    while True:
        segments = []
        for slot, text in enumerate(texts):
            new = text.ids[at[slot] : len(text.ids) - 1][: next(sizes[slot])]
            if new:
                segments.append(Segment(slot, at[slot], new, len(new)))
                at[slot] += len(new)
        if not segments:
            return
        yield segments


WAYS: dict[str, Callable[[object, list[Text]], list[Tensor]]] = {
    "transformers, whole": whole,
    REFERENCE: by_steps,
    "packed": by_engine("packed"),
    "graphs": by_engine("graphs"),
}


@torch.inference_mode()
def logits_of(subject: Subject, dtype: torch.dtype, texts: list[Text], way: str) -> Tensor:
    """All compared places of all texts, [places, vocabulary], float32 on the CPU."""
    model = subject.load(dtype)
    found = torch.cat([rows.float().cpu() for rows in WAYS[way](model, texts)])
    del model
    gc.collect()
    return found


def compared(exact: Tensor, found: dict[str, Tensor]) -> dict:
    """Errors and differing choices of each way, as JSON has them."""
    two = exact.topk(2).values
    margin, choice = two[:, 0] - two[:, 1], exact.argmax(-1)
    choices = {way: logits.argmax(-1) for way, logits in found.items()}
    ways = {}
    for way, logits in found.items():
        error, other = (logits - exact).abs(), choices[way] != choice
        margins = margin[other]
        ways[way] = {
            "mean_error": error.mean().item(),
            "largest_error": error.max().item(),
            "differ": int(other.sum()),
            "median_margin_there": margins.median().item() if len(margins) else None,
            "largest_margin_there": margins.max().item() if len(margins) else None,
        }
    pairs = {f"{a} / {b}": int((choices[a] != choices[b]).sum()) for a, b in combinations(choices, 2)}
    return {"places": len(exact), "median_margin": margin.median().item(), "ways": ways, "pairs": pairs}


def worse(report: dict) -> list[str]:
    """What is more than rounding, in words."""
    ours, found = report["ways"], []
    own = ours[REFERENCE]
    for way, of in ours.items():
        if way.startswith("transformers"):
            continue
        if not of["mean_error"] <= WORSE * own["mean_error"]:
            found.append(f"{way}: mean error {of['mean_error']:.2g}, transformers {own['mean_error']:.2g}")
        if of["differ"] > own["differ"] + 3 * (own["differ"] + 1) ** 0.5:
            found.append(f"{way}: another token at {of['differ']} places, transformers at {own['differ']}")
    return found


def table(name: str, dtype: str, report: dict) -> str:
    """A report in Markdown."""
    places = report["places"]
    lines = [
        f"{name}, {dtype}: {places} places, median margin {report['median_margin']:.3f}",
        "",
        "| way | mean error | largest error | other tokens | median margin there | largest |",
        "|---|---|---|---|---|---|",
    ]
    for way, of in report["ways"].items():
        margins = [
            "" if of[key] is None else f"{of[key]:.4f}" for key in ("median_margin_there", "largest_margin_there")
        ]
        share = f"{of['differ']} ({of['differ'] / places:.1%})"
        lines.append(
            f"| {way} | {of['mean_error']:.5f} | {of['largest_error']:.4f} | {share} | {' | '.join(margins)} |"
        )
    pairs = ", ".join(f"{pair} {number}" for pair, number in report["pairs"].items())
    return "\n".join([*lines, "", f"other tokens between each two: {pairs}"])


def main(argv: list[str] | None = None) -> int:
    """Print the tables; 1 if something is more than rounding, 2 if a model cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"a folder in the transformers format, or {RANDOM}")
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float16"), default=["bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens", type=int, default=100, help="of each text")
    parser.add_argument("--out", type=Path, help="file for the reports, in JSON")
    options = parser.parse_args(argv)
    if not 1 <= options.tokens <= LONGEST // 2:
        parser.error(f"--tokens is 1 to {LONGEST // 2}")
    reports, faults = {}, []
    try:
        device = pick_device(options.device)
        for name in options.models:
            subject = Subject(name, device)
            texts = subject.texts(options.tokens)
            exact = logits_of(subject, torch.float32, texts, "transformers, whole")
            for dtype in options.dtypes:
                found = {way: logits_of(subject, getattr(torch, dtype), texts, way) for way in WAYS}
                report = compared(exact, found)
                reports[f"{name}, {dtype}"] = report
                print(table(name, dtype, report))
                for line in (new := worse(report)):
                    print(f"more than rounding: {line}")
                if not new:
                    print(f"{device}: rounding; the engines are as near to float32 as transformers is")
                print(flush=True)
                faults += new
    except UserError as error:
        print(f"half_precision.py: {error}", file=sys.stderr)
        return 2
    if options.out:
        options.out.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
