"""Sequences that grow together in transformers' own passes and key-value cache, see sequences.Sequences.

For the models and machines that language_models/local has no faster engine for: on CPUs its packed passes, made for samples that
come one by one, are no faster for a batch (benchmarks/guided_decoding.py).
"""

import copy
import inspect
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from language_models.local.loading import cache_argument
from language_models.local.windows import context_length
from pad.growing_layer import GrowingLayer, growing_cache


class CachedModel:
    """A causal transformer and the key-value cache of B sequences, one row each.

    `lengths` (B,) are the sequences' lengths in tokens. Prompts of different lengths are padded at the left.
    """

    kind, drops_rows_freely = "transformers", False

    def __init__(self, network: PreTrainedModel):
        """`network`: a model with a language-modelling head gives logits, a headless one gives hidden states."""
        self.network = network
        self.device = network.device
        accepted = inspect.signature(network.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._cache_argument = cache_argument(network)
        # Logits of earlier positions would cost V numbers for each of them.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._last_position = context_length(network) - 1
        self.lengths: Tensor | None = None
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None
        self._width = 0  # columns of the cache that belong to the sequences, padding included
        self._counted = Counter()  # of copies too

    @property
    def dtype(self) -> torch.dtype:
        """The model's number format."""
        return self.network.dtype

    @property
    def rows(self) -> int:
        """How many sequences there are."""
        return len(self.lengths)

    @property
    def passes(self) -> int:
        """Forward passes so far, of all copies together."""
        return self._counted["passes"]

    @property
    def tokens(self) -> int:
        """Tokens that went into them, padding included."""
        return self._counted["tokens"]

    @property
    def report(self) -> dict:
        """What computes."""
        return {"engine": self.kind}

    def alone(self, number: int) -> "CachedModel":
        """A sequence by itself, with a cache of its own."""
        other = CachedModel(self.network)
        other._counted = self._counted
        return other

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts (token ids) into a fresh cache; the output at their last tokens: (B, V) or (B, H)."""
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        self.lengths = torch.tensor(lengths, device=self.device)
        columns = torch.arange(width, device=self.device)
        mask = columns >= (width - self.lengths)[:, None]
        # Without padding there is nothing to mask, and attention is faster.
        self._mask = mask if min(lengths) < width else None
        self._cache, self._width = growing_cache(self.network.config), width
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return self._forward(ids, positions, self._padding_mask())[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (B,) to each sequence; the output at it: (B, V) or (B, H)."""
        positions = self.lengths[:, None]
        self._grow(1)
        return self._forward(tokens.to(self.device)[:, None], positions, self._padding_mask())[:, -1]

    def branch(self, tokens: Tensor, parents: Sequence[int] | None = None) -> Tensor:
        """Read m continuations of each sequence side by side, in its own row (tree attention); outputs (B, m, H).

        They stay in the cache behind the sequences until `keep` says which of them belong to these; more can be read before.

        Args:
            tokens: (B, m). Each sees its sequence and itself, not the others.
            parents: for each token the number of the token before it, which it sees too, or -1 where it follows the sequence.

        Raises:
            ValueError: the model has layers of sliding windows, whose caches drop what a branch would need.
        """
        if any(self._cache.is_sliding):
            raise NotImplementedError("no branches with sliding windows")
        rows, m = tokens.shape
        visible = torch.eye(m, dtype=torch.bool)
        depth = torch.zeros(m, dtype=torch.long)
        for i, parent in enumerate(parents or ()):
            if parent >= 0:
                visible[i] |= visible[parent]
                depth[i] = depth[parent] + 1
        earlier = self._cache.get_seq_length() - self._width  # of branches read before, which these do not see
        before = (
            torch.ones(rows, self._width, dtype=torch.bool, device=self.device) if self._mask is None else self._mask
        )
        hidden = torch.zeros(rows, 1, m, earlier, dtype=torch.bool, device=self.device)
        seen = torch.cat(
            [
                before[:, None, None, :].expand(rows, 1, m, self._width),
                hidden,
                visible.to(self.device).expand(rows, 1, m, m),
            ],
            dim=-1,
        )
        dtype = self.network.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill(~seen, torch.finfo(dtype).min)
        return self._forward(tokens.to(self.device), self.lengths[:, None] + depth.to(self.device), mask)

    def keep(self, chosen: Tensor) -> None:
        """Make branches part of their sequences: chosen (B, d), numbers of branch tokens in their order; others are dropped."""
        first, kept = self._width, chosen.shape[1]
        for layer in self._layers():
            for name in ("keys", "values"):
                states = getattr(layer, name)
                index = (first + chosen.to(states.device))[:, None, :, None]
                new = states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))
                states[:, :, first : first + kept] = new
                setattr(layer, name, states[:, :, : first + kept])
        self._grow(kept)

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences: their row numbers."""
        rows = rows.to(self.device)
        self._cache.batch_select_indices(rows)
        self.lengths = self.lengths[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def repeated(self, times: int) -> "CachedModel":
        """A copy in which every sequence stands `times` times, with a cache of its own."""
        other = copy.copy(self)
        other._cache = copy.copy(self._cache)
        # The copies are read once and all but one dropped: room in them would cost more than it saves.
        layers = [layer.without_room() if type(layer) is GrowingLayer else layer for layer in self._layers()]
        # Repeating makes tensors of its own; only what other kinds of layers hold besides has to be copied.
        other._cache.layers = [(copy.copy if type(x) is DynamicLayer else copy.deepcopy)(x) for x in layers]
        other._cache.batch_repeat_interleave(times)
        other.lengths = self.lengths.repeat_interleave(times)
        other._mask = None if self._mask is None else self._mask.repeat_interleave(times, 0)
        return other

    @property
    def cached_positions(self) -> tuple[int, int]:
        """Rows and columns of the cache."""
        keys = self._layers()[0].keys
        return keys.shape[0], keys.shape[2]

    def _layers(self) -> list:
        layers = getattr(self._cache, "layers", None)
        if layers is None:
            raise RuntimeError("this version of transformers has no cache layers; version 5 is needed")
        return layers

    def _grow(self, columns: int) -> None:
        self.lengths = self.lengths + columns
        self._width += columns
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), columns)], dim=1)

    def _padding_mask(self) -> Tensor | None:
        return None if self._mask is None else self._mask.long()

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        # Ended sequences that run along in a batch may pass the last position that the model knows.
        self._counted.update(passes=1, tokens=ids.numel())
        options = {self._cache_argument: self._cache}
        if self._takes_positions:
            options["position_ids"] = positions.clamp(max=self._last_position)
        output = self.network(input_ids=ids, attention_mask=mask, use_cache=True, **options, **self._last_only)
        return output.logits if self._last_only else output[0]
