"""Sections of gpu_nudging.py that look at the device: the floor by its bandwidth, what passes cost, what the GPU does in one."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measurements import Sections
from synthetic_models import SyntheticModels

from command.files import write_atomically
from language_models.local.engine import Engine
from language_models.local.segments import Segment

NEW_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024)
CONTEXT = 100
AHEAD = 15
KERNELS_SHOWN = 10


class DeviceSections:
    """Each returns what goes into the file."""

    def __init__(self, models: SyntheticModels, sections: Sections, folder: Path):
        self.models, self.sections, self.device = models, sections, models.device
        self.prices_path = folder / "prices.json"

    @torch.inference_mode()
    def floor(self) -> dict[str, Any]:
        """Milliseconds that it takes to read the weights once, by the bandwidth of a copy and of a product with one vector.

        A token of the base model alone takes no less; a copy's bytes are those read and those written.
        """
        device, dtype = self.device.device, self.models.dtype
        size = torch.finfo(dtype).bits // 8
        source = torch.empty((2 << 30 if self.device.cuda else 1 << 25) // size, dtype=dtype, device=device).normal_()
        nbytes = source.numel() * size
        copied = 2 * nbytes / self._least(torch.empty_like(source).copy_, source)
        matrix = source.view(-1, 8192)
        vector = torch.randn(1, matrix.shape[1], device=device).to(dtype)
        read = nbytes / self._least(torch.nn.functional.linear, vector, matrix)
        del source, matrix

        def of(role: str) -> dict[str, float]:
            model = self.models.plain(role)
            # Of the embedding a pass reads a row for each token.
            parameters = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
            weights = parameters * size
            return {
                "weights_read_gb": round(weights / 1e9, 3),
                "ms_by_copy": round(1000 * weights / copied, 3),
                "ms_by_product": round(1000 * weights / read, 3),
                "tokens_per_s_by_copy": round(copied / weights, 1),
            }

        return {"copy_gb_per_s": round(copied / 1e9), "product_gb_per_s": round(read / 1e9), **self.models.by_role(of)}

    def _least(self, work: Callable, *tensors: torch.Tensor) -> float:
        """Seconds of the fastest of some calls."""
        return min(self.device.milliseconds(lambda: work(*tensors), 5)) / 1000

    def passes(self, kind: str, at_a_time: int) -> dict[str, Any]:
        """Milliseconds of passes behind a context, by their new tokens, and of one greedy token more, by the samples that share it.

        prices.json has them as --prices reads them.
        """
        loaded = self.models.loaded(kind, at_a_time)
        found: dict[str, Any] = {}
        for role, model in (("base", loaded.base), ("nudging", loaded.nudging)):
            with _uncounted(model.engine):
                # On the thread of the passes: see Worker.call.
                found[role] = model.slots.worker.call(lambda engine=model.engine: self._costs(engine))
        if all(costs["steps"] for costs in found.values()):
            shapes = {getattr(self.models.options, role): costs for role, costs in found.items()}
            write_atomically(self.prices_path, json.dumps(shapes, indent=1) + "\n")
        return found

    def _costs(self, engine: Engine) -> dict[str, dict[int, float]]:
        slots = engine.cache.slots
        for slot in range(slots):
            engine.run([Segment(slot, 0, self.models.ids(CONTEXT, slot), 1, 1)])
        passes, steps = {}, {}
        for new in NEW_TOKENS[: None if self.models.options.scale == "real" else 3]:
            each = max(1, new // slots)  # as evenly as it goes
            segments = [
                Segment(slot, CONTEXT, self.models.ids(each, slot), 1, 1) for slot in range(min(slots, new // each))
            ]
            passes[new] = self._median(engine, segments)
        if engine.writes_ahead:
            for samples in (n for n in (1, 8, 32) if n <= slots):
                one = [Segment(slot, CONTEXT, self.models.ids(1, slot), 1, 1) for slot in range(samples)]
                more = [Segment(slot, CONTEXT, self.models.ids(1, slot), 1, 1, ahead=AHEAD) for slot in range(samples)]
                steps[samples] = max(0.001, (self._median(engine, more) - self._median(engine, one)) / AHEAD)
        return {"passes": passes, "steps": steps}

    def _median(self, engine: Engine, segments: list[Segment]) -> float:
        return round(median(self.device.milliseconds(lambda: engine.run(segments), 5)), 3)

    def profile(self, kind: str, at_a_time: int) -> dict[str, Any]:
        """What one pass of each model starts on the device, and how long that is busy; of one sample and of several."""
        loaded = self.models.loaded(kind, at_a_time)
        found: dict[str, Any] = {}
        for model in (loaded.base, loaded.nudging):
            for samples, tokens in ((1, 1), (min(8, model.engine.cache.slots), 1), (1, 8)):
                segments = [Segment(slot, 0, self.models.ids(tokens, slot), tokens, 1) for slot in range(samples)]
                with _uncounted(model.engine):
                    seen = model.slots.worker.call(lambda engine=model.engine, s=segments: self._profiled(engine, s))
                found[f"{model.name}, samples {samples}, new tokens {tokens}"] = seen
        return found

    def _profiled(self, engine: Engine, segments: list[Segment]) -> dict[str, Any]:
        from torch.profiler import ProfilerActivity, profile

        ms = self._median(engine, segments)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.cuda else [])]
        with profile(activities=activities) as seen:
            engine.run(segments)
            self.device.wait()
        kernels: dict[str, list[float]] = {}
        for event in seen.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                kernels.setdefault(event.name[:80], []).append(event.time_range.elapsed_us() / 1000)
        averages = seen.key_averages()
        busy = sum(map(sum, kernels.values()))
        return {
            "ms": ms,
            "kernels": sum(map(len, kernels.values())),
            "kernel_launches_from_the_host": sum(e.count for e in averages if "Launch" in e.key),
            "gpu_busy": round(busy / ms, 3) if ms else None,
            "torch_calls": sum(e.count for e in averages if e.key.startswith("aten::")),
            "longest": [
                f"{sum(times):.3f} ms, {len(times)} x {name}"
                for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:KERNELS_SHOWN]
            ],
        }


@contextlib.contextmanager
def _uncounted(engine: Engine) -> Iterator[None]:
    """What is run here leaves no trace in the engine's counts; its costs are medians that soon are others."""
    names = ("passes", "sample_passes", "tokens", "seconds", "samples_per_pass")
    kept = {name: getattr(engine, name) for name in names}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(engine, name, value)
