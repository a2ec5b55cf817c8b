"""A layer of transformers' cache with room behind its keys and values, so that a token is appended without copying the others.

Of transformers' own passes alone. The caches of language_models/local belong to its engines, which pad uses as they are
(engine_sequences.py): slots of fixed places for samples that come and go, where this one is a batch that grows together.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

# Room for at least that many positions more, and for an eighth of those that are there.
LEAST_ROOM, ROOM = 64, 8


class GrowingLayer(DynamicLayer):
    """As DynamicLayer, whose `torch.cat` for every token reads and writes the whole cache.

    `keys` and `values`, (B, heads, T, size), are views of the front of `_keys_room` and `_values_room`; where something else has
    come in their place (fewer rows, copies), room is made anew when it is needed.
    """

    _keys_room: Tensor | None = None
    _values_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append keys and values, (B, heads, new, size); returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self._keys_room = _appended(self.keys, key_states, self._keys_room)
        self.values, self._values_room = _appended(self.values, value_states, self._values_room)
        return self.keys, self.values

    def reset(self) -> None:
        """Drop everything."""
        super().reset()
        self._drop_room()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As DynamicLayer's; the room goes with the tensors that it belonged to."""
        super().reorder_cache(beam_idx)
        self._drop_room()

    def batch_select_indices(self, indices: Tensor) -> None:
        """As DynamicLayer's."""
        super().batch_select_indices(indices)
        self._drop_room()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As DynamicLayer's."""
        super().batch_repeat_interleave(repeats)
        self._drop_room()

    def without_room(self) -> DynamicLayer:
        """The same keys and values in transformers' own kind of layer."""
        plain = DynamicLayer()
        if self.is_initialized:
            plain.lazy_initialization(self.keys, self.values)
            plain.keys, plain.values = self.keys, self.values
        return plain

    def _drop_room(self) -> None:
        self._keys_room = self._values_room = None


def growing_cache(config) -> DynamicCache:
    """An empty cache for a model of this configuration."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _appended(there: Tensor, new: Tensor, room: Tensor | None) -> tuple[Tensor, Tensor]:
    length = there.shape[-2] if there.numel() else 0
    end = length + new.shape[-2]
    usable = (
        room is not None
        and there.data_ptr() == room.data_ptr()
        and end <= room.shape[2]
        and (torch.is_inference_mode_enabled() or not room.is_inference())
    )
    if not usable:
        room = new.new_empty(*new.shape[:2], end + max(LEAST_ROOM, end // ROOM), new.shape[3])
        if length:
            room[:, :, :length] = there
    room[:, :, length:end] = new
    return room[:, :, :end], room
