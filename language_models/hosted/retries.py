"""How long a failed request is sent again: by tries, by time, and by what the server asks for."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from language_models.cancelling import pause
from language_models.interface import TransientError, Usage

T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling
LONGEST_RETRY_AFTER = 1e7  # seconds; what is asked for beyond it is no number to count with
RATE_LIMITED = 429


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failed request is sent again; with `retries` 0 not at all.

    `retries`: how often, where the server answers with a failure or too late. `outage_seconds`: for how long at least, where it
    cannot be reached at all, as while it is started again. `rate_limit_seconds`: for how long, where it says that too much is
    asked of it (status 429); None for as often as after other failures. `until`: when all waiting ends, on the monotonic clock.
    """

    retries: int = 8
    outage_seconds: float = 0.0
    rate_limit_seconds: float | None = None
    until: float = math.inf

    @property
    def longest_asked_for(self) -> float:
        """For how many seconds in all a server is waited for that asks for it (Retry-After)."""
        return max(self.outage_seconds, self.rate_limit_seconds or 0.0)

    def in_words(self, error: TransientError) -> str:
        """For how long a request is sent again after such a failure, and which option says so."""
        if error.unreachable and self.outage_seconds > 0:
            return f"for at least {self.outage_seconds:g} s (--max_outage)"
        if error.status == RATE_LIMITED and self.rate_limit_seconds is not None:
            return f"for up to {self.rate_limit_seconds:g} s (--max_outage)"
        return f"up to {self.retries} times (--max_retries)"


def persist(
    attempt: Callable[[], T],
    retry_policy: RetryPolicy,
    usage: Usage,
    waiting: Callable[[TransientError, float], None] = lambda error, seconds: None,
) -> T:
    """Call a function again and again until it does not raise TransientError; its last error where the policy gives up.

    Between tries pass 0.5 s doubling up to 8 s, with jitter, or the seconds that the server asks for.

    Args:
        usage: counts the retries.
        waiting: told of each failure that is waited for, and for how many seconds.
    """
    patience = _Patience(retry_policy)
    while True:
        try:
            return attempt()
        except TransientError as error:
            seconds = patience.seconds_after(error)
            usage.retries += 1
            waiting(error, seconds)
            pause(seconds, time.sleep)


class _Patience:
    """What a retry policy has left for one request."""

    def __init__(self, policy: RetryPolicy):
        self.policy = policy
        self._failures = self._misses = self._limits = 0
        self._began: float | None = None  # the first failure of any kind
        self._outage_began: float | None = None
        self._limit_began: float | None = None

    def seconds_after(self, error: TransientError) -> float:
        """How long to wait after a failure.

        Raises:
            TransientError: it is not worth waiting for any longer.
        """
        policy, now = self.policy, time.monotonic()
        self._began = self._began or now
        by_time = error.status == RATE_LIMITED and policy.rate_limit_seconds is not None
        left = max(LONGEST_WAIT, policy.longest_asked_for - (now - self._began))  # for what the server asks for
        if error.unreachable:
            self._misses += 1
            self._outage_began = self._outage_began or now
            waiting = policy.retries > 0 and now - self._outage_began < policy.outage_seconds
            if self._misses > policy.retries and not waiting:
                raise error
        elif by_time:
            self._limits += 1
            self._limit_began = self._limit_began or now
            left = policy.rate_limit_seconds - (now - self._limit_began)
            if policy.retries == 0 or left <= 0:
                over = f"--max_outage {policy.rate_limit_seconds:g} (seconds) is over"
                raise _given_up(error, over if policy.retries else "")
        else:
            self._failures += 1
            self._misses, self._outage_began, self._limits, self._limit_began = 0, None, 0, None
            if self._failures > policy.retries:
                raise error
        seconds = seconds_to_wait(error, self._failures + self._misses + self._limits)
        if by_time and error.retry_after is None:
            seconds = min(seconds, left)
        if error.retry_after is not None and seconds > left:
            longest = policy.rate_limit_seconds if by_time else policy.longest_asked_for
            raise _given_up(
                error, f"the server asks to wait for {seconds:.0f} s, and --max_outage allows {longest:g} s in all"
            )
        if now >= policy.until or (error.retry_after is not None and now + seconds > policy.until):
            raise _given_up(error, f"--max_outage {policy.outage_seconds:g} (seconds) is over")
        return min(seconds, policy.until - now)  # a last try at its end


def _given_up(error: TransientError, why: str) -> TransientError:
    """A failure with the words why it is the last."""
    if not why:
        return error
    return TransientError(f"{error}; {why}", error.status, unreachable=error.unreachable, retry_after=error.retry_after)


def seconds_to_wait(error: TransientError, tries: int) -> float:
    """How long to wait after a failure, the `tries`-th in a row."""
    if error.retry_after is not None:
        return error.retry_after
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries - 1, 10)) * random.uniform(0.75, 1)


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait for (RFC 9110, 10.2.3: seconds or a date; OpenAI: milliseconds); None without any."""
    asked = headers.get("retry-after", "")
    for text, unit in ((headers.get("retry-after-ms", ""), 0.001), (asked, 1.0)):
        with contextlib.suppress(ValueError):
            if 0 < (seconds := float(text) * unit) < math.inf:
                return min(seconds, LONGEST_RETRY_AFTER)
    until = _timestamp(asked)
    if until is None:
        return None
    # By the server's own clock, where it tells the time.
    seconds = until - (_timestamp(headers.get("date", "")) or time.time())
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None


def _timestamp(date: str) -> float | None:
    """The seconds since 1970 of an HTTP date; None where it is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
