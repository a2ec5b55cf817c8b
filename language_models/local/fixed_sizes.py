"""A pass of one size: its buffers, and the CUDA graph from which it is replayed."""

import threading
from typing import TYPE_CHECKING, NamedTuple

import torch

from language_models.local.fixed_attention import FixedPass

if TYPE_CHECKING:
    from language_models.local.graph_engine import GraphEngine

STEPS = 32
_capturing = threading.Lock()


class Shape(NamedTuple):
    """New tokens of a pass, at most how many of a sample, behind how many cached ones (0: whatever there are)."""

    tokens: int
    longest: int
    span: int
    kept: int = 0  # so many places are looked at; 0: all
    step: bool = False  # one token of each sample, the one that the pass before found


class FixedSize:
    """A shape's buffers, and its graph if it could be captured."""

    def __init__(self, engine: "GraphEngine", shape: Shape):
        self.engine, self.shape = engine, shape
        tokens = shape.tokens
        self.rows = rows = min(tokens, engine.cache.slots)
        sizes = {"rows": tokens, "starts": tokens, "limits": tokens, "counter": 1} if shape.step else {
            "ids": tokens, "positions": tokens, "slots": tokens, "kept": shape.kept,
            "rows": rows, "offsets": rows, "counts": rows, "starts": rows, "last": rows,
        }  # fmt: skip
        self.host = torch.zeros(sum(sizes.values()), dtype=torch.long)
        self.inputs = torch.zeros_like(self.host, device=engine.device)
        at, self.on_host, self.on_device = 0, {}, {}
        for name, size in sizes.items():
            self.on_host[name] = self.host[at : at + size].numpy()
            self.on_device[name] = self.inputs[at : at + size]
            at += size
        self.graph = None
        self.logits = self.out = None
        if shape.step:
            self.history = torch.zeros(STEPS, 2, tokens, device=engine.device)
            self.order = torch.arange(tokens, device=engine.device)
            self.ones = torch.ones_like(self.order)

    def clear(self) -> None:
        """Fill the buffers on the host with padding."""
        self.host.zero_()
        scratch = self.engine.cache.slots
        self.on_host["rows"][:] = scratch
        if not self.shape.step:
            self.on_host["slots"][:] = scratch

    def send(self) -> None:
        self.inputs.copy_(self.host, non_blocking=True)

    def forward(self) -> None:
        """What is captured."""
        step = self._step if self.shape.step else self._forward
        step(**self.on_device)

    def _forward(self, ids, positions, slots, kept, rows, offsets, counts, starts, last) -> None:
        engine, shape = self.engine, self.shape
        packed = FixedPass(
            engine.cache, slots, positions, rows, offsets, counts, starts, shape.longest, shape.span, engine.kernels
        )
        self.logits, token, best = engine.computed(ids, positions, packed, kept if shape.kept else 0)
        engine.latest[rows] = token[last]
        self.out = torch.stack([token.float(), best])

    def _step(self, rows, starts, limits, counter) -> None:
        engine = self.engine
        active = counter < limits
        slots = torch.where(active, rows, engine.cache.slots)
        positions = torch.where(active, starts + counter, 0)
        packed = FixedPass(
            engine.cache, slots, positions, slots, self.order, self.ones, positions, 1, self.shape.span, engine.kernels
        )
        _, token, best = engine.computed(engine.latest[rows], positions, packed, 0)
        engine.latest[rows] = token
        self.history.index_copy_(0, counter, torch.stack([token.float(), best])[None])
        counter += 1

    def run(self, times: int = 1) -> None:
        self.send()
        for _ in range(times):
            if self.graph is None:
                self.forward()
            else:
                self.graph.replay()

    def capture(self) -> None:
        """Raises: whatever torch says where it cannot be captured."""
        self.clear()
        self.send()
        self.forward()  # warms up: libraries and the cache allocate
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        with _capturing:
            graph.capture_begin(pool=self.engine.pool, capture_error_mode="thread_local")
            try:
                self.forward()
            finally:
                graph.capture_end()
        self.graph = graph
