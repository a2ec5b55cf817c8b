"""The one HTTP client of this program: an OpenAI client with a connection pool of the right size, and plain errors."""

import contextlib
import json
import re
import ssl
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import openai

from command.network import check_certificates, proxy_for
from command.secrets import NEUTRAL_API_KEY, hide, without_password
from language_models.cancelling import check
from language_models.hosted.bounds import bound_body
from language_models.hosted.credentials import OPENAI_URL, Credentials, openai_url
from language_models.hosted.logprobs import FaultyLogprobs, FaultyReply, UnreadableReply
from language_models.hosted.network import Transport
from language_models.hosted.retries import asked_to_wait
from language_models.hosted.server_errors import ServerError, ServerFailure, error_in, error_of_reply
from language_models.interface import ContextLengthError, ModelError, ProbabilityError, TransientError, Usage

T = TypeVar("T")
CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 5.0
LONGEST_MESSAGE = 300


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
    transport = Transport(
        limits=limits,
        proxy=proxy and proxy.url,
        # Reading all certificates takes a while, and without https none is looked at.
        verify=httpx2.create_ssl_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=False,  # what it would read there has been read above
    )
    return openai.DefaultHttpxClient(
        transport=transport,
        timeout=timeout,
        trust_env=False,
        follow_redirects=False,  # see Credentials
        event_hooks={"response": [bound_body]},
    )


def place(name: str, host: str | None) -> str:
    """A model and its host for messages, with the proxy between."""
    proxy = proxy_for(host or OPENAI_URL)
    return f"{name} at {without_password(host) if host else 'OpenAI'}" + (f" through {proxy.shown}" if proxy else "")


def make_client(host: str | None, api_key: str, http: httpx2.Client) -> openai.OpenAI:
    """An OpenAI client that sends each request once (see retries.persist).

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
    if response.is_success:
        return response
    try:
        response.read()
    finally:
        response.close()  # a body that breaks off must not keep its connection
    raise openai.APIStatusError(f"status {response.status_code}", response=response, body=None)


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
    except FaultyReply as error:
        raise ModelError(plain(str(error))) from None
    except UnreadableReply as error:
        raise TransientError(plain(f"the server's reply cannot be read: {error}"), unreadable=True) from None
    except ServerFailure as failure:
        raise _refusal(failure.error, plain, None, failure.in_words, client.api_key) from None
    except openai.APIStatusError as error:
        if error.response.is_redirect:
            raise ModelError(
                plain(f"status {error.status_code}: {moved_to(error.response)}"), error.status_code
            ) from None
        text = error.response.content.decode("utf-8", "replace")  # the charset that is told may be anything
        told = error_of_reply(_json(text), error.status_code, text)
        raise _refusal(told, plain, error.response, f"status {error.status_code}", client.api_key) from None
    except (openai.APIConnectionError, httpx2.RequestError) as error:
        # Where openai's client does not stand between, the errors are httpx2's own.
        cause = error if isinstance(error, httpx2.RequestError) else error.__cause__
        if isinstance(cause, FaultyReply):
            raise ModelError(plain(str(cause))) from None
        if isinstance(cause, httpx2.DecodingError):
            raise TransientError(
                plain(f"the server's reply cannot be read: it is not compressed as it says ({cause})"), unreadable=True
            ) from None
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
        check()  # a connection that was cut here says nothing of the server
        return False
    return True


def _refusal(
    error: ServerError, plain: Callable[[str], str], response: httpx2.Response | None, how: str, api_key: str
) -> ModelError:
    """What a server's error is to us; `how` it came stands in front of its words."""
    status, message = error.status, error.message
    if error.is_context_length:
        return ContextLengthError(plain(message))
    if status == 401:
        message = f"{missing_key(api_key)} {message}"
    message = plain(f"{how}: {message}")
    if error.passes:
        return TransientError(
            message, status, retry_after=None if response is None else asked_to_wait(response.headers)
        )
    return ModelError(message, status)


def _json(text: str) -> object:
    """The JSON value of a text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _body(content: bytes, usage: Usage) -> dict:
    """The JSON object of a reply, its token counts added to `usage`."""
    body = json_object(content)
    if error := error_in(body):
        raise ServerFailure(error, "the reply is an error")
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
    except (ValueError, RecursionError):
        raise UnreadableReply(f"it is no JSON: {content.decode('utf-8', 'replace')!r}") from None
    if not isinstance(body, dict):
        raise UnreadableReply(f"it is no JSON object: {str(body)!r}")
    if b"\\ud" not in content.lower():
        return body
    text = json.dumps(body, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


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
