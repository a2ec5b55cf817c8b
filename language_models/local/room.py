"""How much room the cache of a graph engine has, and how it grows."""

from typing import TYPE_CHECKING

from language_models.interface import ModelError
from language_models.local.devices import free_memory, out_of_memory
from language_models.local.loading import reason_of

if TYPE_CHECKING:
    from language_models.local.graph_engine import GraphEngine

# Of the cache at first, in tokens of each slot: at least, and at most where nobody says how long texts will be.
FIRST_ROOM, EXPECTED = 512, 4096
SHARE_OF_FREE = 0.25  # of the free memory, for the cache at first: other models may follow


class Room:
    """Makes room for texts in the cache. Graphs have its addresses, so they are captured again where it grows."""

    def __init__(self, engine: "GraphEngine"):
        self.engine = engine
        self._too_long: int | None = None  # tokens of the shortest text for which there was no memory

    def begin(self, expected_tokens: int | None) -> None:
        """Make the cache as large at once as texts are expected to become, since to grow later throws all graphs away.

        That is `expected_tokens`, or else the context window up to EXPECTED tokens, or half of that, or a quarter, ... where it
        takes more than SHARE_OF_FREE of the GPU's free memory; FIRST_ROOM tokens at least, and on a CPU. The cache has some
        layers already, which tell what a token takes.
        """
        engine, cache = self.engine, self.engine.cache
        least = min(FIRST_ROOM, engine.longest)
        room = min(engine.longest, expected_tokens or EXPECTED) if engine.device.type == "cuda" else least
        most = (free_memory(engine.device) or 0) * SHARE_OF_FREE
        while room > least and cache.bytes * room / cache.capacity > most:
            room //= 2
        try:
            cache.make_room(max(room, least), exactly=True)
        except Exception as error:
            if not out_of_memory(error):
                raise
            engine.tell(f"{engine.name}: memory is short, so the cache begins small ({reason_of(error)})")

    def make(self, length: int) -> None:
        """Have room for texts of so many tokens.

        Raises:
            ModelError: there is no memory for it. What is cached stays as it is.
        """
        engine, cache = self.engine, self.engine.cache
        if length <= cache.capacity:
            return
        if not self._is_useless(length):
            engine.wait()
            engine.sizes_made.drop()  # first: their memory is given back
            for exactly in (False, True):
                try:
                    cache.make_room(length, exactly)
                    return
                except Exception as error:
                    if not out_of_memory(error):
                        raise
            self._too_long = min(length, self._too_long or length)
        size = cache.bytes * length / max(1, cache.capacity) / 1e9
        raise ModelError(
            f"{engine.name}: there is no memory on {engine.device} for the cache of a text of {length} tokens ({size:.1f} GB for "
            f"{cache.slots} samples); lower --num_threads, or take another --dtype"
        )

    def _is_useless(self, length: int) -> bool:
        """Whether there is no use in throwing graphs away for more room."""
        if self._too_long is not None and length >= self._too_long:
            return True
        engine, cache = self.engine, self.engine.cache
        free = free_memory(engine.device) if engine.device.type == "cuda" and cache.layers else None
        # A layer's old tensors go when its new ones are filled.
        needed = cache.bytes * ((1 + 1 / max(1, len(cache.layers))) * length / max(1, cache.capacity) - 1)
        return free is not None and needed > free + engine.sizes_made.pool_bytes
