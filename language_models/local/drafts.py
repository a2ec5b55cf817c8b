"""How far ahead a model looks: tokens that may well follow are put into a pass, and those that it would write itself are kept.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023 (arXiv 2211.17192), section 3, for greedy
decoding: a draft changes the number of passes and never the text. Looking ahead pays where a pass over several tokens costs
little more than one over a single token; how much more is measured (`Engine.cost`), and so is how often drafts are right.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

LOOKUP_NGRAMS = (3, 2)
# A draft model that is less certain than this stops drafting.
CERTAIN = 0.5
TRY_EVERY = 64


@dataclass
class DraftRate:
    """How often the next drafted token turns out to be of use, over the last hundred or so; one for each source of drafts."""

    used: float = 5.6
    offered: float = 8.0
    _not_tried: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rate(self) -> float:
        """Probability that one more drafted token is used, where those before it are."""
        return self.used / self.offered

    def record(self, offered: int, used: int) -> None:
        """Of a draft of `offered` tokens the first `used` were of use."""
        with self._lock:
            self.used = 0.98**offered * self.used + used
            self.offered = 0.98**offered * self.offered + min(offered, used + 1)

    def length(self, most: int, cost, samples: float, seconds_each: float = 0.0) -> int:
        """The length of a draft that gives the most tokens per second, 0 to `most`.

        Args:
            cost: a function of new tokens in a pass -> seconds.
            samples: how many samples share a pass.
            seconds_each: what it takes to draft one token, for all of them.
        """
        best, best_speed, expected = 0, 1 / cost(samples), 1.0
        for length in range(1, most + 1):
            expected += self.rate**length
            speed = expected / (cost(samples * (1 + length)) + length * seconds_each)
            if speed > best_speed:
                best, best_speed = length, speed
        if best or not most:
            self._not_tried = 0
            return best
        # What does not pay is tried again now and then: the text may have become easier.
        self._not_tried += 1
        if self._not_tried < TRY_EVERY:
            return 0
        self._not_tried = 0
        return 1


def look_up(ids: Sequence[int], elsewhere: Sequence[int]) -> list[int]:
    """What followed the last tokens where they stood before: in `elsewhere` (what was cut off the text), or earlier in the text.

    Saxena, "Prompt Lookup Decoding" (2023).
    """
    for n in LOOKUP_NGRAMS:
        if len(ids) <= n:
            continue
        tail = list(ids[-n:])
        for text, last in ((elsewhere, len(elsewhere) - n - 1), (ids, len(ids) - n - 1)):
            at = _last_place(text, tail, last)
            if at >= 0:
                return list(text[at + n :])
    return []


def _last_place(text: Sequence[int], tail: list[int], last: int) -> int:
    """Where some tokens stand in a text for the last time, at `last` at most; -1 where they do not."""
    if last < 0:
        return -1
    backwards = list(text[last::-1])
    at = -1
    while True:
        try:
            at = backwards.index(tail[0], at + 1)
        except ValueError:
            return -1
        if list(text[last - at : last - at + len(tail)]) == tail:
            return last - at
