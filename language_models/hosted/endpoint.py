"""A language model behind an OpenAI-compatible server (vLLM first): its /v1/completions, as a LanguageModel."""

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import httpx2
import openai

from command.options import without_password
from command.pool import leaving
from language_models.hosted.http import RetryPolicy, answers, checked, make_client, make_http, persist, request, shorten
from language_models.hosted.logprob_check import REPEATING_PROMPTS, find_fault
from language_models.hosted.logprobs import has_tokens
from language_models.hosted.probe import PROBE_PROMPTS, ServerReport, find_abilities
from language_models.hosted.server_facts import add_facts
from language_models.hosted.streams import EventStream, ResumedStream
from language_models.hosted.token_texts import (
    END_NAMES,
    TokenReader,
    completion_choice,
    printed_pieces,
    without_cut_character,
)
from language_models.interface import (
    CHARACTER_TOKENS,
    Completion,
    ContextLengthError,
    LanguageModel,
    ModelError,
    ProbabilityError,
    SamplingParams,
    Token,
    TokenStream,
    TransientError,
    Usage,
)

# Everything that would otherwise be the server's own choice (vLLM takes its defaults from the model's generation_config.json).
# Servers refuse what they do not know, so the probe finds the longest of these that is accepted.
NEUTRAL_SAMPLING = (
    {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0},
    {"presence_penalty": 0.0, "frequency_penalty": 0.0},
    {},
)
LLAMA_CPP = "llamacpp"  # what that server calls itself among its models
PROBE_TOKENS = 16
PROBE_SECONDS = 60.0  # for a token or two; a server that takes longer is taken not to have the ability asked for


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
        self.probe_timeout = min(request_timeout, PROBE_SECONDS)
        self.usage = Usage()
        self.where = f"{name} at {self.shown_host}"
        # Completions go through the connection pool itself: openai's own handling of a request takes longer than all the rest here.
        self.http = make_http(max_connections, request_timeout)
        self.client = make_client(self.host, api_key, self.http)
        headers = self.client.default_headers | self.client.auth_headers
        self.headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        self.completions_url = self.host + "/completions"
        self.reader = TokenReader(END_NAMES | set(end_names))
        self.neutral_sampling: dict[str, float] = NEUTRAL_SAMPLING[-1]
        self.stream_options: dict[str, bool] = {}
        self.counts_tokens = (
            False  # the server tells with each chunk how many tokens it has written, where it is asked to
        )
        self._lock = threading.Lock()

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """See LanguageModel."""
        usage = Usage()
        try:
            return persist(lambda: self.attempt(prompt, params, usage), self.retry_policy, usage)
        finally:
            self.count(usage)

    def attempt(self, prompt: str, params: SamplingParams, usage: Usage) -> Completion:
        """Continue a prompt (see LanguageModel) by one request, which is counted in `usage` alone.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request.
        """
        body = self._body(prompt, params)

        def call():
            return checked(self.http.post(self.completions_url, json=body, headers=self.headers))

        def read(body: dict) -> Completion:
            shown, finish_reason, choice = completion_choice(body)
            logprobs = choice.get("logprobs")
            text = without_cut_character(shown, logprobs, finish_reason)
            # llama.cpp lists no token of a character that is not whole.
            half = shown and not text and not has_tokens(logprobs) and params.max_tokens < CHARACTER_TOKENS
            read_tokens = params.logprobs is not None and not half
            tokens = self.reader.read(text, logprobs, finish_reason) if read_tokens else ()
            return Completion(text, tokens, finish_reason, usage)

        return request(call, read, where=self.where, client=self.client, usage=usage)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> TokenStream:
        """See LanguageModel; a draft is not looked at."""

        def open_after(text: str, missing: SamplingParams, usage: Usage) -> EventStream:
            return persist(lambda: self.attempt_stream(prompt + text, missing), self.retry_policy, usage)

        return ResumedStream(open_after, params, self.retry_policy.retries)

    def attempt_stream(self, prompt: str, params: SamplingParams) -> EventStream:
        """Continue a prompt (see LanguageModel.stream) by one request.

        Raises:
            ContextLengthError, TransientError, ModelError: see http.request; here or while the stream is read.
        """
        body = self._body(prompt, params) | {"stream": True}
        if self.stream_options:
            body["stream_options"] = self.stream_options
        if self.counts_tokens:
            body["timings_per_token"] = True

        def respond() -> httpx2.Response:
            sent = self.http.build_request("POST", self.completions_url, json=body, headers=self.headers)
            return checked(self.http.send(sent, stream=True))

        reader = None if params.logprobs is None else self.reader
        return EventStream(respond, reader, where=self.where, client=self.client, count=self.count)

    def _body(self, prompt: str, params: SamplingParams) -> dict:
        asked = {name: value for name, value in asdict(params).items() if value is not None}
        return {"model": self.name, "prompt": prompt} | asked | self.neutral_sampling

    def count(self, usage: Usage) -> None:
        """Add what was asked of the server to `self.usage`."""
        with self._lock:
            self.usage.add(usage)

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it: there is one server only (see Replicas)."""
        return self

    def answers(self) -> bool:
        """Whether the server says anything at all, within seconds."""
        return answers(self.client)

    def adopt(self, other: "OpenAIEndpoint") -> None:
        """Take over what the probe of another server of the same model has found out."""
        self.reader, self.neutral_sampling = other.reader, other.neutral_sampling
        self.stream_options, self.counts_tokens = other.stream_options, other.counts_tokens

    def probe(
        self, logprobs: int | None, family: str = "", *, temperature: float = 0.0, top_p: float = 1.0
    ) -> ServerReport:
        """Find out whether the server can do what a run needs, and how it prints tokens; its requests are not counted.

        Args:
            logprobs: how many log-probabilities per position the run needs; None for none.
            family: the name that says of which family the model is, where its own does not.
            temperature, top_p: what the run's requests ask for.

        Raises:
            TransientError: the server does not answer.
            ProbabilityError: its log-probabilities are none, or some are missing.
            ModelError: it does not serve the model, or lacks log-probabilities.
        """
        served = self._served_models()
        report = ServerReport(self.shown_host, self.name, list(served), logprobs)
        owners = {owner for owner in served.values() if isinstance(owner, str)}
        report.engine = shorten(owners.pop()) if len(owners) == 1 else None  # engines name themselves there
        add_facts(self._told, report)
        written: tuple[Token, ...] = ()
        try:
            prompts = self._probe_sampling(report)
            if logprobs is not None:
                asked = SamplingParams(PROBE_TOKENS, temperature, top_p, logprobs)
                written = self._probe_logprobs(report, asked, prompts[0])
            find_abilities(self._ask_briefly, report, family or self.name, prompts)
            self.stream_options, self.counts_tokens = report.stream_options, report.engine == LLAMA_CPP
            if logprobs is not None:
                self._check_logprobs(report, asked, written, prompts)
        except ContextLengthError as error:
            raise ModelError(f"{error}; its context window is too short for a prompt of a few words") from None
        if report.served_models and self.name not in report.served_models:
            report.warnings.append(
                f"{report.host} answers to the name {self.name!r} but lists only {', '.join(report.served_models)}: "
                "is it the model that you mean?"
            )
        self.usage = Usage()
        return report

    def _served_models(self) -> dict[str, object]:
        """The served models' names, and who owns each by the server's words."""
        try:
            listed = self.client.with_options(max_retries=1).models.list()
            return {model.id: getattr(model, "owned_by", None) for model in listed}
        except openai.APIConnectionError as error:
            reason = shorten(str(error.__cause__ or error))
            raise TransientError(
                f"{self.where}: no server answers there ({reason}); is it running, and does the host begin with the right "
                "one of http:// and https:// and end in /v1?",
                unreachable=True,
            ) from None
        except Exception:  # some providers have no list of models, or one in another shape: the completion will tell
            return {}

    def _told(self, path: str) -> object:
        """The JSON at a path below the host's root; None where there is none."""
        client = self.client.with_options(max_retries=0, timeout=self.probe_timeout)
        root = str(client.base_url).rstrip("/").removesuffix("/v1")
        try:
            return client.get(root + path, cast_to=httpx2.Response).json()
        except (openai.APIError, ValueError):
            return None

    def _ask_briefly(self, fields: dict) -> str | None:
        """The text of the reply to a request of the probe; None where the server refuses it."""

        client = self.client.with_options(max_retries=1, timeout=self.probe_timeout)
        body = {"model": self.name, "temperature": 0.0} | fields
        try:
            return client.post("/completions", cast_to=httpx2.Response, body=body).text
        except openai.APIError:
            return None

    def _probe_sampling(self, report: ServerReport) -> list[str]:
        """Find the sampling options that the server takes.

        Returns:
            The probe's prompts, the first one such that the model does not end at once.
        """
        prompts = list(PROBE_PROMPTS)
        for i, options in enumerate(NEUTRAL_SAMPLING):
            self.neutral_sampling = options
            try:
                while not self.complete(prompts[0], SamplingParams(1)).text and prompts[0] != PROBE_PROMPTS[-1]:
                    prompts.append(prompts.pop(0))
            except ContextLengthError:
                raise
            except ModelError as error:
                if error.status in (400, 422) and i + 1 < len(NEUTRAL_SAMPLING):
                    continue
                if error.status == 404:
                    names = ", ".join(report.served_models)
                    hint = f"it serves: {names}" if names else "is it a /v1 URL of an OpenAI-compatible server?"
                    raise ModelError(f"{error}; {hint}") from None
                raise
            break
        report.neutral_sampling = self.neutral_sampling
        return prompts

    def _probe_logprobs(self, report: ServerReport, asked: SamplingParams, prompt: str) -> tuple[Token, ...]:
        """Find out how the server prints tokens, and read those that it writes after a prompt as the run will."""
        logprobs = asked.logprobs

        def read(body: dict) -> tuple[Token, ...]:
            text, finish_reason, choice = completion_choice(body)
            found = choice.get("logprobs") or {}
            text = without_cut_character(text, found, finish_reason)
            if text and not has_tokens(found):
                raise ModelError(
                    f"{self.where}: this server returns no log-probabilities on /v1/completions, and they are needed here; "
                    "vLLM and SGLang do"
                )
            self.reader.read(text, choice.get("logprobs"), finish_reason)  # it can be read at all
            self._learn_names(report, found, text, finish_reason)
            return self.reader.read(text, choice.get("logprobs"), finish_reason)

        def call():
            return checked(self.http.post(self.completions_url, json=self._body(prompt, asked), headers=self.headers))

        try:
            return persist(
                lambda: request(call, read, where=self.where, client=self.client, usage=Usage()),
                self.retry_policy,
                Usage(),
            )
        except ModelError as error:
            if "logprobs" in str(error) and error.status in (400, 422):
                raise ModelError(
                    f"{error}; {logprobs} log-probabilities per token are needed: start vLLM with --max-logprobs {logprobs}"
                ) from None
            raise

    def _learn_names(self, report: ServerReport, logprobs: dict, text: str, finish_reason: str) -> None:
        """Have the reader know how the server prints tokens, as far as a reply shows it."""
        content = logprobs.get("content") or []
        shown = [entry["token"] for entry in content] or logprobs.get("tokens") or []
        tops = [entry.get("top_logprobs") for entry in content] or logprobs.get("top_logprobs") or []
        report.prints_tokens_as = printed_pieces(shown, text)
        if finish_reason == "stop" and shown and shown[-1] and not text.endswith(shown[-1]):
            report.end_names_seen = [shown[-1]]
        end_names = self.reader.end_names | set(report.end_names_seen)
        self.reader = TokenReader(end_names, report.prints_tokens_as, lists_top=any(tops))

    def _check_logprobs(
        self, report: ServerReport, asked: SamplingParams, written: tuple[Token, ...], prompts: list[str]
    ) -> None:
        """Refuse log-probabilities that no model gives; where only those of streams are such, say so and do without streams.

        Raises:
            ProbabilityError: those of whole completions are such.
        """
        drawn = asked.temperature != 1 or asked.top_p != 1

        @functools.cache
        def first_top(prompt: str) -> dict[str, float]:
            return dict(self.complete(prompt, SamplingParams(1, 1.0, 1.0, asked.logprobs)).tokens[0].top)

        def streamed(prompt: str) -> list[Token]:
            return list(self.stream(prompt, asked))

        def completed(prompt: str) -> tuple[Token, ...]:
            return self.complete(prompt, asked).tokens

        # Side by side: a server writes several short texts in the time of one.
        with leaving(ThreadPoolExecutor()) as pool:
            writing = {
                (form, prompt): pool.submit(form, prompt)
                for form in ([streamed] if report.streams_logprobs else []) + [completed]
                for prompt in (prompts[1], *REPEATING_PROMPTS)
            }

            def check(form) -> None:
                def write(prompt: str) -> Sequence[Token]:
                    return writing[form, prompt].result() if (form, prompt) in writing else form(prompt)

                # Without lists of the most probable tokens only the drawn token's probability is seen.
                fault = find_fault(written, prompts[1:], write, first_top if drawn and self.reader.lists_top else None)
                if fault:
                    raise ProbabilityError(f"{self.where}: {fault}")

            if report.streams_logprobs:
                try:
                    check(streamed)
                except ContextLengthError:
                    raise
                except ModelError as error:
                    report.streams_logprobs = False
                    report.warnings.append(f"the streams of {report.host} are not used: {error}")
            # Runs that use streams ask for whole completions too: --calls published, and where another model's server has none.
            check(completed)
