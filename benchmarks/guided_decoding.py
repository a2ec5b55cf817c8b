#!/usr/bin/env python
"""Speed of reward-guided decoding: against plain greedy search, loops without a cache, and k copies of the cache.

    python benchmarks/guided_decoding.py --threads 1        8 layers of 512, prompt 60, 128 new tokens, k = 10; minutes on a CPU
    python benchmarks/guided_decoding.py --llm DIR --rm DIR --classifier DIR --device cuda --engine graphs

Plain greedy search is transformers' generate on the model as it is loaded; all else runs on blocked weights where the device is a
CPU. Without names the models have random weights. With --engine there are rows of PAD and ARGS in that engine too, whose passes
are of all sequences together. All variants of one method have to give the same tokens in float32.
"""

import argparse
import copy
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
from language_models.local.blocked_weights import block_weights
from language_models.local.loading import load_causal_lm, load_model, pick_device, pick_dtype
from pad.cached_model import CachedModel
from pad.config import DecodingConfig
from pad.decoding import Reward, decode
from pad.implicit_reward import CandidateLogits, ImplicitReward
from pad.prompts import Prompt
from pad.scalar_reward import CopiesReward, TreeReward
from pad.sequences import SequenceMaker, Sequences

BATCH = 8
PLAIN, PAD, PAD_UNCACHED = "plain generate, greedy", "PAD, cached", "PAD, uncached (as published)"
TREE, COPIES, ROWS = "ARGS, one-row tree step", "ARGS, k cache copies", "ARGS, k rows reordered (as published)"
GOALS = """\
goals: LM passes = new tokens; RM passes PAD = new tokens, ARGS = new tokens + 1; PAD >= 0.45 of plain greedy search at equal
model sizes (B = 1, and by row at B = 8, aggregate >= 4 times B = 1), >= 5 times the uncached loop; ARGS by the one-row tree step
>= 3 times k cache copies, >= 0.15 of plain greedy search on a CPU"""


class Passes:
    """Counts the forward passes of a model's backbone, and the positions that they read."""

    def __init__(self, model: torch.nn.Module | None = None):
        self.count = self.positions = 0
        self._states: Sequences | None = None
        if model is not None:
            self.add(model)

    def add(self, model: torch.nn.Module) -> None:
        """Count those of another model too."""
        model.base_model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs, output) -> None:
        ids = kwargs.get("input_ids")
        ids = args[0] if ids is None else ids
        self.count, self.positions = self.count + 1, self.positions + ids.numel()

    def follow(self, states: Sequences) -> None:
        """Count what an engine computes, which does not run the model's hooks when it replays graphs."""
        self._states = states
        self._before = states.passes, states.tokens

    def read(self) -> tuple[int, int]:
        """Passes and positions since the last time."""
        if self._states is not None:
            now = self._states.passes, self._states.tokens
            self.count, self.positions = (a - b for a, b in zip(now, self._before, strict=True))
            self._before = now
        found, self.count, self.positions = (self.count, self.positions), 0, 0
        return found


def models(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list:
    """Base LM, causal reward model and classifier: of random weights and one size, unless they are named."""
    loading = {"device": device, "dtype": dtype}
    if options.llm:
        found = [load_causal_lm(name, **loading) for name in (options.llm, options.rm or options.llm)]
        if options.classifier is None:  # the speed of a head does not depend on its weights
            loading |= {"may_lack": r"^score\.", "part": True}
        return [*found, load_model("AutoModelForSequenceClassification", options.classifier or options.llm, **loading)]
    sizes = {"hidden_size": options.hidden, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 4 * options.hidden}
    # The usual spread of weights gives logits so flat that rounding decides between tokens.
    config = LlamaConfig(**sizes, **heads, initializer_range=0.1, num_labels=1, eos_token_id=None, pad_token_id=None)
    found = []
    for seed, kind in enumerate((LlamaForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification)):
        torch.manual_seed(seed)
        found.append(kind(copy.deepcopy(config)).to(device, dtype).eval().requires_grad_(False))
    return found


class PublishedReward(TreeReward):
    """ARGS as published: k rows of the classifier's cache all along, and after every token the chosen row over all others."""

    def start(self, prompts) -> None:
        self.prompts, self.k = prompts, 0

    def rewards(self, candidates, logits):
        if not self.k:
            self.k = candidates.shape[1]
            self.states.prefill([prompt.ids for prompt in self.prompts for _ in range(self.k)])
        values = self._score(self.states.step(candidates.to(self.device).reshape(-1)))[:, 0]
        return values.view(candidates.shape).float().to(logits.device)

    def advance(self, tokens, ranks) -> None:
        first = torch.arange(len(ranks), device=self.device) * self.k
        self.states.select((first + ranks.to(self.device)).repeat_interleave(self.k))


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


def in_engine(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[Sequences, Reward, Reward]:
    """Base LM, PAD's reward and ARGS' in an engine, of models of their own: an engine changes them."""
    lm, rm, classifier = models(options, device, dtype)
    longest = max(options.prompt + options.new, options.long_prompt + options.long_new)
    maker = SequenceMaker(options.engine, BATCH, longest, lambda line: print(line, file=sys.stderr))
    policy = CandidateLogits(rm)
    policy.use(lambda network: maker.make(network, "reward model"))
    tree = TreeReward(classifier, states=maker.make(classifier.base_model, "classifier", trees=True))
    return maker.make(lm, "base LM"), ImplicitReward(policy), tree


def timed(device: torch.device, run: Callable, new: int) -> tuple[float, list[list[int]]]:
    """Seconds that a run of that many new tokens takes, and its tokens."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    found = run(new)
    wait()
    return time.perf_counter() - started, found


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
    parser.add_argument("--engine", choices=("transformers", "packed", "graphs"), default="transformers")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU (default: torch's own)")
    parser.add_argument("--repeats", type=int, default=2, help="the best of that many runs counts")
    parser.add_argument("--uncached_args", action="store_true", help="also ARGS without a cache, which takes long")
    parser.add_argument("--long_prompt", type=int, default=1000, help="of a second comparison of ARGS (0: none)")
    parser.add_argument("--long_new", type=int, default=24, help="new tokens there")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    lm, rm, classifier = models(options, device, dtype)
    heads = {lm: None, rm: rm.get_output_embeddings(), classifier: None}
    changed = [block_weights(model, keep=head) for model, head in heads.items()]  # as collect_model_outs.py does
    plain_lm = models(options, device, dtype)[0] if any(changed) else lm
    vocabulary = lm.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)

    def prompt(index: int, length: int) -> Prompt:
        return Prompt(index, "", "", tuple(torch.randint(10, vocabulary, (length,), generator=generator).tolist()))

    prompts, long = [prompt(i, options.prompt) for i in range(BATCH)], [prompt(0, options.long_prompt or 1)]
    counters = [Passes(model) for model in (lm, rm, classifier)]
    engine_counters: list[Passes] = []
    if plain_lm is not lm:
        counters[0].add(plain_lm)
    new, long_new = options.new, options.long_new
    pad, args = DecodingConfig(1.0, options.topk), DecodingConfig(1.5, options.topk)
    implicit, tree = ImplicitReward(CandidateLogits(rm)), TreeReward(classifier)
    copies, published = CopiesReward(classifier), PublishedReward(classifier)

    if options.engine != "transformers":
        engine_lm, engine_pad, engine_tree = in_engine(options, device, dtype)
        for states in (engine_lm, engine_pad.policy.states, engine_tree.states):
            engine_counters.append(Passes())
            engine_counters[-1].follow(states)

    def plain(prompts: list[Prompt], new: int) -> list[list[int]]:
        ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
        how = {
            "do_sample": False,
            "max_new_tokens": new,
            "min_new_tokens": new,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        return plain_lm.generate(ids, attention_mask=torch.ones_like(ids), **how)[:, ids.shape[1] :].tolist()

    def guided(reward: Reward, config: DecodingConfig, prompts: list[Prompt], new: int) -> list[list[int]]:
        answers = decode(CachedModel(lm), reward, prompts, config, max_new=[new] * len(prompts))
        return [answer.tokens for answer in answers]

    def plain_run(prompts, new):
        return (PLAIN, prompts, new, lambda n: plain(prompts, n))

    def pad_run(prompts, new):
        return (PAD, prompts, new, lambda n: guided(implicit, pad, prompts, n))

    def engine_runs(prompts, new):
        if options.engine == "transformers":
            return []
        runs = (("PAD", engine_pad, pad), ("ARGS", engine_tree, args))
        return [
            (
                f"{name}, engine {options.engine}",
                prompts,
                new,
                lambda n, reward=reward, config=config: [
                    answer.tokens for answer in decode(engine_lm, reward, prompts, config, max_new=[n] * len(prompts))
                ],
            )
            for name, reward, config in runs
        ]

    def args_run(title, reward, prompts, new):
        return (title, prompts, new, lambda n: guided(reward, args, prompts, n))

    one = prompts[:1]
    runs: list[tuple[str, list[Prompt], int, Callable]] = [
        plain_run(one, new),
        pad_run(one, new),
        (PAD_UNCACHED, one, new, lambda n: [uncached_pad(lm, rm, one[0], pad, n)]),
        args_run(TREE, tree, one, new),
        args_run(COPIES, copies, one, new),
        args_run(ROWS, published, one, new),
        plain_run(prompts, new),
        pad_run(prompts, new),
        args_run(TREE, tree, prompts, new),
        *engine_runs(one, new),
        *engine_runs(prompts, new),
    ]
    if options.uncached_args:
        runs.append(("ARGS, uncached", one, new, lambda n: [uncached_args(lm, classifier, one[0], args, n)]))
    if options.long_prompt:
        runs += [plain_run(long, long_new), args_run(TREE, tree, long, long_new)]
        runs += [args_run(COPIES, copies, long, long_new), args_run(ROWS, published, long, long_new)]
    guided(implicit, DecodingConfig(1.0, 2), one, 4)  # warms up what is made on first use
    rows, speed, tokens, differ = [], {}, {}, []
    for title, asked, count, run in runs:
        # Of a long prompt the steps behind the first token are of interest, which the reading of the prompt would hide.
        without = min(timed(device, run, 1)[0] for _ in range(options.repeats)) if asked is long else 0.0
        seconds = []
        for _ in range(options.repeats):
            for counter in counters + engine_counters:
                counter.read()
            took, found = timed(device, run, count)
            seconds.append(took - without)
        case = (len(asked), len(asked[0].ids))
        if tokens.setdefault((title.split(",")[0], case), found) != found:
            differ.append(title)
        speed[title, case] = len(asked) * (count - (asked is long)) / min(seconds)
        (lm_passes, _), *rewards = [
            counter.read() for counter in (engine_counters if ", engine" in title else counters)
        ]
        rm_passes, positions = max(rewards)
        share = speed[title, case] / speed[PLAIN, case]
        rows.append([title, *case, count, lm_passes, rm_passes, positions, f"{speed[title, case]:.1f}", f"{share:.2f}"])
        print(f"{title}, batch {case[0]}, prompt {case[1]}: {speed[title, case]:.1f} tokens/s", file=sys.stderr)
    parameters = f"{sum(p.numel() for p in plain_lm.parameters()) / 1e6:.0f} M"
    about = (
        f"{platform.machine()}, {device}, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} CPU threads"
    )
    about += f"; torch {torch.__version__}, transformers {transformers.__version__}; models of {parameters} parameters"
    print(f"{about}, k = {options.topk}; best of {options.repeats}")
    print(f"tokens/s are of whole answers, with prompt {options.long_prompt} of the steps behind the first token\n")
    heads = ["", "batch", "prompt", "new", "LM passes", "RM passes", "RM positions", "tokens/s", "of plain"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True) + "\n")
    first, eight, far = (1, options.prompt), (BATCH, options.prompt), (1, options.long_prompt)
    ratios = [("PAD, cached against uncached", speed[PAD, first] / speed[PAD_UNCACHED, first])]
    ratios += [("PAD, batch 8 against batch 1", speed[PAD, eight] / speed[PAD, first])]
    for case in (first, far) if options.long_prompt else (first,):
        ratios += [
            (f"{TREE} against {other}, prompt {case[1]}", speed[TREE, case] / speed[other, case])
            for other in (COPIES, ROWS)
        ]
    print("\n".join(f"{name}: {ratio:.1f} times" for name, ratio in ratios))
    print(GOALS)
    if differ:
        print(f"other tokens than the first variant of the method: {', '.join(differ)}")
    return 1 if differ and dtype == torch.float32 else 0


if __name__ == "__main__":
    sys.exit(main())
