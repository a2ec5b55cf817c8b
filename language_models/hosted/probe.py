"""What a server of /v1/completions can do beyond a plain completion: found out by one short request for each ability."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from language_models.families import NEEDS_BOS
from language_models.hosted.logprobs import has_tokens
from utils import name_parts

PROBE_PROMPT = "Question: What is 2 + 3?\nAnswer: 2 + 3 = 5.\n\nQuestion: What is the capital of France?\nAnswer:"
# Where a model ends at once, which says nothing of its server, the next one is asked.
PROBE_PROMPTS = (PROBE_PROMPT, "My favourite", "I think that")
CAPITAL = "Paris"
# Where servers are known to stop: OpenAI and Fireworks AI at 5, vLLM (by default) and Together AI at 20.
LOGPROBS_STEPS = (100, 20, 5)
# vLLM reports the prompt's tokens with every chunk of a stream, for those that are closed before their end; some servers refuse.
STREAM_OPTIONS: tuple[dict[str, bool], ...] = ({"include_usage": True, "continuous_usage_stats": True}, {})
# One token in every vocabulary: a prompt of it has two tokens where a BOS is added.
ONE_TOKEN = "a"

# Sends the fields of a request and returns the reply's text; None where the server refuses or breaks off.
Ask = Callable[[dict], str | None]


@dataclass
class ServerReport:
    """What the probe found out about a server.

    `logprobs` is how many a run needs, `max_logprobs` how many the server gives (0: none; None: not looked at).
    `engine`, `version`, `number_format`, `device` and `speculation` are what the server says of itself, None where it says nothing;
    `adds_bos` is looked at for model families that need it.
    """

    host: str
    model: str
    served_models: list[str] = field(default_factory=list)
    logprobs: int | None = None
    engine: str | None = None
    version: str | None = None
    number_format: str | None = None
    device: str | None = None
    speculation: str | None = None
    max_logprobs: int | None = None
    prints_tokens_as: str = "text"
    end_names_seen: list[str] = field(default_factory=list)
    neutral_sampling: dict[str, float] = field(default_factory=dict)
    streams: bool | None = None
    streams_logprobs: bool | None = None
    stream_options: dict[str, bool] = field(default_factory=dict)
    adds_bos: bool | None = None
    warnings: list[str] = field(default_factory=list)


def find_abilities(ask: Ask, report: ServerReport, family: str, prompts: Sequence[str] = PROBE_PROMPTS) -> None:
    """Fill in what a server can do; a refusal or an odd reply means that it cannot.

    Args:
        ask: sends a request, with few retries.
        family: the name that says of which family the model is.
        prompts: PROBE_PROMPTS, the first one such that the model writes something after it.
    """
    for options in STREAM_OPTIONS:
        report.streams, report.streams_logprobs = _streams(ask, options, prompts)
        if report.streams:
            report.stream_options = options
            break
    report.max_logprobs = _max_logprobs(ask, prompts[0])
    if report.logprobs and report.max_logprobs and report.max_logprobs < report.logprobs:
        report.warnings.append(
            f"{report.host} gives {report.max_logprobs} log-probabilities per token where {report.logprobs} were asked for: "
            "the baselines compare fewer tokens than they should"
        )
    if bos := next((bos for part, bos in NEEDS_BOS.items() if any(p.startswith(part) for p in name_parts(family))), ""):
        report.adds_bos = _adds_bos(ask, bos)
        if report.adds_bos is False:
            report.warnings.append(
                f"{report.host} puts no {bos} in front of prompts, and {report.model} writes nonsense without it: "
                "serve the model with its own tokenizer (tokenizer_config.json with add_bos_token true)"
            )


def _choices(reply: str | None) -> list[dict]:
    """The choices of a reply; empty where there are none that could be read."""
    try:
        choices = json.loads(reply or "")["choices"]
    except (ValueError, KeyError, TypeError):
        return []
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


def _tokens(choice: dict) -> list:
    """What stands per token in the log-probabilities of a choice, in either of the two shapes; empty for none."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return []
    found = logprobs.get("content") or logprobs.get("tokens")
    return found if isinstance(found, list) else []


def _streams(ask: Ask, options: dict, prompts: Sequence[str]) -> tuple[bool, bool]:
    """Whether a completion can be streamed, and whether with log-probabilities."""
    fields = {"max_tokens": 1, "logprobs": 1, "stream": True} | ({"stream_options": options} if options else {})
    for prompt in prompts:
        reply = ask({"prompt": prompt} | fields) or ""
        events = [line.removeprefix("data:").strip() for line in reply.splitlines() if line.startswith("data:")]
        choices = [choice for event in events for choice in _choices(event)]
        with_logprobs = any(has_tokens(choice.get("logprobs")) for choice in choices)
        if not choices or with_logprobs or any(choice.get("text") for choice in choices):
            return bool(choices), with_logprobs
    # The model ends at once after every prompt: their shape alone is left to judge by.
    return True, any(isinstance(choice.get("logprobs"), dict) for choice in choices)


def _max_logprobs(ask: Ask, prompt: str) -> int:
    """The largest number of log-probabilities per token that is known to be given."""
    for asked, less in zip(LOGPROBS_STEPS, (*LOGPROBS_STEPS[1:], 0), strict=True):
        choices = _choices(ask({"prompt": prompt, "max_tokens": 1, "logprobs": asked}))
        tokens = _tokens(choices[0]) if choices else []
        if not tokens:
            continue
        logprobs = choices[0]["logprobs"]
        tops = logprobs.get("top_logprobs") if not logprobs.get("content") else [tokens[0].get("top_logprobs")]
        found = len(tops[0]) if tops and isinstance(tops[0], dict | list) else 1
        # Some fewer are keys that have collapsed; many fewer are a limit that is not spoken of.
        return asked if found > less else max(1, found)
    return 0


def _adds_bos(ask: Ask, bos: str) -> bool | None:
    """Whether a server adds the beginning of sequence to prompts; None where this cannot be known."""
    reply = ask({"prompt": ONE_TOKEN, "max_tokens": 1})
    try:
        count = json.loads(reply or "")["usage"]["prompt_tokens"]
    except (ValueError, KeyError, TypeError):
        count = None
    if isinstance(count, int) and count > 0:
        return count > 1
    # Without a count: is the answer known only where the token is written in front?
    knows = [
        any(CAPITAL in str(choice.get("text")) for choice in _choices(ask({"prompt": prompt, "max_tokens": 8})))
        for prompt in (PROBE_PROMPT, bos + PROBE_PROMPT)
    ]
    return True if knows[0] else False if knows[1] else None
