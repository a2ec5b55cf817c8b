"""What every request has to pass before a route sees it: the key, the origin of a browser's page, and how much it may send.

Browsers send Origin with what a page of another site asks for. Without a key a page anywhere could have this server work.
"""

import asyncio
import hmac
import logging
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from command.network import is_own
from serving.errors import STOPPED, ApiError, error_response
from serving.metrics import Metrics

LOG = logging.getLogger("serve_nudged")
LARGEST_BODY = 8 * 2**20  # bytes; the text of a long book is one
BODY_SECONDS = 30.0  # in which a body must have come
OPEN_PATHS = ("/", "/health", "/version", "/metrics", "/favicon.ico")


class Guard:
    """Lets requests through to an app, or answers them with an error; counts all of them."""

    def __init__(self, app: ASGIApp, key: str, origins: tuple[str, ...], metrics: Metrics):
        self._app, self._key, self._origins, self._metrics = app, key.encode(), origins, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope)
        try:
            self._check_origin(request)
            self._check_key(request)
        except ApiError as error:
            await error_response(error)(scope, receive, sending)
        else:
            try:
                await self._app(scope, receive, sending)
            except asyncio.CancelledError:  # the server does not wait for answers any longer
                if status:
                    raise
                await error_response(STOPPED)(scope, receive, sending)
        finally:
            route = scope.get("route")
            self._metrics.request(getattr(route, "path", "other"), status)

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        if not self._is_own(origin, request.headers.get("host", "")):
            raise ApiError(
                403,
                "pages of this origin may not ask here (--cors_origin lets them)",
                code="origin_not_allowed",
            )

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            # A name that was made to lead to this machine is its own host's name, but not this machine's.
            return urlsplit(origin).netloc == host and bool(self._key or is_own(urlsplit(f"//{host}").hostname or ""))
        except ValueError:  # no address at all
            return False

    def _check_key(self, request: Request) -> None:
        path = request.url.path
        if not self._key or path in OPEN_PATHS or request.method == "OPTIONS":
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._key)
        if kind.lower() != "bearer" or not right:
            raise ApiError(
                401,
                "the key is missing or wrong: send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


async def read_all(request: Request) -> bytes:
    """A request's body.

    Raises:
        ApiError: it is too large (413), or takes too long to come (408).
    """
    too_large = ApiError(413, f"the body may have {LARGEST_BODY // 2**20} MiB at most", code="body_too_large")
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > LARGEST_BODY:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > LARGEST_BODY:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not come within {BODY_SECONDS:g} s", code="timeout", headers={"Connection": "close"}
        ) from None
    return b"".join(parts)
