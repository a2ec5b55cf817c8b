"""The one HTTP client of this program: an OpenAI client with a connection pool of the right size, retries, and plain errors."""

import contextlib
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai

from command.network import check_certificates, proxy_for
from command.secrets import NEUTRAL_API_KEY, hide, without_password
from language_models.hosted.credentials import OPENAI_URL, Credentials, openai_url
from language_models.hosted.logprobs import FaultyLogprobs, UnreadableReply
from language_models.interface import ContextLengthError, ModelError, ProbabilityError, TransientError, Usage

T = TypeVar("T")
CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 5.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling
LONGEST_RETRY_AFTER = 300.0
LONGEST_MESSAGE = 300
# OpenAI, vLLM, SGLang, llama.cpp, Together AI and Fireworks AI each say it in their own way.
_CONTEXT_LENGTH = re.compile(
    r"context.?(length|size|window)|maximum model length|max_model_len|prompt is too long|max_new_tokens.{0,20}must be <=",
    re.I,
)


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failed request is sent again.

    `retries`: how often, where the server answers with a failure or too late. `outage_seconds`: for how long at least, where it
    cannot be reached at all, as while it is started again; with `retries` 0 not even then.
    """

    retries: int = 8
    outage_seconds: float = 0.0


def make_http(host: str | None, max_connections: int, request_timeout: float) -> httpx2.Client:
    """A connection pool that really allows `max_connections` requests at once.

    Args:
        host: base URL of the one server that it is for, None for OpenAI; the environment's proxy is used where there is one for it.
        request_timeout: seconds that a server may stay silent.

    Raises:
        OptionError: a variable of the environment names a proxy or certificates that cannot be used.
    """
    check_certificates()
    proxy = proxy_for(host or OPENAI_URL)
    https = (host or OPENAI_URL).lower().startswith("https:")
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    timeout = httpx2.Timeout(request_timeout, connect=min(CONNECT_SECONDS, request_timeout), pool=None)
    return openai.DefaultHttpxClient(
        limits=limits,
        timeout=timeout,
        proxy=proxy and proxy.url,
        # Reading all certificates takes a while, and without https none is looked at.
        verify=httpx2.create_ssl_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=False,  # what it would read there has been read above
        follow_redirects=False,  # see Credentials
    )


def place(name: str, host: str | None) -> str:
    """A model and its host for messages, with the proxy between."""
    proxy = proxy_for(host or OPENAI_URL)
    return f"{name} at {without_password(host) if host else 'OpenAI'}" + (f" through {proxy.shown}" if proxy else "")


def make_client(host: str | None, api_key: str, http: httpx2.Client) -> openai.OpenAI:
    """An OpenAI client that sends each request once (see `persist`).

    Args:
        host: base URL such as http://localhost:8000/v1; None for OpenAI itself.
        http: what it sends them through, made for this host.
    """
    http.auth = Credentials(host, api_key)
    url = http.auth.base_url if host else openai_url()
    return openai.OpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=http.timeout, http_client=http)


def checked(response: httpx2.Response) -> httpx2.Response:
    """A response that is no error.

    Raises:
        openai.APIStatusError: it is one.
    """
    if not response.is_success:
        response.read()
        try:
            body = response.json()
        except ValueError:
            body = response.text
        inner = body.get("error", body) if isinstance(body, dict) else body
        raise openai.APIStatusError(f"status {response.status_code}", response=response, body=inner)
    return response


def persist(attempt: Callable[[], T], retry_policy: RetryPolicy, usage: Usage) -> T:
    """Call a function again and again until it does not raise TransientError; its last error where the policy gives up.

    Between tries pass 0.5 s doubling up to 8 s, with jitter, or the seconds that the server asks for. `usage` counts the retries.
    """
    failures = misses = 0
    outage_began = None
    while True:
        try:
            return attempt()
        except TransientError as error:
            if error.unreachable:
                misses += 1
                outage_began = outage_began or time.monotonic()
                waiting = retry_policy.retries > 0 and time.monotonic() - outage_began < retry_policy.outage_seconds
                if misses > retry_policy.retries and not waiting:
                    raise
            else:
                failures, misses, outage_began = failures + 1, 0, None
                if failures > retry_policy.retries:
                    raise
            usage.retries += 1
            time.sleep(seconds_to_wait(error, failures + misses))


def seconds_to_wait(error: TransientError, tries: int) -> float:
    """How long to wait after a failure, the `tries`-th in a row."""
    if error.retry_after is not None:
        return error.retry_after
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries - 1, 10)) * random.uniform(0.75, 1)


def request(
    call: Callable[[], Any],
    read: Callable[[dict], T],
    *,
    where: str,
    client: openai.OpenAI,
    usage: Usage,
) -> T:
    """Send a request once and read its reply.

    Args:
        call: sends the request; its value has the reply as `content`.
        read: turns the reply's JSON object into what the caller wants; raises UnreadableReply if it cannot.
        where: the model and its host, for messages.
        client: the client that `call` uses; its key is kept out of messages.
        usage: answered requests and tokens are counted here.

    Raises:
        ContextLengthError: the server says that the prompt does not fit.
        ProbabilityError: log-probabilities are missing, or are none.
        TransientError: no answer, status 408, 409, 429 or 5xx, or a reply that cannot be read.
        ModelError: any other refusal.
    """

    with plain_errors(where, client):
        raw = call()
        usage.requests += 1
        return read(_body(raw.content, usage))


@contextlib.contextmanager
def plain_errors(where: str, client: openai.OpenAI) -> Iterator[None]:
    """Turn what goes wrong between a client and its server into the errors of `request`, which name the model and its host."""

    def plain(message: str) -> str:
        return f"{where}: {shorten(message)}"

    try:
        yield
    except FaultyLogprobs as error:
        raise ProbabilityError(plain(str(error))) from None
    except UnreadableReply as error:
        raise TransientError(plain(f"the server's reply cannot be read: {error}")) from None
    except openai.APIStatusError as error:
        status, message = error.status_code, server_message(error)
        if status in (400, 413, 422) and is_context_length(error, message):
            raise ContextLengthError(plain(message)) from None
        if 300 <= status < 400:
            message = moved_to(error.response)
        if status == 401:
            message = f"{missing_key(client.api_key)} {message}"
        message = plain(f"status {status}: {message}")
        if status in (408, 409, 429) or status >= 500:
            raise TransientError(message, status, retry_after=_retry_after(error.response)) from None
        raise ModelError(message, status) from None
    except (openai.APIConnectionError, httpx2.TransportError) as error:
        # While a stream is read, the errors are httpx2's own.
        cause = error if isinstance(error, httpx2.TransportError) else error.__cause__
        in_time = not isinstance(error, openai.APITimeoutError | httpx2.TimeoutException)
        # A machine that is gone lets the connection itself time out.
        unreachable = in_time or isinstance(cause, httpx2.ConnectTimeout)
        message = plain(f"{'cannot be reached' if in_time else 'no answer in time'} ({cause or error})")
        raise TransientError(message, unreachable=unreachable) from None


def answers(client: openai.OpenAI) -> bool:
    """Whether a client's server says anything at all, within seconds."""
    try:
        client.with_options(timeout=HEALTH_SECONDS).get("/models", cast_to=httpx2.Response)
    except openai.APIStatusError as error:
        return error.status_code < 500
    except openai.APIConnectionError:
        return False
    return True


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds that a server's Retry-After asks for, at most some minutes; None without one (dates are not looked at)."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None


def _body(content: bytes, usage: Usage) -> dict:
    """The JSON object of a reply, its token counts added to `usage`."""
    body = json_object(content)
    tokens = body.get("usage")
    for name in ("prompt_tokens", "completion_tokens"):
        count = tokens.get(name) if isinstance(tokens, dict) else None
        setattr(usage, name, getattr(usage, name) + (count if isinstance(count, int) else 0))
    return body


def json_object(content: bytes) -> dict:
    """The JSON object of a reply; halves of characters, which some servers escape, become replacement characters.

    Raises:
        UnreadableReply: it is none.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise UnreadableReply(f"it is no JSON: {content.decode('utf-8', 'replace')!r}") from None
    if not isinstance(body, dict):
        raise UnreadableReply(f"it is no JSON object: {str(body)!r}")
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
    """What a server says of an error."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error")
        message = (
            inner.get("message") if isinstance(inner, dict) else body.get("message") or inner or body.get("detail")
        )
        if message:
            return str(message)
    return error.response.text or error.message


def missing_key(api_key: str) -> str:
    """What to look at where a server asks for a key."""
    if api_key == NEUTRAL_API_KEY:
        return "no key was sent: --..._api_key_env names the environment variable that holds one."
    return "is the right key in the environment variable that --..._api_key_env names?"


def moved_to(response: httpx2.Response) -> str:
    """What is said of a redirect that is not followed, with the base URL to give instead."""
    try:
        there = response.request.url.join(response.headers["location"])
    except (KeyError, httpx2.InvalidURL):
        return "the server sends the request on to nowhere; is the host right?"
    base = re.sub(r"/((chat/)?completions|models)/*$", "", str(there))
    shown = without_password(base)
    return f"the server sends requests on to another address, to which they are not sent by themselves; is the host {shown}?"


def shorten(text: str) -> str:
    """A text on one line of limited length, without keys: a part of one would no longer be recognised."""
    text = " ".join(hide(text).split())
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + " ..."
