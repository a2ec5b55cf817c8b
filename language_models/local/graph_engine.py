"""Forward passes of fixed sizes over packed tokens of several samples, replayed from CUDA graphs.

New tokens of all samples stand in one row, padded to one of a few lengths; what pads is written to a slot of the cache that
nobody reads. On a CPU, and where a size cannot be captured, the same passes run without graphs: each layer still starts as many
kernels for many samples as for one, and tokens written ahead stay on the device, which packed passes do not have. Without graphs
and without the Triton kernels little of that is left, while plain torch copies what is cached in every layer: a model gets packed
passes then, see engines.make_engine.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import torch

from language_models.local.captures import FixedSizes
from language_models.local.choices import Choices, chance_kept
from language_models.local.costs import KEPT, PassCosts
from language_models.local.devices import out_of_memory
from language_models.local.engine import CHECK_TOKENS, Engine
from language_models.local.faults import failure_of
from language_models.local.fixed_attention import FixedPass
from language_models.local.fixed_sizes import STEPS, FixedSize, Shape
from language_models.local.fused_layers import Fusion, fuse_where_it_pays
from language_models.local.kernel_check import kernels_work, kinds_of
from language_models.local.pieces import Piece, check, parts
from language_models.local.room import Room
from language_models.local.segments import NextToken, Segment
from language_models.local.slot_cache import SlotCache
from language_models.local.triton_attention import usable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

SLICE = 4
TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024)  # new tokens of a pass
SHORT = 20  # of one sample: a proposal of 16 words and what precedes it
ALL_PLACES = 256  # up to so many tokens, all places are looked at
REPEATS = 3


class GraphsRefusedError(Exception):
    """No graph can be captured, and without them packed passes are better here."""


class GraphEngine(Engine):
    """See Engine. `most` is how many new tokens go into a pass, less than the largest size where memory is short."""

    kind = "graphs"
    writes_ahead = True
    sizes = TOKENS
    cache: SlotCache

    def __init__(self, model: "PreTrainedModel", *, slots: int, longest: int, expected_tokens: int | None = None):
        """
        Raises:
            GraphsRefusedError: packed passes are better here.
        """
        self.device, self.name = model.device, type(model).__name__
        cuda = self.device.type == "cuda"
        self.kernels, self.why_no_kernels, self.kernel_seconds = False, "they need a CUDA device", 0.0
        self.by_span = True  # plain torch looks at so many cached tokens as the shape says
        self.fusion = Fusion()
        self.sizes_made = FixedSizes(self, cuda, self.tell)
        self.most = TOKENS[-1]
        self.room = Room(self)
        self.stream = torch.cuda.Stream(self.device) if cuda else None
        # Long proposals are written in parts, so that other samples' join in; see worker.
        self.slice = SLICE if slots > 2 else STEPS
        self.steps_of = (*(n for n in (1, 8, 32) if n < slots), slots)
        self._step_costs = PassCosts(self.steps_of)
        with torch.inference_mode():
            self.latest = torch.zeros(slots + 1, dtype=torch.long, device=self.device)
        super().__init__(model, slots=slots, longest=longest, expected_tokens=expected_tokens)
        try:
            with torch.inference_mode(), self._on_stream():
                self.room.begin(expected_tokens)
                self._capacity_before = self.capacity
                if self.sizes_made.wanted:
                    self.sizes_made.of(self._shape_of([Piece(0, Segment(0, 0, [0], 1), 0, 1)]))
            refused = list(self.sizes_made.uncaptured.values())
            if refused and not (self.kernels or self.sizes_made.captured):
                raise GraphsRefusedError(refused[0])
        except BaseException:
            self.give_up()
            raise

    @property
    def capacity(self) -> int:
        """See Engine."""
        return self.cache.capacity

    @property
    def report(self) -> dict:
        """See Engine."""
        sizes = self.sizes_made
        return super().report | {
            "captured": bool(sizes.captured),
            "graphs": sizes.captured,
            "uncaptured": {str(shape): reason for shape, reason in sizes.uncaptured.items()},
            "capture_seconds": round(sizes.seconds, 3),
            "kernels": self.kernels,
            "why_no_kernels": self.why_no_kernels,
            "kernel_seconds": round(self.kernel_seconds, 3),
            "fused_layers": {kind: number for kind, number in self.fusion.counts.items() if number},
            "why_not_fused": self.fusion.refusal,
        }

    def make_cache(self, slots: int, longest: int) -> SlotCache:
        """See Engine."""
        return SlotCache(slots, longest)

    def _prepare(self) -> None:
        if self.device.type == "cuda":
            began, kinds = time.perf_counter(), kinds_of(self.model)
            self.why_no_kernels = kernels_work(self.device, kinds)
            self.kernels, self.kernel_seconds = not self.why_no_kernels, time.perf_counter() - began
            # Heads too large for the kernels are computed by plain torch beside them.
            self.by_span = not self.kernels or not all(usable(kind.size, kind.value_size) for kind in kinds)
            if not self.kernels:
                self.tell(f"{self.name}: attention without Triton kernels ({self.why_no_kernels})")
        self.fusion = fuse_where_it_pays(self.model, self._some_logits, self._pass_seconds)

    def _some_logits(self) -> torch.Tensor:
        tokens = [(5 * i + 3) % self.model.config.get_text_config().vocab_size for i in range(CHECK_TOKENS)]
        return self._in_pieces(tokens)

    def _pass_seconds(self) -> float:
        """What a pass over few tokens takes with the layers as they are, as a median; its graph is not kept."""
        segments, took = [Segment(0, 0, [11] * min(8, self.longest), 1)], []
        try:
            for _ in range(1 + KEPT):  # the first one captures
                started = time.perf_counter()
                self.outputs(segments)
                took.append(time.perf_counter() - started)
        finally:
            with suppress(Exception):  # the error under way says more
                self.wait()
            # Also where a pass fails: the graph has the addresses of weights that may be given up, and of a cache that grows.
            self.sizes_made.drop()
            self.costs.forget()
            self.reset_counts()
        return median(took[1:])

    def give_up(self) -> None:
        """See Engine."""
        with suppress(Exception):  # of a device that has stopped; the error under way says so
            self.wait()
            self.sizes_made.drop()
            self.fusion.undo()
        self.cache.layers.clear()  # at once: engine and parts refer to each other, and go when Python looks for such
        super().give_up()

    @contextmanager
    def _on_stream(self):
        """The engine's own stream, on the model's device, which need not be the thread's."""
        with ExitStack() as stack:
            if self.stream is not None:
                from torch.nn.attention import SDPBackend, sdpa_kernel

                stack.enter_context(torch.cuda.device(self.device))
                # Whoever asks may still be reading what the pass before gave.
                self.stream.wait_stream(torch.cuda.current_stream(self.device))
                stack.enter_context(torch.cuda.stream(self.stream))
                if self.by_span:
                    stack.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
            yield

    def wait(self) -> None:
        """Until all passes are over."""
        if self.stream is not None:
            self.stream.synchronize()

    def computed(self, ids, positions, packed: FixedPass, kept):
        """The model's output at the kept places; of logits the best token of each place too, and its log-probability."""
        options = {} if self.headless else {"logits_to_keep": kept}
        output = self.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, packed=packed, **options
        )[0][0]
        if self.headless:
            return (output if isinstance(kept, int) else output[kept]), None, None
        values = output.float()
        token = values.argmax(-1)
        best = values.gather(-1, token[:, None])[:, 0] - values.logsumexp(-1)
        return output, token, best

    @torch.inference_mode()
    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """See Engine."""
        if self.headless and segments:
            raise ValueError(f"{self.name} has no language-modelling head, and says no tokens")
        return self._computed(segments, self._run)

    @torch.inference_mode()
    def outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        return self._computed(segments, self._outputs)

    def _computed(self, segments: list[Segment], compute: Callable[[list[Segment]], list[T]]) -> list[T]:
        """Make room for the segments and compute them; where memory is short, in smaller passes."""
        check(segments, self.cache.slots, self.longest)
        if not segments:
            return []
        with self._on_stream():
            self.room.make(max(s.end + min(s.ahead, self.longest - s.end) for s in segments))
            before = self.most
            while True:
                try:
                    with chance_kept(segments):
                        return compute(segments)
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    failure = failure_of(self.name, self.device, error)
                # Only now, with the exception, are the tensors of its frames gone.
                if not self._make_smaller(sum(len(segment.tokens) for segment in segments)):
                    self.most = before
                    raise failure

    def _make_smaller(self, tokens: int) -> bool:
        """Have smaller passes than one over so many new tokens from now on; whether there are any."""
        padded = min(self.most, next((n for n in TOKENS if n >= tokens), TOKENS[-1]))
        if padded == TOKENS[0]:
            return False
        self.most = max(n for n in TOKENS if n < padded)
        self.wait()
        self.sizes_made.drop()  # all: graphs share memory, and none of it comes back while one is left
        self.tell(f"{self.name}: memory is short, so passes are over at most {self.most} tokens from now on")
        return True

    def _run(self, segments: list[Segment]) -> list[list[NextToken]]:
        started, made = time.perf_counter(), self.sizes_made.made
        choices, together = Choices(segments), list(parts(segments, self.most))
        for part in together:
            fixed, places = self._launch(part)
            choices.add(part, places, fixed.out if len(together) == 1 else fixed.out.clone(), fixed.logits)
        written = self._steps(segments, choices)
        found = choices.finish()
        seconds = time.perf_counter() - started
        steps, new = sum(max(group.values()) for group in written), sum(sum(group.values()) for group in written)
        tokens = sum(len(segment.tokens) for segment in segments)
        self.count(len(together) + steps, sum(map(len, together)) + new, tokens + new, seconds)
        plain = len(together) == 1 and not any(s.top > 1 or s.sampling for s in segments)
        if plain and made == self.sizes_made.made:  # nothing was captured
            if not steps:
                self.costs.record(fixed.shape.tokens, seconds)
            elif len(written) == 1 and self.costs.table:
                rest = seconds - self.cost(fixed.shape.tokens)
                self._step_costs.record(len(written[0]), max(0.0, rest) / steps)
        return found

    def _outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        started, made = time.perf_counter(), self.sizes_made.made
        found: list[list[torch.Tensor]] = [[] for _ in segments]
        together = list(parts(segments, self.most))
        for part in together:
            fixed, places = self._launch(part)
            # The next pass may be one of the same graph, into the same memory.
            values = fixed.logits if part is together[-1] else fixed.logits.clone()
            for piece, at in zip(part, places, strict=True):
                if at:
                    found[piece.index].append(values[at.start : at.stop])
        none = torch.empty(0, self.width, dtype=self.model.dtype, device=self.device)
        outputs = [torch.cat(one) if len(one) > 1 else one[0] if one else none for one in found]
        self.wait()  # last: they are read on another stream
        seconds = time.perf_counter() - started
        self.count(len(together), sum(map(len, together)), sum(len(segment.tokens) for segment in segments), seconds)
        if made == self.sizes_made.made and len(together) == 1:
            self.costs.record(fixed.shape.tokens, seconds)
        return outputs

    def _shape_of(self, part: list[Piece]) -> Shape:
        number = sum(piece.end - piece.begin for piece in part)
        tokens = next(n for n in TOKENS if n >= number)
        longest = SHORT if tokens > 32 and all(piece.end - piece.begin <= SHORT for piece in part) else tokens
        span = self.cache.span(max(piece.segment.start + piece.end for piece in part)) if self.by_span else 0
        kept = ALL_PLACES if tokens > ALL_PLACES >= sum(piece.wanted for piece in part) else 0
        return Shape(tokens, longest, span, kept, tree=any(piece.segment.parents is not None for piece in part))

    def _launch(self, part: list[Piece], graph: bool = True) -> tuple[FixedSize, list[range]]:
        """Start a pass; where the wanted places of each piece are in what it computes."""
        shape = self._shape_of(part)
        fixed = self.sizes_made.of(shape) if graph else self.sizes_made.plain(shape)
        places = fixed.fill(part, self.vocabulary_size)
        fixed.run()
        self.width = fixed.logits.shape[-1]
        return fixed, places

    def _steps(self, segments: list[Segment], choices: Choices) -> list[dict[int, int]]:
        """Greedy tokens after what was computed, each fed back where it is; for each group of segments how many of which."""
        limits = {
            i: min(s.ahead, STEPS, self.longest - s.end) for i, s in enumerate(segments) if s.ahead and not s.sampling
        }
        limits = {i: n for i, n in limits.items() if n > 0}
        rows, most = list(limits), min(self.most, self.steps_of[-1])
        groups = [{i: limits[i] for i in rows[at : at + most]} for at in range(0, len(rows), most)]
        for group in groups:
            span = self.cache.span(max(segments[i].end + n for i, n in group.items())) if self.by_span else 0
            fixed = self.sizes_made.of(Shape(next(n for n in self.steps_of if n >= len(group)), 1, span, step=True))
            fixed.fill_steps((segments[i], n) for i, n in group.items())
            fixed.run(most := max(group.values()))
            choices.add_steps(group, fixed.history[:most].clone() if len(groups) > 1 else fixed.history[:most])
        return groups

    def step_cost(self, samples: float) -> float:
        """See Engine."""
        return self._step_costs.of(samples) if self._step_costs.table else self.cost(samples)

    @torch.inference_mode()
    def logits(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        check(segments, self.cache.slots, max(self.longest, CHECK_TOKENS))
        with self._on_stream():
            self.room.make(max(segment.end for segment in segments))
            fixed, places = self._launch([Piece(i, s, 0, len(s.tokens)) for i, s in enumerate(segments)], graph=False)
            found = [fixed.logits[at.start : at.stop].float() for at in places]
            self.wait()
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
        if on_gpu and not self.headless:
            for rows in self.steps_of:
                self._timed([Segment(slot, 0, [11], 1, ahead=min(SLICE, longest - 1)) for slot in range(rows)])
        self.reset_counts()

    def _timed(self, segments: list[Segment]) -> None:
        for _ in range(1 + REPEATS):  # the first one captures
            if self.headless:
                self.outputs(segments)
            else:
                self.run(segments)
