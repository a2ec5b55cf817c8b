"""What a server of /v1/completions can do: found out by the requests that the run sends, read as the run reads them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx2
import openai

from language_models.families import NEEDS_BOS
from language_models.hosted.choices import completion_choice
from language_models.hosted.http import shorten
from language_models.hosted.logprob_check import check_logprobs
from language_models.hosted.logprobs import has_tokens
from language_models.hosted.probe_requests import ABILITY_SECONDS, ProbeRequests, Progress
from language_models.hosted.refused_fields import (
    NEUTRAL_FIELDS,
    REFUSALS,
    Refused,
    asks_for_more_tokens,
    changes_answers,
)
from language_models.hosted.retries import RATE_LIMITED
from language_models.hosted.server_facts import FACT_SECONDS, add_facts
from language_models.hosted.server_report import LLAMA_CPP, ServerReport
from language_models.hosted.token_texts import TokenReader, printed_pieces
from language_models.interface import ContextLengthError, ModelError, SamplingParams, SeedError, Token, TransientError
from utils import name_parts

if TYPE_CHECKING:
    from language_models.hosted.endpoint import OpenAIEndpoint

PROBE_PROMPT = "Question: What is 2 + 3?\nAnswer: 2 + 3 = 5.\n\nQuestion: What is the capital of France?\nAnswer:"
# Where a model ends at once, which says nothing of its server, the next one is asked.
PROBE_PROMPTS = (PROBE_PROMPT, "My favourite", "I think that")
CAPITAL = "Paris"
PROBE_TOKENS = 16
# Where servers are known to stop: OpenAI and Fireworks AI at 5, vLLM (by default) and Together AI at 20.
LOGPROBS_STEPS = (100, 20, 5)
# vLLM reports the prompt's tokens with every chunk of a stream, for those that are closed before their end; some servers refuse.
STREAM_OPTIONS: tuple[dict[str, bool], ...] = ({"include_usage": True, "continuous_usage_stats": True}, {})
# One token in every vocabulary: a prompt of it has two tokens where a BOS is added.
ONE_TOKEN = "a"


class Probe:
    """The probe of one server: what it finds out of how to ask it is told to its endpoint, everything else to its report."""

    def __init__(self, endpoint: "OpenAIEndpoint", asked: SamplingParams, family: str, progress: Progress):
        """
        Args:
            endpoint: of the probe alone; its retry policy says until when it may wait.
            asked: what the run's requests ask for, at PROBE_TOKENS tokens.
            family: the name that says of which family the model is.
            progress: kept up to date.
        """
        self.endpoint, self.asked, self.family, self.progress = endpoint, asked, family, progress
        self.requests = ProbeRequests(endpoint, progress)
        self.prompts = list(PROBE_PROMPTS)  # the first one is such that the model does not end at once
        self.few = 1  # tokens; the fewest that the server gives
        self.writes = False  # whether there is a text after that prompt
        self.report = ServerReport(endpoint.shown_host, endpoint.name, logprobs=asked.logprobs)

    def run(self) -> ServerReport:
        """Ask everything.

        Raises:
            TransientError: the server does not answer.
            ProbabilityError: its log-probabilities are none, or some are missing.
            SeedError: it refuses seeds.
            ModelError: it does not serve the model, lacks log-probabilities, or refuses what the run has to ask for.
        """
        report, endpoint = self.report, self.endpoint
        listed = self._list_models()
        add_facts(self._told, report)
        written: tuple[Token, ...] = ()
        try:
            self._settle_fields()
            if not listed:
                self._list_models()
            endpoint.counts_tokens = report.engine == LLAMA_CPP
            if self.asked.logprobs is not None:
                written = self._probe_logprobs()
            self._probe_streams()
            self._probe_max_logprobs()
            self._probe_bos()
            if self.asked.logprobs is not None:
                check_logprobs(self.requests, report, self.asked, written, self.prompts)
        except ContextLengthError as error:
            raise ModelError(f"{error}; its context window is too short for a prompt of a few words") from None
        if report.served_models and endpoint.name not in report.served_models:
            report.warnings.append(
                f"{report.host} answers to the name {endpoint.name!r} but lists only {', '.join(report.served_models)}: "
                "is it the model that you mean?"
            )
        return report

    def _once(self, max_tokens: int, logprobs: int | None = None) -> SamplingParams:
        return replace(self.asked, max_tokens=max(max_tokens, self.few), logprobs=logprobs)

    # --- what the server is ---

    def _list_models(self) -> bool:
        """Note the served models' names and who owns them, by the server's words; whether there is any use in asking again."""
        endpoint, report = self.endpoint, self.report
        client = endpoint.client.with_options(max_retries=0, timeout=self.requests.seconds(ABILITY_SECONDS))
        for last in (False, True):
            try:
                served = {
                    model.id: getattr(model, "owned_by", None)
                    for model in client.models.list()
                    if isinstance(model.id, str)
                }
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                if isinstance(error, openai.APITimeoutError) and not isinstance(cause, httpx2.ConnectTimeout):
                    return True  # there is a server, and a completion will tell whether it answers
                if not last:
                    continue
                raise TransientError(
                    f"{endpoint.where}: no server answers there ({shorten(str(cause))}); is it running, and does the host "
                    "begin with the right one of http:// and https:// and end in /v1?",
                    unreachable=True,
                ) from None
            except openai.APIStatusError as error:
                return error.status_code != RATE_LIMITED and error.status_code < 500
            except (
                Exception
            ):  # some providers have no list of models, or one in another shape: the completion will tell
                return True
            self.progress.answered()
            report.served_models = list(served)
            owners = {owner for owner in served.values() if isinstance(owner, str)}
            report.engine = shorten(owners.pop()) if len(owners) == 1 else None  # engines name themselves there
            return True
        raise AssertionError("the last try returns or raises")

    def _told(self, path: str) -> object:
        """The JSON at a path below the host's root; None where there is none."""
        client = self.endpoint.client.with_options(max_retries=0, timeout=FACT_SECONDS)
        root = str(client.base_url).rstrip("/").removesuffix("/v1")
        try:
            return client.get(root + path, cast_to=httpx2.Response).json()
        except (openai.APIError, ValueError, LookupError, RecursionError):
            return None

    # --- what the run sends ---

    def _settle_fields(self) -> None:
        """Find out which fields of the run's requests the server refuses, and leave them out where that changes no answer."""
        refused, left_out = Refused(self.endpoint.where), frozenset()
        for left_out in refused:
            self.endpoint.left_out = left_out
            self.endpoint.neutral_sampling = {n: v for n, v in NEUTRAL_FIELDS.items() if n not in left_out}
            try:
                self._find_prompt()
                break
            except (ContextLengthError, SeedError):
                raise
            except ModelError as error:
                if error.status == 404:
                    names = ", ".join(self.report.served_models)
                    hint = f"it serves: {names}" if names else "is it a /v1 URL of an OpenAI-compatible server?"
                    raise ModelError(f"{error}; {hint}") from None
                if error.status not in REFUSALS:
                    raise
                if self.few < PROBE_TOKENS and asks_for_more_tokens(error):
                    self.few = PROBE_TOKENS
                    return self._settle_fields()
                refused.add(left_out, error)
        else:
            raise refused.of_the_plain_request
        for name in sorted(left_out & {"temperature", "top_p"}):
            value = getattr(self.asked, name)
            if changes_answers(name, self.asked):
                raise ModelError(
                    f"{refused.words(name)}; the run asks for {name} {value:g}, without which the answers would be others: "
                    f"choose another --base_{name} or --nudging_{name}, or another server"
                )
            if value != 1:
                self.report.warnings.append(
                    f"{self.report.host} is asked without {name} {value:g}, which it refuses and which changes nothing at "
                    f"temperature 0: {shorten(str(refused.words(name)))}"
                )
        self.report.neutral_sampling = self.endpoint.neutral_sampling
        self.report.left_out = sorted(left_out)

    def _find_prompt(self) -> None:
        while not self.requests.complete("a completion", self.prompts[0], self._once(1)).text:
            if self.prompts[0] == PROBE_PROMPTS[-1]:
                return
            self.prompts.append(self.prompts.pop(0))
        self.writes = True

    def _probe_logprobs(self) -> tuple[Token, ...]:
        """Find out how the server prints tokens, and read those that it writes after a prompt as the run will."""
        endpoint, logprobs = self.endpoint, self.asked.logprobs

        def read(body: dict) -> tuple[Token, ...]:
            text, finish_reason, choice = completion_choice(body, self.asked.max_tokens)
            found = choice.get("logprobs") or {}
            if text and not has_tokens(found):
                raise ModelError(
                    f"{endpoint.where}: this server returns no log-probabilities on /v1/completions, and they are needed here; "
                    "vLLM and SGLang do"
                )
            endpoint.reader.read(text, choice.get("logprobs"), finish_reason)  # it can be read at all
            self._learn_names(found, text, finish_reason)
            return endpoint.reader.read(text, choice.get("logprobs"), finish_reason)

        try:
            return self.requests.read("log-probabilities", self.prompts[0], self.asked, read)
        except ModelError as error:
            if "logprobs" in str(error) and error.status in REFUSALS:
                raise ModelError(
                    f"{error}; {logprobs} log-probabilities per token are needed: start vLLM with --max-logprobs {logprobs}"
                ) from None
            raise

    def _learn_names(self, logprobs: dict, text: str, finish_reason: str) -> None:
        """Have the reader know how the server prints tokens, as far as a reply shows it."""
        report, endpoint = self.report, self.endpoint
        content = logprobs.get("content") or []
        shown = [entry["token"] for entry in content] or logprobs.get("tokens") or []
        tops = [entry.get("top_logprobs") for entry in content] or logprobs.get("top_logprobs") or []
        report.prints_tokens_as = printed_pieces(shown, text)
        if finish_reason == "stop" and shown and shown[-1] and not text.endswith(shown[-1]):
            report.end_names_seen = [shown[-1]]
        end_names = endpoint.reader.end_names | set(report.end_names_seen)
        endpoint.reader = TokenReader(end_names, report.prints_tokens_as, lists_top=any(tops))

    # --- streams ---

    def _probe_streams(self) -> None:
        """Find out whether the run's streams can be read."""
        report = self.report
        for options in STREAM_OPTIONS:
            self.endpoint.stream_options = options
            why_not = self._why_not_streamed(self.asked.logprobs)
            if why_not is None:
                break
        readable = why_not is None
        report.stream_options = self.endpoint.stream_options if readable else {}
        if self.asked.logprobs is None:
            report.streams, report.streams_logprobs = readable, None if readable else False
        else:
            report.streams_logprobs = readable
            report.streams = readable or (why_not.begun and self._why_not_streamed(None) is None)
        self.endpoint.stream_options = report.stream_options
        if why_not is None:
            return
        report.why_not_streamed = why_not.words
        if why_not.begun:
            report.warnings.append(f"the streams of {report.host} are not used: {why_not.words}")

    def _why_not_streamed(self, logprobs: int | None) -> "_NotStreamed | None":
        """Why a streamed completion cannot be read; None where it can."""
        few = self._once(
            1 if logprobs is not None else PROBE_TOKENS, logprobs
        )  # with them, more streams are read below
        for prompt in self.prompts:
            begun: list[bool] = []
            try:
                tokens = self.requests.stream(prompt, few, begun)
            except ContextLengthError:
                raise
            except ModelError as error:
                return _NotStreamed(str(error), any(begun))
            if text := "".join(token.text for token in tokens):
                return self._another_text(prompt, text, few) if logprobs is None else None
        return _NotStreamed(f"{self.endpoint.where}: its streams have no text", any(begun)) if self.writes else None

    def _another_text(self, prompt: str, text: str, params: SamplingParams) -> "_NotStreamed | None":
        """What is wrong with streams whose texts are never those of whole replies; None where they are.

        Args:
            prompt, text: a prompt and what was streamed after it.
            params: of both; at another temperature than 0 nothing is known.
        """
        if params.temperature != 0:
            return None
        try:
            # What rounding changes it does not change everywhere.
            for other in (prompt, *(p for p in self.prompts if p != prompt)):
                if other != prompt:
                    text = "".join(token.text for token in self.requests.stream(other, params, []))
                whole = self.requests.complete("a completion", other, params).text
                if text == whole:
                    return None
        except ModelError:
            return None
        return _NotStreamed(
            f"{self.endpoint.where}: its streams have another text than its whole replies ({text[:40]!r}, {whole[:40]!r})",
            True,
        )

    # --- abilities ---

    def _probe_max_logprobs(self) -> None:
        report, prompt = self.report, self.prompts[0]
        report.max_logprobs = 0
        for asked, less in zip(LOGPROBS_STEPS, (*LOGPROBS_STEPS[1:], 0), strict=True):
            choices = _choices(self.requests.reply(prompt, self._once(1, asked)))
            found = _listed(choices[0]) if choices else 0
            if not found:
                continue
            # Some fewer are keys that have collapsed; many fewer are a limit that is not spoken of.
            report.max_logprobs = asked if found > less else max(1, found)
            break
        if report.logprobs and report.max_logprobs and report.max_logprobs < report.logprobs:
            report.warnings.append(
                f"{report.host} gives {report.max_logprobs} log-probabilities per token where {report.logprobs} were asked "
                "for: baselines, criteria and mixtures see fewer tokens than they should"
            )

    def _probe_bos(self) -> None:
        parts, report = name_parts(self.family), self.report
        bos = next((bos for part, bos in NEEDS_BOS.items() if any(p.startswith(part) for p in parts)), "")
        if not bos:
            return
        report.adds_bos = self._adds_bos(bos)
        if report.adds_bos is False:
            report.warnings.append(
                f"{report.host} puts no {bos} in front of prompts, and {report.model} writes nonsense without it: "
                "serve the model with its own tokenizer (tokenizer_config.json with add_bos_token true)"
            )

    def _adds_bos(self, bos: str) -> bool | None:
        """Whether a server adds the beginning of sequence to prompts; None where this cannot be known."""
        told = (self.requests.reply(ONE_TOKEN, self._once(1)) or {}).get("usage")
        count = told.get("prompt_tokens") if isinstance(told, dict) else None
        if isinstance(count, int) and count > 0:
            return count > 1
        # Without a count: is the answer known only where the token is written in front?
        knows = [
            any(CAPITAL in str(choice.get("text")) for choice in _choices(self.requests.reply(prompt, self._once(8))))
            for prompt in (PROBE_PROMPT, bos + PROBE_PROMPT)
        ]
        return True if knows[0] else False if knows[1] else None


@dataclass(frozen=True)
class _NotStreamed:
    """Why streams are not used, and whether the server has begun one."""

    words: str
    begun: bool


def _choices(body: dict | None) -> list[dict]:
    """The choices of a reply; empty where there are none that could be read."""
    choices = (body or {}).get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _listed(choice: dict) -> int:
    """How many log-probabilities a choice has of its first token, in either of the two shapes."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return 0
    content, tops = logprobs.get("content"), logprobs.get("top_logprobs")
    if content and isinstance(content, list):
        first = content[0].get("top_logprobs") if isinstance(content[0], dict) else None
    elif logprobs.get("tokens"):
        first = tops[0] if tops and isinstance(tops, list) else None
    else:
        return 0
    return len(first) if isinstance(first, dict | list) else 1
