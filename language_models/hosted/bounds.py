"""An end to what a server sends: no reply may be endless, in bytes or in time."""

import time
from collections.abc import Iterator

import httpx2

from language_models.hosted.logprobs import FaultyReply

# Log-probabilities of a hundred tokens at each of a thousand places make some megabytes.
LONGEST_BODY = 64 * 2**20
EVENT_STREAM = "text/event-stream"


def check_size(size: int) -> None:
    """Raise FaultyReply for a body of more bytes than any reply has."""
    if size > LONGEST_BODY:
        raise FaultyReply(f"it sends more than {LONGEST_BODY // 2**20} MiB for one request")


def bound_body(response: httpx2.Response) -> None:
    """Have the reading of a response's body end, whatever the server does; a hook of the client (`event_hooks`).

    A body has the request's read timeout as a whole, counted from its head: a server that sends a blank now and then while it
    computes is not silent, and could be waited for without end. Streams of events are given time by whoever reads them.
    """
    seconds = (response.request.extensions.get("timeout") or {}).get("read")
    if response.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
        seconds = None
    response.stream = _BoundedBody(response.stream, seconds, response.request)


class _BoundedBody(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, seconds: float | None, request: httpx2.Request):
        self._stream, self._seconds, self._request = stream, seconds, request

    def __iter__(self) -> Iterator[bytes]:
        size, began = 0, time.monotonic()
        for part in self._stream:
            size += len(part)
            check_size(size)
            if self._seconds is not None and time.monotonic() - began > self._seconds:
                raise httpx2.ReadTimeout("the reply goes on and on", request=self._request)
            yield part

    def close(self) -> None:
        self._stream.close()
