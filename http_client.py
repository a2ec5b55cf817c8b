"""The one HTTP client of this program: an OpenAI client with a connection pool of the right size, retries, and plain errors."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import tenacity

from language_models import ContextLengthError, ModelError, Usage
from token_texts import UnreadableReply

CONNECT_SECONDS = 10.0
LONGEST_MESSAGE = 300
# OpenAI, vLLM, SGLang, llama.cpp, Together AI and Fireworks AI each say it in their own way.
_CONTEXT_LENGTH = re.compile(
    r"context.?(length|size|window)|maximum model length|max_model_len|prompt is too long|max_new_tokens.{0,20}must be <=",
    re.I,
)


def make_client(host: str | None, api_key: str, *, max_connections: int, request_timeout: float, max_retries: int):
    """An OpenAI client that really allows `max_connections` requests at once.

    Connection errors, timeouts, 408, 409, 429 and 5xx are tried again `max_retries` times, after 0.5 s doubling up to 8 s with
    jitter, or after the server's Retry-After; other 4xx are not.

    Args:
        host: base URL such as http://localhost:8000/v1; None for OpenAI itself.
        request_timeout: seconds that a server may stay silent.
    """
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    timeout = httpx2.Timeout(request_timeout, connect=min(CONNECT_SECONDS, request_timeout), pool=None)
    return openai.OpenAI(
        base_url=host,
        api_key=api_key,
        max_retries=max_retries,
        timeout=timeout,
        http_client=openai.DefaultHttpxClient(limits=limits, timeout=timeout),
    )


def request(call: Callable[[], Any], read: Callable[[dict], Any], *, where: str, max_retries: int, usage: Usage) -> Any:
    """Send a request and read its reply; a reply that cannot be read is asked for again like a failed one.

    Args:
        call: sends the request through an OpenAI client's `with_raw_response`.
        read: turns the reply's JSON object into what the caller wants; raises UnreadableReply if it cannot.
        where: the model and its host, for messages.
        max_retries: how often an unreadable reply is asked for again.
        usage: requests, retries and tokens are counted here.

    Raises:
        ContextLengthError: the server says that the prompt does not fit.
        ModelError: no readable reply after all retries.
    """

    def once():
        raw = call()
        usage.requests += 1
        usage.retries += raw.retries_taken
        try:
            body = json.loads(raw.content)
        except ValueError:
            raise UnreadableReply(f"it is no JSON: {_shorten(raw.text)!r}") from None
        if not isinstance(body, dict):
            raise UnreadableReply(f"it is no JSON object: {_shorten(raw.text)!r}")
        tokens = body.get("usage") or {}
        usage.prompt_tokens += tokens.get("prompt_tokens") or 0
        usage.completion_tokens += tokens.get("completion_tokens") or 0
        return read(body)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(UnreadableReply),
        stop=tenacity.stop_after_attempt(max_retries + 1),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
        before_sleep=lambda _: usage.add(Usage(retries=1)),
        reraise=True,
    )
    try:
        return retrying(once)
    except UnreadableReply as error:
        raise ModelError(f"{where}: the server's reply cannot be read: {error}") from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            usage.retries += max_retries
        message = server_message(error)
        if error.status_code in (400, 413, 422) and is_context_length(error, message):
            raise ContextLengthError(f"{where}: {message}") from None
        if error.status_code == 401:
            message += " (is the right key in the environment variable that --..._api_key_env names?)"
        raise ModelError(f"{where}: status {error.status_code}: {message}", error.status_code) from None
    except openai.APIConnectionError as error:
        usage.retries += max_retries
        kind = "no answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
        raise ModelError(f"{where}: {kind} ({_shorten(str(error.__cause__ or error))})") from None


def is_context_length(error: openai.APIStatusError, message: str) -> bool:
    """Whether a server refuses a prompt because prompt and answer do not fit into the model's context window."""
    return error.code in ("context_length_exceeded", "exceed_context_size_error") or bool(
        _CONTEXT_LENGTH.search(message)
    )


def server_message(error: openai.APIStatusError) -> str:
    """What a server says of an error, in one short line."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error")
        message = (
            inner.get("message") if isinstance(inner, dict) else body.get("message") or inner or body.get("detail")
        )
        if message:
            return _shorten(str(message))
    return _shorten(error.response.text or error.message)


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + " ..."
