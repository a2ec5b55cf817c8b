"""A pass of one size: its buffers, and the CUDA graph from which it is replayed."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import torch

from language_models.local.fixed_attention import FixedPass
from language_models.local.pieces import Piece
from language_models.local.segments import Segment

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
    tree: bool = False  # some of the tokens branch

    def __str__(self) -> str:
        if self.step:
            return f"one more token of {self.tokens} sample{'s' * (self.tokens > 1)}" + self._behind
        each = f", at most {self.longest} of a sample" if self.longest < self.tokens else ""
        looked_at = f", {self.kept} looked at" if self.kept else ""
        tree = ", branching" if self.tree else ""
        return f"{self.tokens} new token{'s' * (self.tokens > 1)}{each}{looked_at}{tree}" + self._behind

    @property
    def _behind(self) -> str:
        return f" behind {self.span}" if self.span else ""


class FixedSize:
    """A shape's buffers, and its graph if it could be captured."""

    def __init__(self, engine: "GraphEngine", shape: Shape):
        self.engine, self.shape = engine, shape
        tokens = shape.tokens
        self.rows = rows = min(tokens, engine.cache.slots)
        sizes = {"rows": tokens, "starts": tokens, "limits": tokens, "counter": 1} if shape.step else {
            "ids": tokens, "positions": tokens, "slots": tokens, "kept": shape.kept,
            "rows": rows, "offsets": rows, "counts": rows, "starts": rows, "last": rows,
        } | ({"places": tokens, "seen": tokens} if shape.tree else {})  # fmt: skip
        # Memory that is not pinned: the copy to the device has read it when it returns, so that it can be filled again.
        self.host = torch.zeros(sum(sizes.values()), dtype=torch.long)
        self.inputs = torch.zeros_like(self.host, device=engine.device)
        at, self.on_host, self.on_device = 0, {}, {}
        for name, size in sizes.items():
            self.on_host[name] = self.host[at : at + size].numpy()
            self.on_device[name] = self.inputs[at : at + size]
            at += size
        self.graph = self.logits = None
        # Graphs replayed later may write into the memory of this one's results, all but what is made here.
        self.out = None if shape.step else torch.zeros(2, shape.kept or tokens, device=engine.device)
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

    def fill(self, part: list[Piece], vocabulary_size: int) -> list[range]:
        """Fill the buffers on the host; where the wanted places of each piece are in what is computed.

        Raises:
            ValueError: a token has no embedding, which on a GPU would end all computing.
        """
        self.clear()
        host, at, kept, found = self.on_host, 0, 0, []
        for row, piece in enumerate(part):
            segment = piece.segment
            n, start = piece.end - piece.begin, segment.start + piece.begin
            host["ids"][at : at + n] = segment.tokens[piece.begin : piece.end]
            host["positions"][at : at + n] = segment.positions[piece.begin : piece.end]
            host["slots"][at : at + n] = segment.slot
            if self.shape.tree:
                host["places"][at : at + n] = range(start, start + n)
                host["seen"][at : at + n] = 0 if segment.parents is None else segment.seen
            host["rows"][row], host["offsets"][row], host["counts"][row] = segment.slot, at, n
            host["starts"][row] = start
            wanted = piece.wanted
            if self.shape.kept:
                host["kept"][kept : kept + wanted] = range(at + n - wanted, at + n)
                found.append(range(kept, kept + wanted))
                kept += wanted
                host["last"][row] = max(0, kept - 1)
            else:
                found.append(range(at + n - wanted, at + n))
                host["last"][row] = at + n - 1
            at += n
        if host["ids"].min() < 0 or host["ids"].max() >= vocabulary_size:
            raise ValueError(f"a token outside of the {vocabulary_size} that have an embedding")
        return found

    def fill_steps(self, wanted: Iterable[tuple[Segment, int]]) -> None:
        """Fill the buffers on the host for so many steps after each segment."""
        self.clear()
        for row, (segment, limit) in enumerate(wanted):
            self.on_host["rows"][row], self.on_host["starts"][row] = segment.slot, segment.end
            self.on_host["limits"][row] = limit

    def send(self) -> None:
        self.inputs.copy_(self.host, non_blocking=True)

    def forward(self) -> None:
        """What is captured."""
        step = self._step if self.shape.step else self._forward
        step(**self.on_device)

    def _forward(
        self, ids, positions, slots, kept, rows, offsets, counts, starts, last, places=None, seen=None
    ) -> None:
        engine, shape = self.engine, self.shape
        packed = FixedPass(
            engine.cache, slots, positions if places is None else places, rows, offsets, counts, starts,
            shape.longest, shape.span, engine.kernels, seen,
        )  # fmt: skip
        self.logits, token, best = engine.computed(ids, positions, packed, kept if shape.kept else 0)
        if token is not None:
            engine.latest[rows] = token[last]
            torch.stack([token.float(), best], out=self.out)

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

    def warm_up(self) -> None:
        """Compute padding once: libraries, kernels and the cache take their memory, which a capture must not."""
        self.clear()
        self.send()
        self.forward()

    def capture(self) -> None:
        """Have a graph, after a `warm_up`.

        Raises:
            Exception: whatever torch says where it cannot be captured; the pass can be run without a graph then.
        """
        try:
            self.graph = record_graph(self.forward, self.engine.sizes_made.pool, self.engine.device)
        except BaseException:
            self.graph = self.logits = None  # they lie in the memory of a graph that is none
            raise


def record_graph(work: Callable[[], None], pool, device: torch.device):
    """A CUDA graph of what `work` starts on the current stream, with memory from `pool`.

    Raises:
        Exception: it cannot be captured. Nothing captures any longer then; the pool must not be used for further graphs.
    """
    graph = torch.cuda.CUDAGraph()
    with _capturing:
        torch.cuda.current_stream(device).synchronize()
        try:
            # Other threads may go on: their work is on other streams.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # that the capture is invalid; why, says the first error
                    graph.capture_end()
                raise
            graph.capture_end()
        except BaseException:
            # Where torch's own end of a capture fails half-way, its allocator would go on taking this stream for captured,
            # and free no memory where that is short. Where it has ended, this is an error that says so.
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(device.index or 0, pool)
            raise
    return graph
