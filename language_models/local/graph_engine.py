"""Forward passes of fixed sizes over packed tokens of several samples, replayed from CUDA graphs.

New tokens of all samples stand in one row, padded to one of a few lengths; what
pads is written to a row of the cache that nobody reads. On a CPU, and where a size cannot be captured, the same passes run
without graphs.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch

from language_models.local.costs import KEPT
from language_models.local.engine import Engine
from language_models.local.fixed_attention import FixedPass
from language_models.local.fixed_sizes import STEPS, FixedSize, Shape
from language_models.local.fused_layers import Fusion, fuse_where_it_pays
from language_models.local.kernel_check import kernels_work, kinds_of
from language_models.local.segments import NextToken, Segment
from language_models.local.slot_cache import SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLICE = 4
TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024)  # new tokens of a pass
SHORT = 20  # of one sample: a proposal of 16 words and what precedes it
ALL_PLACES = 256  # up to so many tokens, all places are looked at
REPEATS = 3


class _Piece(NamedTuple):
    """Tokens of a segment that go into one launch: `wanted` places at its end are looked at."""

    index: int
    segment: Segment
    begin: int
    end: int

    @property
    def wanted(self) -> int:
        return max(0, self.end - max(self.begin, len(self.segment.tokens) - self.segment.wanted))


class GraphEngine(Engine):
    """See Engine. `captures` counts the shapes that have graphs, `uncaptured` has those that could not get one, with the reason."""

    kind = "graphs"
    writes_ahead = True
    sizes = TOKENS
    cache: SlotCache

    def __init__(self, model: "PreTrainedModel", *, slots: int, longest: int):
        cuda = model.device.type == "cuda"
        self.graphs = cuda
        self.kernels, self.kernel_fault = False, ""  # set by _prepare
        self._shapes: dict[Shape, FixedSize] = {}
        self.captures, self.uncaptured, self.capture_seconds = 0, {}, 0.0
        self.stream = torch.cuda.Stream(model.device) if cuda else None
        self.pool = torch.cuda.graph_pool_handle() if self.graphs else None
        # Long proposals are written in parts, so that other samples' join in; see worker.
        self.slice = SLICE if slots > 2 else 64
        self.steps_of = (*(n for n in (1, 8, 32) if n < slots), slots)
        with torch.inference_mode():
            self.latest = torch.zeros(slots + 1, dtype=torch.long, device=model.device)
        self._step_seconds: deque[float] = deque(maxlen=KEPT)
        super().__init__(model, slots=slots, longest=longest)
        with torch.inference_mode():
            self._make_room(min(512, longest))  # most texts of a run go beyond 256, and growing throws graphs away

    def _prepare(self) -> None:
        if self.device.type == "cuda":
            self.kernel_fault = kernels_work(self.device, kinds_of(self.model))
            self.kernels = not self.kernel_fault
        self.fusion: Fusion = fuse_where_it_pays(self.model, self._some_logits, self._pass_seconds)

    def _some_logits(self) -> torch.Tensor:
        tokens = [(5 * i + 3) % self.model.config.get_text_config().vocab_size for i in range(24)]
        return self._in_pieces(tokens)

    def _pass_seconds(self) -> float:
        """What a pass over few tokens takes with the layers as they are, as a median; its graph is not kept."""
        segments, took = [Segment(0, 0, [11] * 8, 1)], []
        for _ in range(1 + KEPT):  # the first one captures
            started = time.perf_counter()
            self.run(segments)
            took.append(time.perf_counter() - started)
        self._shapes.clear()
        self.costs.forget()
        self.reset_counts()
        return median(took[1:])

    def make_cache(self, slots: int, longest: int) -> SlotCache:
        return SlotCache(slots, longest)

    def _on_stream(self) -> ExitStack:
        stack = ExitStack()
        if self.stream is not None:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(torch.cuda.stream(self.stream))
            if not self.kernels:
                stack.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
        return stack

    def computed(self, ids, positions, packed: FixedPass, kept):
        """Logits at the kept places, the best token of each and its log-probability."""
        output = self.model(
            input_ids=ids[None], position_ids=positions[None], logits_to_keep=kept, use_cache=False, packed=packed
        )
        logits = output.logits[0]
        values = logits.float()
        token = values.argmax(-1)
        best = values.gather(-1, token[:, None])[:, 0] - values.logsumexp(-1)
        return logits, token, best

    @torch.inference_mode()
    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        started = time.perf_counter()
        found: list[list[NextToken]] = [[] for _ in segments]
        fresh = len(self._shapes)
        with self._on_stream():
            self._make_room(max(s.end + min(s.ahead, self.longest - s.end) for s in segments))
            outputs, parts = [], list(self._parts(segments))
            for part in parts:
                fixed, places = self._launch(part)
                if any(piece.wanted and (piece.segment.sampling or piece.segment.top > 1) for piece in part):
                    self._choose(fixed, part, places, found)
                else:
                    outputs.append((part, places, fixed.out.clone()))
                    padded = fixed.shape.tokens
            limits, fixed = self._steps(segments)
            for part, places, out in outputs:
                _read(part, places, out.cpu(), found)
            if limits:
                most = max(limits.values())
                tokens, best = fixed.history[:most].cpu().unbind(1)
                tokens, best = tokens.long().t().tolist(), best.t().tolist()
                for row, (i, limit) in enumerate(limits.items()):
                    found[i] += [
                        NextToken(token, ((token, logprob),))
                        for token, logprob in zip(tokens[row][:limit], best[row], strict=False)
                    ]
        seconds = time.perf_counter() - started
        steps = sum(limits.values())
        self.count(
            len(parts) + max(limits.values(), default=0),
            sum(map(len, parts)) + steps,
            sum(len(segment.tokens) for segment in segments) + steps,
            seconds,
        )
        if fresh == len(self._shapes):  # nothing was captured
            if limits:
                self._step_seconds.append(seconds / (most + len(parts)))
            elif len(outputs) == len(parts) == 1:
                self.costs.record(padded, seconds)
        return found

    def _make_room(self, length: int) -> None:
        if self.cache.make_room(length):
            if self.stream:
                torch.cuda.synchronize(self.device)
            self._shapes.clear()

    def _parts(self, segments: list[Segment]) -> Iterator[list[_Piece]]:
        """What goes into one launch each. Short pieces first: long texts do not make them wait in a launch of their size."""
        order = sorted(range(len(segments)), key=lambda i: len(segments[i].tokens))
        part, free = [], TOKENS[-1]
        for i in order:
            at, n = 0, len(segments[i].tokens)
            while at < n:
                size = min(free, n - at)
                part.append(_Piece(i, segments[i], at, at + size))
                at, free = at + size, free - size
                if not free:
                    yield part
                    part, free = [], TOKENS[-1]
        if part:
            yield part

    def _shape_of(self, part: list[_Piece]) -> Shape:
        number = sum(piece.end - piece.begin for piece in part)
        tokens = next(n for n in TOKENS if n >= number)
        longest = SHORT if tokens > 32 and all(piece.end - piece.begin <= SHORT for piece in part) else tokens
        span = 0 if self.kernels else self.cache.span(max(piece.segment.start + piece.end for piece in part))
        kept = ALL_PLACES if tokens > ALL_PLACES >= sum(piece.wanted for piece in part) else 0
        return Shape(tokens, longest, span, kept)

    def _fixed(self, shape: Shape) -> FixedSize:
        fixed = self._shapes.get(shape)
        if fixed is None:
            began = time.perf_counter()
            fixed = FixedSize(self, shape)
            if self.graphs:
                try:
                    fixed.capture()
                    self.captures += 1
                except Exception as error:
                    fixed.graph = None
                    self.uncaptured[shape] = f"{type(error).__name__}: {error}"[:300]
                self.capture_seconds += time.perf_counter() - began
            self._shapes[shape] = fixed
        return fixed

    def _launch(self, part: list[_Piece]) -> tuple[FixedSize, list[range]]:
        """Start a pass; where the wanted places of each piece are in what it computes."""
        shape = self._shape_of(part)
        fixed = self._fixed(shape)
        fixed.clear()
        host, at, kept, places = fixed.on_host, 0, 0, []
        ids, positions, slots = host["ids"], host["positions"], host["slots"]
        for row, piece in enumerate(part):
            segment = piece.segment
            n, start = piece.end - piece.begin, segment.start + piece.begin
            ids[at : at + n] = segment.tokens[piece.begin : piece.end]
            positions[at : at + n] = range(start, start + n)
            slots[at : at + n] = segment.slot
            host["rows"][row], host["offsets"][row], host["counts"][row] = segment.slot, at, n
            host["starts"][row] = start
            wanted = piece.wanted
            if shape.kept:
                host["kept"][kept : kept + wanted] = range(at + n - wanted, at + n)
                places.append(range(kept, kept + wanted))
                kept += wanted
                host["last"][row] = max(0, kept - 1)
            else:
                places.append(range(at + n - wanted, at + n))
                host["last"][row] = at + n - 1
            at += n
        fixed.run()
        return fixed, places

    def _choose(self, fixed: FixedSize, part: list[_Piece], places: list[range], found) -> None:
        """Where more is wanted than the best token of each place."""
        greedy = fixed.out[0].long().tolist()
        for piece, at in zip(part, places, strict=True):
            if not at:
                continue
            segment = piece.segment
            logits = fixed.logits[at.start : at.stop].float()
            total = logits.logsumexp(-1)
            if segment.sampling:
                found[piece.index] += [self.drawn(logits[n], total[n], segment) for n in range(len(at))]
                continue
            n = segment.top
            values, indices = logits.topk(min(max(1, n), logits.shape[-1]), dim=-1)
            values, indices = (values - total[:, None]).tolist(), indices.tolist()
            found[piece.index] += [
                NextToken(greedy[place], tuple(zip(indices[k][:n], values[k][:n], strict=True)))
                for k, place in enumerate(at)
            ]

    def _steps(self, segments: list[Segment]) -> tuple[dict[int, int], FixedSize | None]:
        """Greedy tokens after what was computed, each fed back where it is: how many of which segment."""
        limits = {
            i: min(s.ahead, STEPS, self.longest - s.end) for i, s in enumerate(segments) if s.ahead and not s.sampling
        }
        limits = {i: n for i, n in limits.items() if n > 0}
        if not limits:
            return {}, None
        span = 0 if self.kernels else self.cache.span(max(segments[i].end + n for i, n in limits.items()))
        fixed = self._fixed(Shape(next(n for n in self.steps_of if n >= len(limits)), 1, span, 0, True))
        fixed.clear()
        for row, (i, limit) in enumerate(limits.items()):
            fixed.on_host["rows"][row] = segments[i].slot
            fixed.on_host["starts"][row] = segments[i].end
            fixed.on_host["limits"][row] = limit
        fixed.run(max(limits.values()))
        return limits, fixed

    def step_cost(self, samples: float) -> float:
        """See Engine."""
        return median(self._step_seconds) if self._step_seconds else self.cost(samples)

    @torch.inference_mode()
    def outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        raise NotImplementedError

    @torch.inference_mode()
    def logits(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        with self._on_stream():
            if self.stream:
                torch.cuda.synchronize(self.device)
            self._make_room(max(segment.end for segment in segments))
            graphs, self.graphs = self.graphs, False
            try:
                fixed, places = self._launch([_Piece(i, s, 0, len(s.tokens)) for i, s in enumerate(segments)])
                found = [fixed.logits[at.start : at.stop].float() for at in places]
            finally:
                self.graphs = graphs
                self._shapes.clear()
            if self.stream:
                self.stream.synchronize()
        return found

    def measure(self) -> None:
        """Capture the shapes that are wanted most, and time them."""
        on_gpu = self.device.type == "cuda"
        longest = min(self.longest, self.cache.capacity)
        for size in TOKENS if on_gpu else (1, 8, 32):
            each = min(size, SHORT if size > 32 else max(1, size // self.cache.slots))
            rows = min(self.cache.slots, size // each)
            if size > 32 and rows < self.cache.slots and rows * each <= size // 2:
                each = size // rows  # few samples: long texts
            segments = [Segment(slot, 0, [11] * min(each, longest), 1) for slot in range(rows)]
            while sum(len(s.tokens) for s in segments) * 2 <= size and len(segments[0].tokens) < longest:
                segments = [Segment(s.slot, 0, [11] * min(2 * len(s.tokens), longest), 1) for s in segments]
            self._timed(segments)
        self.reset_counts()

    def _timed(self, segments: list[Segment]) -> None:
        for _ in range(1 + REPEATS):  # the first one captures
            self.run(segments)


def _read(part: list[_Piece], places: list[range], out: torch.Tensor, found) -> None:
    tokens, best = out[0].long().tolist(), out[1].tolist()
    for piece, at in zip(part, places, strict=True):
        found[piece.index] += [NextToken(tokens[place], ((tokens[place], best[place]),)) for place in at]
