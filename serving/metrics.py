"""What a server counts, as Prometheus reads it at /metrics."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from answering.answer import Answer
from serving.errors import ApiError
from utils import count_tokens

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The counters of one server; safe to use from many threads."""

    def __init__(self):
        self._registry = CollectorRegistry()

        def make(kind: type, name: str, text: str, labels: tuple[str, ...] = (), **more):
            return kind(f"nudged_{name}", text, labels, registry=self._registry, **more)

        self._requests = make(Counter, "requests", "Requests, by route and status.", ("route", "status"))
        self._answers = make(
            Counter, "answers", "Answers that were written, by writer and why they ended.", ("by", "stop_reason")
        )
        self._tokens = make(Counter, "tokens", "Tokens of answers (cl100k_base), by who wrote them.", ("by",))
        self._share = make(
            Histogram,
            "share",
            "The nudging model's share of an answer's tokens.",
            buckets=[n / 10 for n in range(1, 11)],
        )
        self._first = make(
            Histogram, "time_to_first_text_seconds", "From a request to its first final text.", buckets=SECONDS
        )
        self._seconds = make(Histogram, "answer_seconds", "From a request to the end of an answer.", buckets=SECONDS)
        self._failures = make(Counter, "failures", "Answers that failed, by the code of their error.", ("code",))
        self._upstream = make(Counter, "upstream_failures", "Answers that failed because a model did not answer.")
        self._left = make(Counter, "left", "Answers that nobody waited for to their end.")
        self.writing = make(Gauge, "writing", "Answers that are being written or wait for it.")

    def request(self, route: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()

    def first_text(self, seconds: float) -> None:
        """Count an answer's first text."""
        self._first.observe(seconds)

    def answered(self, answer: Answer, by: str, seconds: float) -> None:
        """Count an answer that is whole."""
        self._answers.labels(by, answer.stop_reason).inc()
        self._seconds.observe(seconds)
        nudged, total = sum(map(count_tokens, answer.nudging_words)), count_tokens(answer.raw_text)
        self._tokens.labels("nudging").inc(nudged)
        self._tokens.labels("base").inc(max(0, total - nudged))
        if by == "pair" and total:
            self._share.observe(answer.rate)

    def failed(self, error: ApiError) -> None:
        """Count an answer that failed."""
        self._failures.labels(error.code or "").inc()
        if error.code == "upstream_error":
            self._upstream.inc()

    def left(self) -> None:
        """Count an answer that nobody waited for."""
        self._left.inc()

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
