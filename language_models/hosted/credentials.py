"""What goes with each request: the key or password of its server, to that server alone.

OpenAI's client takes keys, organization, project, further headers and the address itself from the variables OPENAI_... of the
environment. They go to OpenAI; to any other server go the headers that are needed, and nothing else.
"""

import os
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote

import httpx2

from command.errors import OptionError
from command.options import is_openai, split_credentials
from command.secrets import without_password

OPENAI_URL = "https://api.openai.com/v1"
MOST_REDIRECTS = 5
# OpenAI's client makes headers of these before it is known to whom they would go.
SENT_TO_OPENAI = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS")
# These keep method and body of a request.
KEEPS_THE_REQUEST = (307, 308)
# The last is a mark that OpenAI's client looks for on its own request.
KEPT_HEADERS = ("content-length", "transfer-encoding", "x-stainless-raw-response")


def openai_url() -> str:
    """OpenAI's base URL: the one of OPENAI_BASE_URL where that is OpenAI's, too (a region's)."""
    told = os.environ.get("OPENAI_BASE_URL", "").strip()
    return told if told and is_openai(told) else OPENAI_URL


class Credentials(httpx2.Auth):
    """Sends key or password along, and follows redirects that stay on the server and keep the request.

    Args:
        host: base URL, perhaps with user and password, which are sent instead of the key; None for OpenAI.

    Raises:
        OptionError: the URL cannot be used, or one of OpenAI's variables.
    """

    def __init__(self, host: str | None, api_key: str):
        self.base_url, userinfo = split_credentials(host or OPENAI_URL)
        for name in SENT_TO_OPENAI:
            told = os.environ.get(name, "")
            if not told.isascii() or not told.replace("\n", "").isprintable():
                raise OptionError(f"{name} has characters that no header of a request can have; mend or unset it")
        try:
            httpx2.URL(self.base_url)
        except httpx2.InvalidURL as error:
            raise OptionError(f"{without_password(self.base_url)} is no URL ({error})") from None
        self._is_openai = is_openai(host)
        self._authorization = None if self._is_openai else f"Bearer {api_key}"
        if userinfo:
            user, _, password = userinfo.partition(":")
            told = f"{unquote(user)}:{unquote(password)}".encode()
            self._authorization = f"Basic {b64encode(told).decode()}"

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:
        """See httpx2.Auth."""
        if not self._is_openai:
            request.headers = self._needed_headers(request)
        if self._authorization:
            request.headers["Authorization"] = self._authorization
        for _ in range(MOST_REDIRECTS):
            response = yield request
            onward = self._onward(request, response)
            if onward is None:
                return
            request = onward
        yield request

    def _needed_headers(self, request: httpx2.Request) -> httpx2.Headers:
        needed = {
            "Host": request.url.netloc.decode("ascii"),
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "Connection": "keep-alive",
            "Content-Type": "application/json",
            "User-Agent": "nudging",
        }
        kept = {name: request.headers[name] for name in KEPT_HEADERS if name in request.headers}
        return httpx2.Headers(needed | kept)

    def _onward(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
        """The request that follows a redirect; None where there is none to be followed."""
        if not response.has_redirect_location or not (
            response.status_code in KEEPS_THE_REQUEST or request.method == "GET"
        ):
            return None
        try:
            there = request.url.join(response.headers["location"])
        except httpx2.InvalidURL:
            return None
        if there.origin != request.url.origin:
            return None
        there = there.copy_with(username=None, password=None)
        return httpx2.Request(
            request.method, there, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
