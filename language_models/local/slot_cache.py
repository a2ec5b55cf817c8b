"""Keys and values of several samples, each in a slot, in tensors of one size for passes of fixed sizes."""

from torch import Tensor

FIRST_CAPACITY = 256


class SlotCache:
    """Keys and values of all layers, [slots + 1, heads, capacity, size] each; the last slot takes what pads a pass."""

    def __init__(self, slots: int, longest: int):
        self.slots, self.longest = slots, -(-longest // 64) * 64
        self.capacity = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def of_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's tensors; `key` and `value` are [1, heads, tokens, size]."""
        there = self.layers.get(layer)
        if there is None:
            # Zeros: what is masked is multiplied by 0, and must be a number.
            there = tuple(
                new.new_zeros(self.slots + 1, new.shape[1], self.capacity, new.shape[3]) for new in (key, value)
            )
            self.layers[layer] = there
        return there

    def make_room(self, length: int, exactly: bool = False) -> bool:
        """Have room for `length` tokens per slot, and for more to come if not `exactly`; whether the tensors are other ones now.

        Raises:
            torch.OutOfMemoryError: there is none. What was cached is there still, and the capacity what it was, but some tensors
                are other ones, so graphs that use them are to be thrown away.
        """
        if length <= self.capacity:
            return False
        least = -(-length // 64) * 64
        capacity = max(FIRST_CAPACITY, self.capacity)
        while capacity < length:
            capacity *= 2
        capacity = least if exactly else min(capacity, max(self.longest, least))
        for layer, pair in self.layers.items():
            if pair[0].shape[2] >= capacity:  # grown before memory ran out, the last time
                continue
            grown = tuple(old.new_zeros(*old.shape[:2], capacity, old.shape[3]) for old in pair)
            for old, new in zip(pair, grown, strict=True):
                new[:, :, : old.shape[2]] = old
            self.layers[layer] = grown
        self.capacity = capacity
        return True

    def span(self, length: int) -> int:
        """How many cached tokens a pass without kernels looks at: one of a few numbers."""
        span = FIRST_CAPACITY
        while span < length:
            span *= 2
        return min(span, self.capacity)

    @property
    def bytes(self) -> int:
        """What the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.layers.values() for tensor in pair)
