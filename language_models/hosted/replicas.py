"""Several servers of one model as one: a sample keeps to its own, and where that stops answering, the others take over.

Keeping to one server keeps its prefix cache warm: the prompts of one sample each continue the one before.
"""

import functools
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from language_models.cancelling import Cancelled
from language_models.hosted.background import begin
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.probe_requests import ProbeWait, Progress
from language_models.hosted.resumed_stream import ResumedStream
from language_models.hosted.retries import RetryPolicy, persist
from language_models.hosted.server_report import ServerReport
from language_models.hosted.streams import EventStream
from language_models.hosted.tokenizers import AnyTokenizer
from language_models.interface import (
    Completion,
    LanguageModel,
    ModelError,
    SamplingParams,
    TokenStream,
    TransientError,
    Usage,
)
from language_models.tokenizing import TextTokenizer

T = TypeVar("T")

_NOT_ASKED: Any = object()
FAILURES_IN_A_ROW = 3
LONG_WAIT = 10.0  # seconds; one that is not passed over in silence
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 300.0  # seconds that a replica is left out, doubling


def preference(sample_id: object, hosts: list[str]) -> list[int]:
    """The order in which a sample asks servers (indices of `hosts`), the same in every process.

    Each sample has an order of its own, so that the samples of a server that is left out spread over all others.
    """

    def weight(i: int) -> bytes:
        return hashlib.blake2b(f"{hosts[i]}\n{sample_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return sorted(range(len(hosts)), key=weight)


@dataclass
class _Health:
    """`failures` in a row; left out until `out_until` on the clock, for `pause` seconds the next time.

    `before`: both as they were before the one request that tries a server which was left out, while that is under way.
    """

    failures: int = 0
    out_until: float | None = None
    pause: float = FIRST_PAUSE
    before: tuple[float, float] | None = None


class Replicas:
    """One model on one or several servers; safe to use from many threads.

    A server that does not answer is left out, with one warning, and tried again by a single request after 30 s, then after
    twice that, up to 5 minutes. Where all are left out, all are asked, for as long as `retry_policy` says.
    """

    def __init__(
        self,
        endpoints: list[OpenAIEndpoint],
        retry_policy: RetryPolicy,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.endpoints = endpoints
        self.name = endpoints[0].name
        self.retry_policy = retry_policy
        self.reports: list[ServerReport] = []
        self.packages = ("openai", "httpx2")
        self._warn = warn
        self._clock = clock
        self._health = [_Health() for _ in endpoints]
        self._asking = 0  # requests that are being answered
        self._answered_at = clock()
        self._told_to_wait = False
        self._lock = threading.Lock()
        self._asked_once = threading.Lock()
        self._context_length: int | None = _NOT_ASKED
        self._tokenizer: TextTokenizer | None = _NOT_ASKED

    @property
    def usage(self) -> Usage:
        """What was asked of all servers together."""
        total = Usage()
        for endpoint in self.endpoints:
            total.add(endpoint.usage)
        return total

    @property
    def usage_by_host(self) -> dict[str, dict[str, int]]:
        """What was asked of each server, as JSON has it."""
        return {endpoint.shown_host: asdict(endpoint.usage) for endpoint in self.endpoints}

    @property
    def report(self) -> dict | list[dict]:
        """What the probe found out, as JSON has it: of the only server, or of each."""
        found = [asdict(report) for report in self.reports]
        return found if len(found) > 1 else found[0]

    def streams(self, logprobs: bool) -> bool:
        """Whether completions can be streamed from every server that was probed, with log-probabilities if need be."""
        found = [report.streams_logprobs if logprobs else report.streams for report in self.reports]
        return all(can for can in found if can is not None)

    def set_retry_policy(self, retry_policy: RetryPolicy) -> None:
        """Have failed requests be sent again so from now on."""
        self.retry_policy = retry_policy
        for endpoint in self.endpoints:
            endpoint.retry_policy = retry_policy

    @property
    def context_length(self) -> int | None:
        """See SharedModel; the least of what the servers tell."""
        with self._asked_once:
            if self._context_length is _NOT_ASKED:
                told = [length for endpoint in self.endpoints if (length := endpoint.find_context_length())]
                self._context_length = min(told, default=None)
            return self._context_length

    def tokenizer(self) -> TextTokenizer | None:
        """See SharedModel; any server's that answers."""
        with self._asked_once:
            if self._tokenizer is _NOT_ASKED:
                found = [one for endpoint in self.endpoints if (one := endpoint.find_tokenizer())]
                self._tokenizer = AnyTokenizer(found) if found else None
            return self._tokenizer

    def check_alive(self, seconds: float) -> None:
        """See SharedModel; one server that answers is enough. All are asked side by side."""
        if len(self.endpoints) == 1:
            return self.endpoints[0].check_alive(seconds)
        asking = [begin(functools.partial(endpoint.check_alive, seconds)) for endpoint in self.endpoints]
        for answer in as_completed(asking):
            if answer.exception() is None:
                return None
        raise asking[0].exception()

    def close(self) -> None:
        """End all requests in flight, whose answers nobody will read; what they say of that is not told."""
        self._warn = lambda line: None
        for endpoint in self.endpoints:
            endpoint.http.close()

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it."""
        return _SampleView(self, preference(sample_id, [endpoint.host for endpoint in self.endpoints]))

    def probe(
        self,
        logprobs: int | None,
        family: str = "",
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> list[ServerReport]:
        """Probe all servers side by side (see OpenAIEndpoint.probe); one that does not answer is left out for now, unless all are.

        Raises:
            ModelError: no server answers, or one cannot do what is needed.
        """
        limit = math.inf if self.retry_policy.rate_limit_seconds is None else self.retry_policy.outage_seconds
        waits = [
            ProbeWait(endpoint.where, limit, endpoint.request_timeout, self.retry_policy.retries, self._warn)
            for endpoint in self.endpoints
        ]

        def probe(endpoint: OpenAIEndpoint, progress: Progress) -> ServerReport:
            return endpoint.probe(logprobs, family, temperature=temperature, top_p=top_p, seed=seed, progress=progress)

        probing = [
            begin(functools.partial(probe, endpoint, wait.progress))
            for endpoint, wait in zip(self.endpoints, waits, strict=True)
        ]
        reports: list[ServerReport] = []
        missing: list[tuple[int, TransientError]] = []
        for i, (endpoint, wait) in enumerate(zip(self.endpoints, waits, strict=True)):
            try:
                reports.append(wait.until_done(probing[i]))
            except TransientError as error:
                missing.append((i, error))
                reports.append(ServerReport(endpoint.shown_host, self.name, warnings=[str(error)]))
        if len(missing) == len(self.endpoints):
            raise missing[0][1]
        probed = next(e for i, e in enumerate(self.endpoints) if i not in dict(missing))
        for i, _ in missing:
            self.endpoints[i].adopt(probed)
            self._leave_out(i, self._health[i])
        self.reports = reports
        return reports

    def complete(self, order: list[int], prompt: str, params: SamplingParams) -> Completion:
        """Continue a prompt (see LanguageModel) on the first server of an order that answers."""
        usage = Usage()

        def ask(i: int) -> Completion:
            spent = Usage()
            try:
                return self.endpoints[i].attempt(prompt, params, spent)
            except TransientError:
                spent.retries += 1
                raise
            finally:
                self.endpoints[i].count(spent)
                usage.add(spent)

        completion = persist(lambda: self._ask_in_turn(order, ask), self.retry_policy, Usage(), self._waiting())
        return Completion(completion.text, completion.tokens, completion.finish_reason, usage)

    def stream(self, order: list[int], prompt: str, params: SamplingParams) -> TokenStream:
        """Continue a prompt token by token (see LanguageModel) on the first server of an order that answers.

        Where a stream breaks off, the next server in order goes on.
        """
        asked = order[0]

        def open_after(text: str, missing: SamplingParams, usage: Usage) -> EventStream:
            def ask(i: int) -> EventStream:
                nonlocal asked
                asked = i
                try:
                    return self.endpoints[i].attempt_stream(prompt + text, missing)
                except TransientError:
                    usage.retries += 1
                    self.endpoints[i].count(Usage(retries=1))
                    raise

            return persist(lambda: self._ask_in_turn(order, ask), self.retry_policy, Usage(), self._waiting())

        def failed(error: TransientError) -> None:
            self.endpoints[asked].count(Usage(retries=1))
            self._failed(asked, error)

        return ResumedStream(open_after, params, self.retry_policy.retries, failed)

    def _ask_in_turn(self, order: list[int], ask: Callable[[int], T]) -> T:
        """The answer of the first server in order that gives one; else the failure that passes first."""
        failures: list[TransientError] = []
        with self._lock:
            self._asking += 1
        try:
            for i in self._worth_asking(order):
                try:
                    answer = ask(i)
                except TransientError as error:
                    failures.append(error)
                    self._failed(i, error)
                except Cancelled:
                    self._not_known(i)
                    raise
                except ModelError:  # an answer all the same
                    self._answered(i)
                    raise
                else:
                    self._answered(i)
                    return answer
        finally:
            with self._lock:
                self._asking -= 1
        # The last one, if any is to be asked again soon; else the one that asks for the shortest wait.
        soon = [error for error in failures if error.retry_after is None]
        raise soon[-1] if soon else min(failures, key=lambda error: error.retry_after)

    def _waiting(self) -> Callable[[TransientError, float], None]:
        """What says, once for all samples, that a request is held for long, and with it every other."""
        began = self._clock()

        def waiting(error: TransientError, seconds: float) -> None:
            with self._lock:
                short = self._clock() + seconds < began + LONG_WAIT
                others = self._asking or self._answered_at > began
                if short or others or self._told_to_wait or self._all_left_out:
                    return
                self._told_to_wait = True
            self._warn(f"warning: {error}; asking again in {seconds:.0f} s, {self.retry_policy.in_words(error)}")

        return waiting

    def _worth_asking(self, order: list[int]) -> Iterator[int]:
        """The servers that are not left out, or whose time has come to be tried again; all of them if there is none."""
        asked = False
        for i in order:
            if self._may_ask(i):
                asked = True
                yield i
        if not asked:
            yield from order

    def _may_ask(self, i: int) -> bool:
        health = self._health[i]
        with self._lock:
            if health.out_until is None:
                return True
            if self._clock() < health.out_until:
                return False
            before = health.out_until, health.pause
            self._leave_out(i, health)  # the others wait for what this one request finds out
            health.before = before
            return True

    def _not_known(self, i: int) -> None:
        """A request was cancelled, which says nothing of its server: if it was to try it, the next one does."""
        health = self._health[i]
        with self._lock:
            if health.before is not None:
                (health.out_until, health.pause), health.before = health.before, None

    def _answered(self, i: int) -> None:
        health = self._health[i]
        with self._lock:
            told, self._told_to_wait, self._answered_at = self._told_to_wait, False, self._clock()
            health.failures, health.before = 0, None
            if health.out_until is None and not told:
                return
            health.out_until, health.pause = None, FIRST_PAUSE
        self._warn(f"{self.endpoints[i].where} answers again")

    def _failed(self, i: int, error: TransientError) -> None:
        health = self._health[i]
        health.before = None
        # A connection that was cut says little of a server that takes the next one.
        gone = error.unreachable and health.out_until is None and not self.endpoints[i].answers()
        with self._lock:
            health.failures += 1
            if health.out_until is not None or not (gone or health.failures >= FAILURES_IN_A_ROW):
                return
            self._leave_out(i, health)
            told, self._told_to_wait = self._told_to_wait, False
            none_left = self._all_left_out
        how_long = self.retry_policy.in_words(error)
        if len(self.endpoints) > 1:
            self._warn(f"warning: {error}; it is left out for now, its samples go to the other replicas")
            if none_left:
                self._warn(f"warning: no replica of {self.name} answers; asking all again for a while, {how_long}")
        elif not told:
            self._warn(f"warning: {error}; asking again for a while, {how_long}")

    @property
    def _all_left_out(self) -> bool:
        return all(health.out_until is not None for health in self._health)

    def _leave_out(self, i: int, health: _Health) -> None:
        health.out_until = self._clock() + health.pause
        health.pause = min(LONGEST_PAUSE, 2 * health.pause)


@dataclass(frozen=True)
class _SampleView:
    """Replicas as one sample sees them."""

    replicas: Replicas
    order: list[int]

    @property
    def name(self) -> str:
        return self.replicas.name

    @property
    def runs_ahead(self) -> bool:
        return True

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        return self.replicas.complete(self.order, prompt, params)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> TokenStream:
        return self.replicas.stream(self.order, prompt, params)
