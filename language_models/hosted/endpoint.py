"""A language model behind an OpenAI-compatible server (vLLM first): its /v1/completions, as a LanguageModel."""

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

import httpx2

from command.secrets import without_password
from language_models.hosted.choices import check_count, completion_choice
from language_models.hosted.http import answers, checked, make_client, make_http, place, request
from language_models.hosted.logprobs import has_tokens
from language_models.hosted.probe import PROBE_TOKENS, Probe
from language_models.hosted.probe_requests import Progress
from language_models.hosted.refused_fields import NEUTRAL_SAMPLING, REFUSALS, asks_for_more_tokens, seed_refusals
from language_models.hosted.resumed_stream import ResumedStream
from language_models.hosted.retries import RetryPolicy, persist
from language_models.hosted.server_report import ServerReport
from language_models.hosted.streams import EventStream, Manners
from language_models.hosted.token_texts import END_NAMES, TokenReader, without_cut_character
from language_models.hosted.tokenizers import ServerTokenizer, find_context_length, find_tokenizer
from language_models.interface import (
    CHARACTER_TOKENS,
    Completion,
    LanguageModel,
    ModelError,
    SamplingParams,
    TokenStream,
    Usage,
)

T = TypeVar("T")
ALIVE_PROMPT = "Hello"


class OpenAIEndpoint:
    """One model on one server; safe to call from many threads. `usage` counts all requests since the probe."""

    runs_ahead = True

    def __init__(
        self,
        name: str,
        host: str,
        *,
        api_key: str = "EMPTY",
        max_connections: int = 20,
        request_timeout: float = 600.0,
        retry_policy: RetryPolicy | None = None,
        end_names: tuple[str, ...] = (),
    ):
        self.name = name
        self.host = host.rstrip("/")
        self.shown_host = without_password(self.host)
        self.retry_policy = retry_policy or RetryPolicy()
        self.request_timeout = request_timeout
        self.usage = Usage()
        self.where = place(name, self.host)
        # Completions go through the connection pool itself: openai's own handling of a request takes longer than all the rest here.
        self.http = make_http(self.host, max_connections, request_timeout)
        self.client = make_client(self.host, api_key, self.http)
        self.completions_url = f"{self.client.base_url}completions"
        self.reader = TokenReader(END_NAMES | set(end_names))
        self.neutral_sampling: dict[str, float] = NEUTRAL_SAMPLING[-1]
        self.left_out: frozenset[str] = frozenset()  # fields of requests that the server refuses
        self.stream_options: dict[str, bool] = {}
        self.manners = Manners()
        # Whether the server tells with each chunk how many tokens it has written, where it is asked to.
        self.counts_tokens = False
        self._lock = threading.Lock()

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """See LanguageModel."""
        usage = Usage()
        try:
            return persist(lambda: self.attempt(prompt, params, usage), self.retry_policy, usage)
        finally:
            self.count(usage)

    def attempt(self, prompt: str, params: SamplingParams, usage: Usage, timeout: float | None = None) -> Completion:
        """Continue a prompt (see LanguageModel) by one request, which is counted in `usage` alone.

        Args:
            timeout: seconds that the server may stay silent, if not as long as ever.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request.
        """

        def read(body: dict) -> Completion:
            shown, finish_reason, choice = completion_choice(body, params.max_tokens)
            logprobs = choice.get("logprobs")
            text = without_cut_character(shown, logprobs, finish_reason)
            # llama.cpp lists no token of a character that is not whole.
            half = shown and not text and not has_tokens(logprobs) and params.max_tokens < CHARACTER_TOKENS
            read_tokens = params.logprobs is not None and not half
            tokens = self.reader.read(text, logprobs, finish_reason) if read_tokens else ()
            check_count(body, shown, tokens, params.max_tokens)
            return Completion(text, tokens, finish_reason, usage)

        return self.ask(prompt, params, usage, read, timeout)

    def ask(
        self,
        prompt: str,
        params: SamplingParams,
        usage: Usage,
        read: Callable[[dict], T],
        timeout: float | None = None,
        **more: object,
    ) -> T:
        """Send one request, with `more` fields, and read its reply's JSON object in a way of one's own; see `attempt`."""
        body = self._body(prompt, params) | more

        def call() -> httpx2.Response:
            sent = self.http.build_request("POST", self.completions_url, json=body, timeout=self.timeout(timeout))
            return checked(self.http.send(sent))

        with seed_refusals(params.seed, self.where):
            return request(call, read, where=self.where, client=self.client, usage=usage)

    def timeout(self, seconds: float | None) -> httpx2.Timeout:
        """The timeouts of a request during which the server may stay silent for some seconds; None: for as long as ever."""
        usual = self.http.timeout
        if seconds is None:
            return usual
        return httpx2.Timeout(seconds, connect=min(seconds, usual.connect or seconds), pool=usual.pool)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> TokenStream:
        """See LanguageModel; a draft is not looked at."""

        def open_after(text: str, missing: SamplingParams, usage: Usage) -> EventStream:
            return persist(lambda: self.attempt_stream(prompt + text, missing), self.retry_policy, usage)

        return ResumedStream(open_after, params, self.retry_policy.retries)

    def attempt_stream(
        self,
        prompt: str,
        params: SamplingParams,
        timeout: float | None = None,
        told: Callable[[httpx2.Response], None] = lambda response: None,
    ) -> EventStream:
        """Continue a prompt (see LanguageModel.stream) by one request.

        Args:
            timeout: see `attempt`.
            told: gets the response before it is read.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request; here or while the stream is read.
        """
        body = self._body(prompt, params) | {"stream": True}
        if self.stream_options:
            body["stream_options"] = self.stream_options
        if self.counts_tokens:
            body["timings_per_token"] = True

        def respond() -> httpx2.Response:
            sent = self.http.build_request("POST", self.completions_url, json=body, timeout=self.timeout(timeout))
            response = checked(self.http.send(sent, stream=True))
            told(response)
            return response

        reader = None if params.logprobs is None else self.reader
        with seed_refusals(params.seed, self.where):
            return EventStream(
                respond,
                reader,
                params.max_tokens,
                silence=timeout or self.request_timeout,
                manners=self.manners,
                where=self.where,
                client=self.client,
                count=self.count,
            )

    def _body(self, prompt: str, params: SamplingParams) -> dict:
        asked = {
            name: value for name, value in asdict(params).items() if value is not None and name not in self.left_out
        }
        return {"model": self.name, "prompt": prompt} | asked | self.neutral_sampling

    def count(self, usage: Usage) -> None:
        """Add what was asked of the server to `self.usage`."""
        with self._lock:
            self.usage.add(usage)

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it: there is one server only (see Replicas)."""
        return self

    def find_tokenizer(self) -> ServerTokenizer | None:
        """The tokenizer of the server's model, found out by a try; None where it has none."""
        return find_tokenizer(self)

    def find_context_length(self) -> int | None:
        """How many tokens prompt and answer may have together, where the server tells it."""
        return find_context_length(self)

    def check_alive(self, seconds: float) -> None:
        """See SharedModel. By a connection of its own: where all others are in use, the server may well be alive."""
        with make_http(self.host, 1, seconds) as http:
            asking = copy.copy(self)
            asking.http, asking.client = http, make_client(self.host, self.client.api_key, http)
            try:
                asking.ask(ALIVE_PROMPT, SamplingParams(1), Usage(), lambda body: completion_choice(body, 1), seconds)
            except ModelError as error:
                if error.status not in REFUSALS or not asks_for_more_tokens(error):  # some write no less than several
                    raise

    def answers(self) -> bool:
        """Whether the server says anything at all, within seconds."""
        return answers(self.client)

    def adopt(self, other: "OpenAIEndpoint") -> None:
        """Take over what the probe of another server of the same model has found out."""
        self.reader, self.neutral_sampling = other.reader, other.neutral_sampling
        self.left_out, self.stream_options = other.left_out, other.stream_options
        self.counts_tokens = other.counts_tokens

    def probe(
        self,
        logprobs: int | None,
        family: str = "",
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> ServerReport:
        """Find out whether the server can do what a run needs, and how it prints tokens; its requests are not counted.

        Args:
            logprobs: how many log-probabilities per position the run needs; None for none.
            family: the name that says of which family the model is, where its own does not.
            temperature, top_p, seed: what the run's requests ask for.
            progress: kept up to date.

        Raises:
            TransientError: the server does not answer.
            ProbabilityError: its log-probabilities are none, or some are missing.
            ModelError: it does not serve the model, lacks log-probabilities, or refuses what the run has to ask for.
        """
        scratch = copy.copy(self)  # a probe that nobody waits for any longer changes nothing
        scratch.usage = Usage()
        if self.retry_policy.rate_limit_seconds is not None:
            until = time.monotonic() + self.retry_policy.outage_seconds
            scratch.retry_policy = replace(self.retry_policy, until=until)
        asked = SamplingParams(PROBE_TOKENS, temperature, top_p, logprobs, seed)
        report = Probe(scratch, asked, family or self.name, progress or Progress()).run()
        self.adopt(scratch)
        return report
