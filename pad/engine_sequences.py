"""Sequences that grow together in the slots of an engine's cache: CachedModel's interface over the engine's passes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from language_models.local.engine import Engine
from language_models.local.segments import MOST_IN_TREE, Segment


class EngineSequences:
    """B sequences of an engine, one slot each; see sequences.Sequences.

    A slot's columns behind what belongs to its sequence are free: branches are read there and left there. The tokens that `keep`
    takes from them are known, but not in their place in the cache: they go in once more at the beginning of the next pass. That is
    one token more in a pass which reading the weights bounds; moving them would take operations in every layer.

    Outputs are good until the next pass.
    """

    drops_rows_freely = True

    def __init__(self, engine: Engine, last_position: int, slots: Sequence[int] | None = None):
        """
        Args:
            engine: of a model with a language-modelling head for logits, of a headless one for hidden states.
            last_position: of the longest text; none goes beyond it.
            slots: of the cache, that are used.
        """
        self.engine, self.device = engine, engine.device
        self._last = last_position
        self._free = list(range(engine.cache.slots) if slots is None else slots)
        self._slots: list[int] = []
        self._cached: list[int] = []  # tokens of each sequence in its slot
        self._pending: list[list[int]] = []  # those behind them, which the next pass reads
        self._read: list[list[int]] = []  # the tokens of branches that were read and may be kept

    @property
    def dtype(self) -> torch.dtype:
        """The model's number format."""
        return self.engine.model.dtype

    @property
    def rows(self) -> int:
        """How many sequences there are."""
        return len(self._slots)

    @property
    def kind(self) -> str:
        """The engine's name."""
        return self.engine.kind

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self.engine.passes

    @property
    def tokens(self) -> int:
        """Tokens that went into them."""
        return self.engine.tokens

    def alone(self, number: int) -> "EngineSequences":
        """A sequence by itself, in the slot of that number."""
        return EngineSequences(self.engine, self._last, self._free[number : number + 1])

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """See Sequences."""
        if len(prompts) > len(self._free):
            raise ValueError(f"{len(prompts)} prompts, and slots for {len(self._free)}")
        self._slots = self._free[: len(prompts)]
        self._cached, self._pending = [0] * self.rows, [list(prompt) for prompt in prompts]
        self._read = [[] for _ in prompts]
        return self._flush()

    def step(self, tokens: Tensor) -> Tensor:
        """See Sequences."""
        for pending, token in zip(self._pending, tokens.tolist(), strict=True):
            pending.append(token)
        self._read = [[] for _ in self._slots]
        return self._flush()

    def branch(self, tokens: Tensor, parents: Sequence[int] | None = None) -> Tensor:
        """See Sequences."""
        found = self._branch(tokens.tolist(), [-1] * tokens.shape[1] if parents is None else list(parents))
        self._read = [old + new for old, new in zip(self._read, tokens.tolist(), strict=True)]
        return found

    def keep(self, chosen: Tensor) -> None:
        """See Sequences."""
        for pending, read, numbers in zip(self._pending, self._read, chosen.tolist(), strict=True):
            pending += [read[number] for number in numbers]
            read.clear()

    def select(self, rows: Tensor) -> None:
        """See Sequences."""
        numbers = rows.tolist()
        for name in ("_slots", "_cached", "_pending", "_read"):
            setattr(self, name, [getattr(self, name)[number] for number in numbers])

    def _flush(self) -> Tensor:
        """Read what is pending; the output at the last token of each sequence."""
        return self._pass([[] for _ in self._slots], [], [])[:, -1]

    def _branch(self, rows: list[list[int]], parents: list[int]) -> Tensor:
        """The outputs of a tree whose tokens are other ones in each row: (B, m, H)."""
        if max(map(len, self._pending)) > MOST_IN_TREE // 2:
            self._flush()
        parts = list(_parts(parents, MOST_IN_TREE - max(map(len, self._pending))))
        if len(parts) == 1:
            return self._pass(rows, parents, parts[0])
        found: list[Tensor] = [None] * len(parents)
        for numbers in parts:
            read = self._pass(rows, parents, numbers).clone()
            for number, output in zip(numbers, read.unbind(1), strict=True):
                found[number] = output
        return torch.stack(found, 1)

    def _pass(self, rows: list[list[int]], parents: list[int], numbers: Sequence[int]) -> Tensor:
        """Read what is pending and, behind it, some tokens of a tree; the outputs at these, or at the last one without any."""
        place = {number: n for n, number in enumerate(numbers)}
        segments = []
        for slot, start, pending, row in zip(self._slots, self._cached, self._pending, rows, strict=True):
            first = len(pending)
            line = [*range(-1, first - 1), *(first + place.get(parents[n], -1) for n in numbers)]
            tokens = pending + [row[n] for n in numbers]
            tree = None if line == list(range(-1, len(tokens) - 1)) else line
            segment = Segment(slot, start, tokens, len(numbers) or 1, parents=tree)
            if segment.end > self._last + 1:
                # Ended sequences that run along in a batch may pass the last position.
                segment.start -= max(0, max(segment.positions) - self._last)
            segments.append(segment)
        found = self.engine.outputs(segments)
        self._cached = [at + len(tokens) for at, tokens in zip(self._cached, self._pending, strict=True)]
        self._pending = [[] for _ in self._slots]
        return torch.stack(found) if len(found) > 1 else found[0][None]


def _parts(parents: list[int], most: int) -> Iterator[Sequence[int]]:
    """The numbers of a tree's tokens in parts that can be read by themselves, since with each token come those that it descends
    from: at most `most` tokens, or more of one line."""
    if len(parents) <= most:
        yield range(len(parents))
        return
    part: set[int] = set()
    inner = set(parents)
    for leaf in (n for n in range(len(parents)) if n not in inner):
        line, at = set(), leaf
        while at >= 0:
            line.add(at)
            at = parents[at]
        if part and len(part | line) > most:
            yield sorted(part)
            part = set()
        part |= line
    yield sorted(part)
