"""What of a sample's text is in a model's cache, and what the model is known to say about each place of it."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from language_models.local.drafts import DraftRate
from language_models.local.engine import Engine
from language_models.local.segments import NextToken, Sampling, Segment
from language_models.local.worker import Worker


class CacheSlots:
    """The slots of a model's cache: each is one sample's, until the sample ends or another one needs the slot more."""

    def __init__(self, engine: Engine, worker: Worker):
        self.engine, self.worker = engine, worker
        self._taken: OrderedDict[CachedSample, int] = OrderedDict()  # the longest unused first
        # Not a plain lock: a sample may be dropped by the thread that holds it.
        self._changed = threading.Condition(threading.RLock())

    def take(self, sample: "CachedSample") -> int:
        """The slot of a sample, kept for it until it is put down; where all are taken, the longest unused one becomes its own."""
        with self._changed:
            while True:
                if sample in self._taken:
                    self._taken.move_to_end(sample)
                elif len(self._taken) < self.engine.cache.slots:
                    taken = set(self._taken.values())
                    self._taken[sample] = next(i for i in range(self.engine.cache.slots) if i not in taken)
                elif idle := next((other for other in self._taken if not other.busy), None):
                    self._taken[sample] = self._taken.pop(idle)
                    idle.forget()
                else:
                    self._changed.wait()
                    continue
                sample.busy = True
                return self._taken[sample]

    @property
    def taken(self) -> int:
        """How many slots samples have."""
        return len(self._taken)

    def put_down(self, sample: "CachedSample") -> None:
        """The sample's pass is over; its slot may be given to another one from now on."""
        with self._changed:
            sample.busy = False
            self._changed.notify_all()

    def release(self, sample: "CachedSample") -> None:
        """The sample has ended."""
        with self._changed:
            self._taken.pop(sample, None)
            self._changed.notify_all()


class CachedSample:
    """What of one sample is in the model's cache, and what is known about the tokens there.

    `known[n]` is what follows the first n of `tokens`.
    """

    def __init__(self, slots: CacheSlots):
        self.slots = slots
        self.busy = False
        self.tokens: list[int] = []
        self.known: dict[int, NextToken] = {}
        self.cut_off: list[int] = []
        self._lock = threading.RLock()
        self._draft: tuple[DraftRate, int, int, int] | None = None  # source, its beginning, length, how far it was used

    def forget(self) -> None:
        """The slot of the cache is another sample's now."""
        self.tokens, self.known = [], {}

    def next_token(
        self,
        ids: list[int],
        top: int,
        sampling: Sampling | None = None,
        draft: Callable[[], tuple[DraftRate | None, list[int]]] = lambda: (None, []),
        ahead: int = 0,
    ) -> NextToken:
        """What follows a text, known or from a pass over what of the text is new and over a draft of what may follow it.

        `ahead`: how many tokens after that one are wanted whatever they are, of an engine that writes ahead; no draft then.

        Raises:
            ModelError: the pass failed.
        """
        n = len(ids)
        with self._lock:
            if not sampling and (found := self._known(ids, top)):
                return found
            self._judge_draft()
            if sampling or top > 1 or not self.slots.engine.writes_ahead:
                ahead = 0
            rate, drafted = (None, []) if sampling or ahead else draft()
            slot = self.slots.take(self)
            try:
                same = _common(self.tokens, ids)
                start = min(same, n - 1)
                if len(self.tokens) - same > 2:
                    self.cut_off = self.tokens[max(0, same - 2) :]
                self._cut(start)
                new = ids[start:] + drafted
                found = self.slots.worker.run(
                    self.slots.engine, Segment(slot, start, new, len(drafted) + 1, top, sampling, ahead)
                )
                self.tokens = ids + drafted + [token.token for token in found[len(drafted) : -1]]
                if sampling:
                    return found[0]
                self.known.update(zip(range(n, n + len(found)), found, strict=True))
            finally:
                self.slots.put_down(self)
            if rate and drafted:
                self._draft = rate, n, len(drafted), n
            return found[0]

    def _known(self, ids: list[int], top: int) -> NextToken | None:
        n = len(ids)
        found = self.known.get(n)
        if found is None or len(found.top) < top or self.tokens[:n] != ids:
            return None
        if self._draft and n > self._draft[3]:
            self._draft = (*self._draft[:3], n)
        return found

    def _judge_draft(self) -> None:
        if self._draft:
            rate, begin, length, used = self._draft
            rate.record(length, min(length, used - begin))
            self._draft = None

    def _cut(self, length: int) -> None:
        """Cut the cache back. What is known of its last position stays known, since it depends on the tokens before."""
        if length < len(self.tokens):
            del self.tokens[length:]
            self.known = {n: found for n, found in self.known.items() if n <= length}


def _common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    if a[: len(b)] == b:
        return len(b)
    if b[: len(a)] == a:
        return len(a)
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
