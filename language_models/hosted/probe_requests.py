"""The requests of a probe: those of a run, with less patience, and with word of how far it is."""

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import httpx2

from language_models.hosted.retries import persist
from language_models.interface import Completion, ModelError, SamplingParams, Token, TransientError, Usage

if TYPE_CHECKING:
    from language_models.hosted.endpoint import OpenAIEndpoint

T = TypeVar("T")
ABILITY_SECONDS = 60.0  # for a token or two; a server that takes longer is taken not to have the ability asked for
SILENCE_SECONDS = 10.0  # that a server may take for one answer, however little --max_outage allows in all
SAY_AFTER, SAY_EVERY = 10.0, 60.0  # seconds of waiting
POLL_SECONDS = 0.2  # a wait without a limit would keep signals from being handled


@dataclass
class Progress:
    """How far a probe is, for whoever waits for it: what it asks for, what went wrong last, and when it last had an answer."""

    asks_for: str = "its list of models"
    trouble: str = ""
    answered_at: float = field(default_factory=time.monotonic)

    def answered(self) -> None:
        """Note that the server has answered."""
        self.trouble, self.answered_at = "", time.monotonic()


class ProbeWait:
    """Somebody waiting for the probe of a server: not in silence, and not for ever.

    Args:
        where: the model and its host.
        limit: seconds for all requests of the probe together; a server that answers within SILENCE_SECONDS may take longer.
        request_timeout, retries: of one request; for what is said.
        say: told what is waited for, after SAY_AFTER seconds and then every SAY_EVERY.
    """

    def __init__(self, where: str, limit: float, request_timeout: float, retries: int, say: Callable[[str], None]):
        self.where, self.limit, self.say = where, limit, say
        in_all = "" if limit == math.inf else f" at most {limit:g} s in all (--max_outage),"
        self.rules = (
            f"{in_all} {request_timeout:g} s for one answer (--request_timeout), "
            f"{retries} tries after a failure (--max_retries)"
        )
        self.progress = Progress()

    def until_done(self, probing: "Future[T]") -> T:
        """What the probe has found.

        Raises:
            TransientError: it took too long.
            ModelError: its own.
        """
        began = time.monotonic()
        say_at = began + SAY_AFTER
        while True:
            with contextlib.suppress(TimeoutError):
                return probing.result(POLL_SECONDS)
            if probing.done():
                return probing.result()
            now = time.monotonic()
            if now > began + self.limit and now > self.progress.answered_at + SILENCE_SECONDS:
                what = self.progress.trouble or f"{self.where}: no answer to a request for {self.progress.asks_for}"
                raise TransientError(f"{what}; waited for {now - began:.0f} s (--max_outage {self.limit:g})")
            if now > say_at:
                say_at = now + SAY_EVERY
                trouble = f" ({self.progress.trouble})" if self.progress.trouble else ""
                self.say(
                    f"waiting for {self.where} to answer a request for {self.progress.asks_for}{trouble}; "
                    f"{now - began:.0f} s so far,{self.rules}"
                )


class ProbeRequests:
    """What a probe asks a server, through an endpoint of its own, whose retry policy says until when it may wait."""

    def __init__(self, endpoint: "OpenAIEndpoint", progress: Progress):
        self.endpoint, self.progress = endpoint, progress

    def seconds(self, most: float | None = None) -> float:
        """How long a request may take: at most so many seconds, and no longer than the probe as a whole."""
        usual = self.endpoint.request_timeout
        left = max(SILENCE_SECONDS, self.endpoint.retry_policy.until - time.monotonic())
        return min(left, usual, usual if most is None else most)

    def persist(self, asks_for: str, attempt: Callable[[], T], retries: int | None = None) -> T:
        """Try until the server answers, or the probe has waited long enough; see retries.persist.

        Args:
            asks_for: what, in words.
            retries: after other failures than rate limits and outages; by default the run's own.
        """
        policy = self.endpoint.retry_policy
        if retries is not None:
            policy = replace(policy, retries=min(retries, policy.retries))
        self.progress.asks_for = asks_for

        def waiting(error: TransientError, seconds: float) -> None:
            self.progress.trouble = str(error)

        answer = persist(attempt, policy, Usage(), waiting)
        self.progress.answered()
        return answer

    def complete(self, asks_for: str, prompt: str, params: SamplingParams) -> Completion:
        """A completion as the run asks for it and reads it."""
        timeout = self.seconds()
        return self.persist(asks_for, lambda: self.endpoint.attempt(prompt, params, Usage(), timeout))

    def read(self, asks_for: str, prompt: str, params: SamplingParams, read: Callable[[dict], T]) -> T:
        """A completion as the run asks for it, read in a way of one's own."""
        timeout = self.seconds()
        return self.persist(asks_for, lambda: self.endpoint.ask(prompt, params, Usage(), read, timeout))

    def reply(self, prompt: str, params: SamplingParams) -> dict | None:
        """The reply to a request for an ability; None where the server refuses it or says nothing that can be read."""
        timeout = self.seconds(ABILITY_SECONDS)

        def attempt() -> dict | None:
            try:
                return self.endpoint.ask(prompt, params, Usage(), lambda body: body, timeout)
            except TransientError as error:
                if error.status is None and not error.unreachable:
                    return None
                raise

        try:
            return self.persist("what it can do", attempt, 1)
        except ModelError:
            return None

    def stream(self, prompt: str, params: SamplingParams, begun: list[bool]) -> list[Token]:
        """The tokens of a stream as the run asks for it and reads it; one that is cut is opened once more.

        Args:
            begun: is told of each answer whether it is a stream at all.

        Raises:
            ContextLengthError, TransientError, ModelError: there is none, or it cannot be read.
        """
        timeout = self.seconds(ABILITY_SECONDS)

        def told(response: httpx2.Response) -> None:
            begun.append("json" not in response.headers.get("content-type", ""))

        def read() -> list[Token]:
            attempt = self.endpoint.attempt_stream
            stream = self.persist("a stream", lambda: attempt(prompt, params, timeout, told), 1)
            try:
                tokens = list(stream)
            finally:
                stream.close()
            self.progress.answered()
            if not begun[-1]:
                raise ModelError(f"{self.endpoint.where}: it answers with a whole reply where a stream is asked for")
            if params.logprobs is None and not stream.gives_reason:
                # Where chunks may be several tokens, an end of the answer could not be told from a token limit.
                raise ModelError(f"{self.endpoint.where}: its streams end without a finish_reason")
            return tokens

        try:
            return read()
        except TransientError as error:
            if not error.unreachable or not begun or not begun[-1]:
                raise
            return read()
