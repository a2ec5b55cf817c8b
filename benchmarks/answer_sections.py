"""Sections of gpu_nudging.py that answer prompts: by transformers, by the base model alone in an engine, nudged, by baselines."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from markov_pair import chain_text
from measurements import Measurements, Sections, at_most
from priced_passes import PricedEngine
from synthetic_models import WARM_UP_SEED, Loaded, SyntheticModels

from baselines import average_ensemble, proxy_tuning
from language_models.interface import SamplingParams
from nudging import NudgingSettings, nudge
from utils import count_tokens

WARM_UP_TOKENS = 24


class AnswerSections:
    """Each adds a row to the table: tokens per second of several runs over the same prompts, what was computed, and memory."""

    def __init__(self, models: SyntheticModels, measurements: Measurements, sections: Sections):
        self.models, self.measurements, self.sections = models, measurements, sections
        self.options, self.device = models.options, models.device
        self._texts: dict[str, list[str]] = {}

    def answers(self, at_a_time: int) -> int:
        """How many prompts a run has."""
        options = self.options
        return options.answers or (2 if at_a_time == 1 else 2 * at_a_time)

    def runs(self, answer_all: Callable[[], list[str]]) -> Iterator[tuple[float, list[str]]]:
        """Seconds and answers of runs, until there are enough or the time of a section is over; one run at least."""
        began = time.monotonic()
        for _ in range(self.options.runs):
            self.device.wait()
            started = time.perf_counter()
            texts = answer_all()
            self.device.wait()
            yield time.perf_counter() - started, texts
            if time.monotonic() - began > min(self.options.section_s, self.sections.left):
                return

    # ---------------------------------------------------------------- transformers

    def generate(self, at_a_time: int) -> None:
        """transformers' generate on the base model, eager, with its growing cache."""
        self._generated("generate", at_a_time, WARM_UP_TOKENS)

    def compiled(self, at_a_time: int) -> None:
        """The same with a static cache and a compiled decoding step."""
        with at_most(min(self.options.compile_s, max(1.0, self.sections.left))):
            # The shapes of the warm-up have to be those of what is measured.
            self._generated("compiled", at_a_time, self.options.tokens, cache_implementation="static")

    @torch.no_grad()
    def _generated(self, section: str, batch: int, warm_up_tokens: int, **how: Any) -> None:
        model, tokenizer, options = self.models.plain("base"), self.models.tokenizer, self.options

        def answered(prompts: list[str], tokens: int) -> list[str]:
            inputs = tokenizer(prompts, return_tensors="pt", padding=True)
            inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
            ids = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **how)
            return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        began = time.monotonic()
        answered([prompt for prompt, _ in self.models.prompts(batch, WARM_UP_SEED)], warm_up_tokens)
        self.device.wait()
        warm_up_s = time.monotonic() - began
        number = math.ceil(self.answers(batch) / batch) * batch  # whole batches: a compiled step is of one shape
        prompts = [prompt for prompt, _ in self.models.prompts(number)]

        def answer_all() -> list[str]:
            batches = (prompts[i : i + batch] for i in range(0, number, batch))
            return [text for some in batches for text in answered(some, options.tokens)]

        self._of_transformers(section, batch, answer_all, warm_up_s)

    @torch.no_grad()
    def continuous(self, at_a_time: int) -> None:
        """transformers' continuous batching on the base model, with at most so many answers at a time."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        model, options = self.models.plain("base"), self.options
        prompts = [
            self.models.tokenizer(prompt)["input_ids"] for prompt, _ in self.models.prompts(self.answers(at_a_time))
        ]
        tokens = options.tokens
        how = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=1)
        wanted = {"max_requests_per_batch": at_a_time, "allow_block_sharing": False, "max_memory_percent": 0.5}
        if not self.device.cuda:
            wanted |= {"num_blocks": 64, "max_batch_tokens": 256}
        known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
        config = ContinuousBatchingConfig(**{name: value for name, value in wanted.items() if name in known})
        began = time.monotonic()
        try:
            with model.continuous_batching_context_manager(
                generation_config=how, continuous_batching_config=config, block=True, timeout=10
            ) as manager:

                def answer_all(number: int = len(prompts)) -> list[str]:
                    left, found = set(manager.add_requests(inputs=prompts[:number], max_new_tokens=tokens)), {}
                    while left:
                        result = manager.get_result(timeout=1)
                        if result is None and not manager.is_running():
                            raise RuntimeError("the thread of continuous batching has ended")
                        if result is not None and result.is_finished():
                            if result.error:
                                raise RuntimeError(result.error)
                            left.discard(result.request_id)
                            found[result.request_id] = result.generated_tokens
                    order = sorted(found, key=lambda name: int(name.rpartition("_")[2]))
                    return self.models.tokenizer.batch_decode([found[name] for name in order], skip_special_tokens=True)

                answer_all(min(at_a_time, len(prompts)))
                self._of_transformers("continuous", at_a_time, answer_all, time.monotonic() - began)
        finally:
            self.models.drop()  # its attention is another one now

    def _of_transformers(self, section: str, at_a_time: int, answer_all: Callable, warm_up_s: float) -> None:
        self.device.reset_peak()
        speeds, texts, seconds = [], [], 0.0
        for seconds, texts in self.runs(answer_all):
            speeds.append(sum(map(count_tokens, texts)) / seconds)
        passes = self.options.tokens * len(texts) / at_a_time
        row = {
            "section": section,
            "engine": "transformers",
            "at_a_time": at_a_time,
            "tokens": sum(map(count_tokens, texts)),
            "base_per_token": 1.0,
            "base_samples": float(at_a_time),
            "base_ms": 1000 * seconds / passes,
            "peak_gb": self.device.peak_gb,
            "warm_up_s": warm_up_s,
            "texts": self._as_the_chain(texts),
        }
        self._say(self.measurements.add(row, speeds))

    # ---------------------------------------------------------------- in an engine

    def alone(self, at_a_time: int, kind: str) -> None:
        """The base model alone, greedily, without drafts."""
        loaded = self.models.loaded(kind, at_a_time)

        def answer(prompt: str, _: str, tokens: int) -> str:
            stream = loaded.base.for_sample(prompt).stream(prompt, SamplingParams(tokens))
            return "".join(token.text for token in stream)

        self._answered("alone", loaded, answer, [loaded.base], draft_ahead=False)

    def nudging(self, at_a_time: int, kind: str) -> None:
        """The base model nudged, by streamed requests as run_api.py sends them."""
        loaded = self.models.loaded(kind, at_a_time)

        def answer(base_prompt: str, nudging_prompt: str, tokens: int) -> str:
            views = loaded.base.for_sample(base_prompt), loaded.nudging.for_sample(base_prompt)
            settings = NudgingSettings(top_prob_thres=self.options.top_prob_thres, max_token_total=tokens)
            return nudge(*views, base_prompt, nudging_prompt, settings, request_mode="streamed").text

        self._answered("nudging", loaded, answer, [loaded.base, loaded.nudging])

    def ensemble(self, at_a_time: int, kind: str) -> None:
        """Average of the two models' probabilities."""
        loaded = self.models.loaded(kind, at_a_time)

        def answer(base_prompt: str, nudging_prompt: str, tokens: int) -> str:
            views = [model.for_sample(base_prompt) for model in (loaded.base, loaded.nudging)]
            prompts = base_prompt, nudging_prompt
            return average_ensemble(*views, *prompts, max_token_total=tokens, request_mode="streamed").text

        self._answered("ensemble", loaded, answer, [loaded.base, loaded.nudging])

    def proxy_tuning(self, at_a_time: int, kind: str) -> None:
        """Proxy tuning by a small base model, which has the base model's tokenizer."""
        loaded = self.models.loaded(kind, at_a_time, proxy=True)
        models = [loaded.base, loaded.nudging, loaded.small]

        def answer(base_prompt: str, nudging_prompt: str, tokens: int) -> str:
            views = [model.for_sample(base_prompt) for model in models]
            prompts = base_prompt, nudging_prompt, base_prompt
            return proxy_tuning(*views, *prompts, max_token_total=tokens, request_mode="streamed").text

        self._answered("proxy_tuning", loaded, answer, models)

    def _answered(
        self,
        section: str,
        loaded: Loaded,
        answer: Callable[[str, str, int], str],
        models: list,
        *,
        draft_ahead: bool = True,
    ) -> None:
        threads, options = loaded.at_a_time, self.options
        for model in loaded.models:
            model.draft_ahead = draft_ahead

        def all_of(prompts: list[tuple[str, str]], tokens: int) -> list[str]:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(lambda pair: answer(*pair, tokens), prompts))

        # Graphs are captured, and rates of drafts found.
        all_of(self.models.prompts(threads, WARM_UP_SEED), min(WARM_UP_TOKENS, options.tokens))
        prompts, engines = self.models.prompts(self.answers(threads)), [model.engine for model in models]
        self.device.reset_peak()
        for engine in engines:
            engine.reset_counts()
        speeds, total, seconds, texts, processor = [], 0, 0.0, [], time.process_time()
        for took, texts in self.runs(lambda: all_of(prompts, options.tokens)):
            tokens = sum(map(count_tokens, texts))
            speeds.append(tokens / took)
            total, seconds = total + tokens, seconds + took
        in_passes = sum(engine.seconds for engine in engines)
        row = {
            "section": section,
            "engine": loaded.kind,
            "at_a_time": threads,
            "tokens": sum(map(count_tokens, texts)),
            **_computed("base", engines[:1], total),
            **_computed("other", engines[1:], total),
            "outside": max(0.0, 1 - in_passes / seconds),
            "processor_us_per_token": 1e6 * (time.process_time() - processor) / max(1, total),
            "outside_ms_per_token": 1000 * max(0.0, seconds - in_passes) / max(1, total),
            "speed_in_passes": total / in_passes if in_passes else None,
            "peak_gb": self.device.peak_gb,
            "cache_gb": [engine.cache.bytes / 1e9 for engine in engines],
            "engines": [engine.report for engine in engines],
            "draft_rates": {name: rate.rate for name, rate in loaded.base.draft_rates.items()},
            "texts": self._as_the_chain(texts) if section == "alone" else self._as_before(section, texts),
            "predicted": loaded.kind == PricedEngine.kind,
        }
        self._say(self.measurements.add(row, speeds))

    def of_passes(
        self, section: str, kind: str, at_a_time: int, answer_all: Callable, models: list, refused: list[str]
    ) -> None:
        """A row of a loop whose models (base model first) count their own `passes`, and each of which all answers share."""
        self.device.reset_peak()
        before = [model.passes for model in models]
        speeds, total, texts = [], 0, []
        for seconds, texts in self.runs(answer_all):
            tokens = sum(map(count_tokens, texts))
            speeds.append(tokens / seconds)
            total += tokens
        base, other = (at_a_time * (model.passes - first) / total for model, first in zip(models, before, strict=True))
        row = {
            "section": section,
            "engine": kind,
            "at_a_time": at_a_time,
            "tokens": sum(map(count_tokens, texts)),
            "base_per_token": base,
            "base_samples": float(at_a_time),
            "other_per_token": other,
            "other_samples": float(at_a_time),
            "peak_gb": self.device.peak_gb,
            "texts": self._as_before(section, texts),
            "engine_refused": refused,
        }
        self._say(self.measurements.add(row, speeds))

    def _as_the_chain(self, texts: list[str]) -> str:
        """How many texts of the base model are those that its chain gives."""
        chain, words, tokens = self.models.chains["base"], self.models.words, self.options.tokens
        prompts = self.models.prompts(len(texts))
        right = sum(
            text.split() == chain_text(chain, words, prompt, tokens).split()
            for (prompt, _), text in zip(prompts, texts, strict=True)
        )
        return f"{right}/{len(texts)} right"

    def _as_before(self, section: str, texts: list[str]) -> str:
        """How many texts are those of the same way before, at another number of answers or in another engine."""
        before = self._texts.get(section)
        if before is None or len(before) < len(texts):
            self._texts[section] = texts
        both = list(zip(texts, before or (), strict=False))
        return f"{sum(a == b for a, b in both)}/{len(both)} as first" if both else "first"

    def _say(self, row: dict[str, Any]) -> None:
        shown = {key: row[key] for key in ("outside", "processor_us_per_token", "texts", "warm_up_s") if key in row}
        self.sections.say(f"{row['section']}@{row['at_a_time']}/{row['engine']}: {row['speed']:.1f} tokens/s {shown}")


def _computed(name: str, engines: list, tokens: int) -> dict[str, float]:
    """What engines have computed together, of that many tokens of answers."""
    passes, samples = sum(engine.passes for engine in engines), sum(engine.sample_passes for engine in engines)
    if not passes:
        return {}
    return {
        f"{name}_per_token": samples / max(1, tokens),
        f"{name}_samples": samples / passes,
        f"{name}_ms": 1000 * sum(engine.seconds for engine in engines) / passes,
        f"{name}_passes": passes,
    }
