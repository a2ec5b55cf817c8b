"""What forward passes cost, by how many new tokens go in: estimates for the choice of the next pass, and of how far drafts look."""

import itertools
from bisect import bisect_left
from collections import deque
from statistics import median

KEPT = 9  # of the last passes of a size, whose median is its cost


class PassCosts:
    """Seconds of a pass for each of a few sizes (a pass of n new tokens counts as one of the next larger size), as medians.

    One slow pass (a pause, a first run, another graph's capture) moves nothing that follows.
    """

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes
        self._seconds: dict[int, deque[float]] = {}
        self._table: list[tuple[int, float]] = []

    def record(self, tokens: int, seconds: float) -> None:
        """A pass over that many new tokens has taken so long; passes larger than all sizes are no use."""
        at = bisect_left(self.sizes, tokens)
        if at == len(self.sizes):
            return
        self._seconds.setdefault(self.sizes[at], deque(maxlen=KEPT)).append(seconds)
        self._table = []

    def forget(self) -> None:
        """Nothing is known any more."""
        self._seconds, self._table = {}, []

    @property
    def table(self) -> list[tuple[int, float]]:
        """The sizes that were measured, with their seconds; one over fewer tokens costs no more than one over more."""
        if not self._table:
            known = [(size, median(seconds)) for size, seconds in sorted(self._seconds.items())]
            least, table = float("inf"), []
            for size, seconds in reversed(known):
                least = min(least, seconds)
                table.append((size, least))
            self._table = table[::-1]
        return self._table

    def of(self, tokens: float) -> float:
        """Seconds of a pass over that many new tokens; between two sizes that were measured, what lies between them.

        Raises:
            IndexError: nothing was measured.
        """
        table = self.table
        if tokens >= table[-1][0]:
            return table[-1][1] * tokens / table[-1][0]
        for (a, cost_a), (b, cost_b) in itertools.pairwise(table):
            if a <= tokens <= b:
                return cost_a + (cost_b - cost_a) * (tokens - a) / (b - a)
        return table[0][1]
