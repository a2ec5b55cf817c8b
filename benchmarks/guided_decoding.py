#!/usr/bin/env python
"""Speed of reward-guided decoding: against plain greedy search, loops without a cache, and k copies of the cache.

    python benchmarks/guided_decoding.py                    8 layers of 512, prompt 60, 128 new tokens, k = 10; minutes on a CPU
    python benchmarks/guided_decoding.py --llm DIR --rm DIR --classifier DIR --device cuda

Without names the models have random weights. All variants of one method have to give the same tokens in float32.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tabulate import tabulate
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pad.cached_model import CachedModel
from pad.config import DecodingConfig
from pad.decoding import Reward, decode
from pad.implicit_reward import CandidateLogits, ImplicitReward
from pad.prompts import Prompt
from pad.scalar_reward import CopiesReward, TreeReward
from torch_loading import load_causal_lm, load_model, pick_device, pick_dtype

BATCH = 8
GOALS = """\
goals: LM passes = new tokens; RM passes PAD = new tokens, ARGS = new tokens + 1; PAD >= 0.45 of plain greedy search at equal
model sizes (B = 1, and by row at B = 8, aggregate >= 4 times B = 1), >= 5 times the uncached loop; ARGS by the one-row tree step
>= 3 times k cache copies, >= 0.15 of plain greedy search on a CPU"""


class Passes:
    """Counts the forward passes of a model's backbone, and the positions that they read."""

    def __init__(self, model: torch.nn.Module):
        self.count = self.positions = 0
        model.base_model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs, output) -> None:
        ids = kwargs.get("input_ids")
        ids = args[0] if ids is None else ids
        self.count, self.positions = self.count + 1, self.positions + ids.numel()

    def read(self) -> tuple[int, int]:
        """Passes and positions since the last time."""
        found, self.count, self.positions = (self.count, self.positions), 0, 0
        return found


def models(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list:
    """Base LM, causal reward model and classifier: of random weights and one size, unless they are named."""
    loading = {"device": device, "dtype": dtype}
    if options.llm:
        found = [load_causal_lm(name, **loading) for name in (options.llm, options.rm or options.llm)]
        return [*found, load_model("AutoModelForSequenceClassification", options.classifier or options.llm, **loading)]
    sizes = {"hidden_size": options.hidden, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 4 * options.hidden}
    # The usual spread of weights gives logits so flat that rounding decides between tokens.
    config = LlamaConfig(**sizes, **heads, initializer_range=0.1, num_labels=1, eos_token_id=None, pad_token_id=None)
    found = []
    for seed, kind in enumerate((LlamaForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification)):
        torch.manual_seed(seed)
        found.append(kind(config).to(device, dtype).eval().requires_grad_(False))
    return found


@torch.inference_mode()
def uncached_pad(lm, rm, prompt: Prompt, config: DecodingConfig, new: int) -> list[int]:
    """The published loop: both models read the whole text again for every token."""
    ids = torch.tensor([prompt.ids], device=lm.device)
    for _ in range(new):
        logits, candidates = lm(ids).logits[:, -1].topk(config.topk)
        theirs = rm(ids.to(rm.device)).logits[:, -1].to(lm.device).gather(1, candidates)
        reward = torch.log_softmax(theirs.float(), -1) - torch.log_softmax(logits.float(), -1)
        best = (logits.float() + config.rm_weight * reward).argmax(-1, keepdim=True)
        ids = torch.cat([ids, candidates.gather(1, best)], 1)
    return ids[0, len(prompt.ids) :].tolist()


@torch.inference_mode()
def uncached_args(lm, classifier, prompt: Prompt, config: DecodingConfig, new: int) -> list[int]:
    """k whole texts through the classifier for every token."""
    ids = torch.tensor([prompt.ids], device=lm.device)
    for _ in range(new):
        logits, candidates = lm(ids).logits[:, -1].topk(config.topk)
        texts = torch.cat([ids.expand(config.topk, -1), candidates.T], 1)
        reward = classifier.score(classifier.base_model(texts)[0][:, -1])[:, 0].float()
        best = (logits[0].float() + config.rm_weight * reward).argmax()
        ids = torch.cat([ids, candidates[:, best, None]], 1)
    return ids[0, len(prompt.ids) :].tolist()


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit code: 1 if variants of one method disagree in float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("llm", "rm", "classifier"):
        parser.add_argument(f"--{name}", metavar="MODEL", help="a folder or hub id; all of one vocabulary")
    for name, value in (
        ("layers", 8),
        ("hidden", 512),
        ("vocabulary", 32000),
        ("prompt", 60),
        ("new", 128),
        ("topk", 10),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU (default: torch's own)")
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many runs counts")
    parser.add_argument("--uncached_args", action="store_true", help="also ARGS without a cache, which takes long")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    lm, rm, classifier = models(options, device, dtype)
    vocabulary = lm.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(i, "", "", tuple(torch.randint(10, vocabulary, (options.prompt,), generator=generator).tolist()))
        for i in range(BATCH)
    ]
    counters = [Passes(model) for model in (lm, rm, classifier)]
    new = options.new
    pad, args = DecodingConfig(1.0, options.topk), DecodingConfig(1.5, options.topk)
    implicit = ImplicitReward(CandidateLogits(rm))

    def plain(rows: int) -> list[list[int]]:
        ids = torch.tensor([prompt.ids for prompt in prompts[:rows]], device=device)
        how = {
            "do_sample": False,
            "max_new_tokens": new,
            "min_new_tokens": new,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        out = lm.generate(ids, attention_mask=torch.ones_like(ids), **how)
        return out[:, options.prompt :].tolist()

    def guided(reward: Reward, config: DecodingConfig, rows: int) -> list[list[int]]:
        answers = decode(CachedModel(lm), reward, prompts[:rows], config, max_new=[new] * rows)
        return [answer.tokens for answer in answers]

    tree, copies = TreeReward(classifier), CopiesReward(classifier)
    runs: list[tuple[str, str, int, Callable]] = [
        ("plain", "plain generate, greedy", 1, lambda: plain(1)),
        ("pad", "PAD, cached", 1, lambda: guided(implicit, pad, 1)),
        ("pad", "PAD, uncached (as published)", 1, lambda: [uncached_pad(lm, rm, prompts[0], pad, new)]),
        ("args", "ARGS, one-row tree step", 1, lambda: guided(tree, args, 1)),
        ("args", "ARGS, k cache copies (as published)", 1, lambda: guided(copies, args, 1)),
        ("plain 8", "plain generate, greedy", BATCH, lambda: plain(BATCH)),
        ("pad 8", "PAD, cached", BATCH, lambda: guided(implicit, pad, BATCH)),
        ("args 8", "ARGS, one-row tree step", BATCH, lambda: guided(tree, args, BATCH)),
    ]
    if options.uncached_args:
        runs.insert(5, ("args", "ARGS, uncached", 1, lambda: [uncached_args(lm, classifier, prompts[0], args, new)]))
    guided(implicit, DecodingConfig(1.0, 2), 1)  # warms up what is made on first use
    rows, tokens, differ = [], {}, []
    for method, title, batch, run in runs:
        seconds = []
        for _ in range(options.repeats):
            for counter in counters:
                counter.read()
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            found = run()
            seconds.append(time.perf_counter() - started)
        if tokens.setdefault(method, found) != found:
            differ.append(title)
        (lm_passes, _), *rewards = [counter.read() for counter in counters]
        rm_passes, positions = max(rewards)
        rows.append([title, batch, lm_passes, rm_passes, positions, batch * new / min(seconds)])
    speed = {(title, batch): row[-1] for row in rows for title, batch in [(row[0], row[1])]}
    for row in rows:
        row[-1:] = [f"{row[-1]:.1f}", f"{row[-1] / speed['plain generate, greedy', row[1]]:.2f}"]
    parameters = f"{sum(p.numel() for p in lm.parameters()) / 1e6:.0f} M"
    about = (
        f"{platform.machine()}, {device}, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} CPU threads"
    )
    about += f"; torch {torch.__version__}, transformers {transformers.__version__}; models of {parameters} parameters"
    print(f"{about}, prompt {options.prompt}, {new} new tokens, k = {options.topk}; best of {options.repeats}\n")
    heads = ["", "batch", "LM passes", "RM passes", "RM positions", "tokens/s", "of plain"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))
    print()
    ratios = [
        ("PAD, cached against uncached", speed["PAD, cached", 1] / speed["PAD, uncached (as published)", 1]),
        (
            "ARGS, tree step against k copies",
            speed["ARGS, one-row tree step", 1] / speed["ARGS, k cache copies (as published)", 1],
        ),
        ("PAD, batch 8 against batch 1", speed["PAD, cached", BATCH] / speed["PAD, cached", 1]),
    ]
    print("\n".join(f"{name}: {ratio:.1f} times" for name, ratio in ratios))
    print(GOALS)
    if differ:
        print(f"other tokens than the first variant of the method: {', '.join(differ)}")
    return 1 if differ and dtype == torch.float32 else 0


if __name__ == "__main__":
    sys.exit(main())
