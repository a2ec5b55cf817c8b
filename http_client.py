"""The one HTTP client of this program: an OpenAI client with a connection pool of the right size, retries, and plain errors."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import tenacity

from language_models import ContextLengthError, ModelError, Usage
from token_texts import UnreadableReply

CONNECT_SECONDS = 10.0
LONGEST_TIMEOUT = 86_400
NEUTRAL_API_KEY = "EMPTY"  # what servers without keys are given
LONGEST_MESSAGE = 300
# OpenAI, vLLM, SGLang, llama.cpp, Together AI and Fireworks AI each say it in their own way.
_CONTEXT_LENGTH = re.compile(
    r"context.?(length|size|window)|maximum model length|max_model_len|prompt is too long|max_new_tokens.{0,20}must be <=",
    re.I,
)


class OptionError(ValueError):
    """A command-line option that cannot work; the message says which and what to do."""


def check_url(url: str, option: str) -> None:
    """Raise OptionError unless a base URL is one."""
    if not re.match(r"https?://[^/\s]+", url):
        raise OptionError(f"{option} must be a URL such as http://localhost:8000/v1; it is {url!r}")


def without_password(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def check_requests(num_threads: int, request_timeout: float, max_retries: int) -> None:
    """Raise OptionError unless the numbers of --num_threads, --request_timeout (seconds) and --max_retries can work."""
    if num_threads < 1:
        raise OptionError(f"--num_threads must be at least 1; it is {num_threads}")
    if not 0 < request_timeout <= LONGEST_TIMEOUT:
        raise OptionError(
            f"--request_timeout must be above 0 and at most {LONGEST_TIMEOUT} seconds; it is {request_timeout}"
        )
    if max_retries < 0:
        raise OptionError(f"--max_retries must be 0 or more; it is {max_retries}")


def api_key(variable: str, option: str) -> str:
    """The API key that an environment variable holds.

    Raises:
        OptionError: it holds none, or one that no HTTP header can carry. The message shows no key.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise OptionError(f"{option} takes the name of an environment variable that holds the key, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise OptionError(f"{option}: the environment variable {variable} is not set")
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"{option}: the key in {variable} has characters that no key can have; was it copied whole?")
    return key


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


def request(
    call: Callable[[], Any], read: Callable[[dict], Any], *, where: str, client: openai.OpenAI, usage: Usage
) -> Any:
    """Send a request and read its reply; a reply that cannot be read is asked for again like a failed one.

    Args:
        call: sends the request through an OpenAI client's `with_raw_response`.
        read: turns the reply's JSON object into what the caller wants; raises UnreadableReply if it cannot.
        where: the model and its host, for messages.
        client: the client that `call` uses; its key is kept out of messages, its retries count for unreadable replies too.
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
            body = _read_json(raw.content)
        except ValueError:
            raise UnreadableReply(f"it is no JSON: {_shorten(raw.text)!r}") from None
        if not isinstance(body, dict):
            raise UnreadableReply(f"it is no JSON object: {_shorten(raw.text)!r}")
        tokens = body.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            count = tokens.get(name) if isinstance(tokens, dict) else None
            setattr(usage, name, getattr(usage, name) + (count if isinstance(count, int) else 0))
        return read(body)

    def without_key(message: str) -> str:
        return message if client.api_key == NEUTRAL_API_KEY else message.replace(client.api_key, "***")

    max_retries = client.max_retries

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
        raise ModelError(without_key(f"{where}: the server's reply cannot be read: {error}")) from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            usage.retries += max_retries
        message = server_message(error)
        if error.status_code in (400, 413, 422) and is_context_length(error, message):
            raise ContextLengthError(without_key(f"{where}: {message}")) from None
        if error.status_code == 401:
            message += " (is the right key in the environment variable that --..._api_key_env names?)"
        raise ModelError(without_key(f"{where}: status {error.status_code}: {message}"), error.status_code) from None
    except openai.APIConnectionError as error:
        usage.retries += max_retries
        kind = "no answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
        reason = _shorten(str(error.__cause__ or error))
        raise ModelError(without_key(f"{where}: {kind} ({reason})")) from None


def _read_json(content: bytes):
    """The JSON value of a reply; halves of characters, which some servers escape, become replacement characters."""
    body = json.loads(content)
    if b"\\ud" not in content.lower():
        return body
    text = json.dumps(body, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


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
