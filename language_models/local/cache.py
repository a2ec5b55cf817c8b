"""What of a sample's text is in a model's cache, and what the model is known to say about each place of it."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from language_models.cancelling import LOOK_SECONDS, check, current
from language_models.local.drafts import DraftRate
from language_models.local.engine import Engine
from language_models.local.segments import NextToken, Sampling, Segment
from language_models.local.worker import Worker

if TYPE_CHECKING:
    from language_models.local.view import LocalStream


class CacheSlots:
    """The slots of a model's cache: each is one sample's, until the sample ends or another one needs the slot more."""

    def __init__(self, engine: Engine, worker: Worker):
        self.engine, self.worker = engine, worker
        self._taken: OrderedDict[CachedSample, int] = OrderedDict()  # the longest unused first
        # Not a plain lock: a sample may be dropped by the thread that holds it.
        self._changed = threading.Condition(threading.RLock())
        self._riders: dict[CachedSample, None] = {}  # the first first

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
                    self._changed.wait(None if current() is None else LOOK_SECONDS)
                    check()
                    continue
                sample.busy = True
                return self._taken[sample]

    def keep(self, sample: "CachedSample") -> int | None:
        """The slot of a sample, kept for it until it is put down, if it still has one."""
        with self._changed:
            slot = self._taken.get(sample)
            sample.busy = slot is not None
            return slot

    def riders(self) -> "list[CachedSample]":
        """The samples that may ride along in the next pass."""
        return list(self._riders) if self._riders else []

    def ride(self, sample: "CachedSample", wanted: bool) -> None:
        """Have a sample ride along in passes, or no longer."""
        if wanted:
            self._riders[sample] = None
        else:
            self._riders.pop(sample, None)

    @property
    def free(self) -> int:
        """How many slots no sample has."""
        return self.engine.cache.slots - len(self._taken)

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
            self._riders.pop(sample, None)
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
        self.readers: list[weakref.ref] = []  # streams that may still read what is known here
        self._until = 0  # length of the text that is written as a rider
        self._ends: frozenset[int] = frozenset()
        self._lock = threading.RLock()
        self._draft: tuple[DraftRate, int, int, int] | None = None  # source, its beginning, length, how far it was used

    def forget(self) -> None:
        """The slot of the cache is another sample's now."""
        self.tokens, self.known = [], {}
        self.stop_riding()

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
            self.stop_riding()  # the thread that asks may be the one that lets riders in
            slot = self.slots.take(self)
            try:
                same = _common(self.tokens, ids)
                start = min(same, n - 1)
                if len(self.tokens) - same > 2:
                    self.cut_off = self.tokens[max(0, same - 2) :]
                self._cut(start)
                new = ids[start:] + drafted
                segment = Segment(slot, start, new, len(drafted) + 1, top, sampling, ahead)
                found = self.slots.worker.run(self.slots.engine, segment, self.slots.riders)
                self.tokens = ids + drafted + [token.token for token in found[len(drafted) : -1]]
                if sampling:
                    return found[0]
                self.known.update(zip(range(n, n + len(found)), found, strict=True))
            finally:
                self.slots.put_down(self)
            if rate and drafted:
                self._draft = rate, n, len(drafted), n
            return found[0]

    def ride(self, until: int, ends: frozenset[int]) -> None:
        """Have the greedy continuation of what is here written up to a length, or an end of sequence, in passes that run anyway."""
        with self._lock:
            self._until, self._ends = max(until, self._until), ends
            self.slots.ride(self, self._missing() > 0)

    def stop_riding(self) -> None:
        """Nothing more is written here but what is asked for."""
        self.slots.ride(self, False)
        self._until = 0

    def _missing(self) -> int:
        """How many tokens are to be written as a rider."""
        last = self.known.get(len(self.tokens))
        if last is None or last.token in self._ends:
            return 0
        return max(0, self._until - len(self.tokens) - 1)

    def board(self) -> Segment | None:
        """See Rider. The sample's own lock is held until it leaves: who reads it meanwhile waits for the pass."""
        if not self._lock.acquire(blocking=False):
            return None  # its own reader is about to ask for something
        n, missing, slot = len(self.tokens), self._missing(), None
        if missing:
            slot = self.slots.keep(self)
        if slot is None:
            self.stop_riding()
            self._lock.release()
            return None
        last = self.known[n]
        return Segment(slot, n, [last.token], 1, len(last.top), None, min(missing, self.slots.engine.slice) - 1)

    def leave(self, found: list[NextToken] | None) -> None:
        """See Rider."""
        try:
            n = len(self.tokens)
            if found is None:
                self.stop_riding()
            else:
                tokens = [self.known[n].token, *(token.token for token in found)]
                self.tokens += tokens[:-1]
                self.known.update(zip(range(n + 1, n + 1 + len(found)), found, strict=True))
                end = next((i for i, token in enumerate(tokens[1:]) if token in self._ends), None)
                if end is not None or not self._missing():
                    self.stop_riding()
        finally:
            self.slots.put_down(self)
            self._lock.release()

    def at_hand(self, ids: list[int], most: int) -> list[NextToken]:
        """What is known to follow a text, without any pass: at most so many tokens; none while a pass writes more."""
        if not self._lock.acquire(blocking=False):
            return []
        try:
            at, found = len(ids), []
            if self.tokens[:at] == ids:
                while len(found) < most and (token := self.known.get(at)) is not None:
                    found.append(token)
                    if self.tokens[at : at + 1] != [token.token]:
                        break
                    at += 1
            return found
        finally:
            self._lock.release()

    @property
    def held(self) -> bool:
        """Whether a stream may still read what is known here."""
        self.readers = [ref for ref in self.readers if (stream := ref()) is not None and stream.open]
        return bool(self.readers)

    def read_by(self, stream: "LocalStream") -> None:
        """A stream reads here from now on; those that have ended are no longer kept in mind."""
        self.readers = [ref for ref in self.readers if ref() is not None] + [weakref.ref(stream)]

    def common(self, ids: list[int]) -> int:
        """How many tokens of a text are here at its beginning; the last one may be what is known to come next."""
        same, here = _common(self.tokens, ids), self.tokens
        if same == len(here) == len(ids) - 1 and (last := self.known.get(same)) and last.token == ids[-1]:
            return same + 1
        return same

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
    end = min(len(a), len(b))
    if a[:end] == b[:end]:
        return end
    same = 0
    while end - same > 1:
        middle = (same + end) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            end = middle
    return same
