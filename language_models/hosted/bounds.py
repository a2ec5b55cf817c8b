"""An end to what a server sends: no reply may be endless, in bytes or in time."""

import time
import zlib
from collections.abc import Iterator

import httpx2

from language_models.hosted.logprobs import FaultyReply

# Log-probabilities of a hundred tokens at each of a thousand places make some megabytes.
LONGEST_BODY = 64 * 2**20
EVENT_STREAM = "text/event-stream"
COMPRESSED = ("gzip", "x-gzip", "deflate")  # what requests allow
UNPACKED_AT_ONCE = 2**20
ANY_HEADER, NO_HEADER = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


def check_size(size: int) -> None:
    """Raise FaultyReply for a body of more bytes than any reply has."""
    if size > LONGEST_BODY:
        raise FaultyReply(f"it sends more than {LONGEST_BODY // 2**20} MiB for one request")


def bound_body(response: httpx2.Response) -> None:
    """Have the reading of a response's body end, whatever the server does; a hook of the client (`event_hooks`).

    A body has the request's read timeout as a whole, counted from its head: a server that sends a blank now and then while it
    computes is not silent, and could be waited for without end. Streams of events are given time by whoever reads them.
    It is unpacked here, since a few bytes may unpack to any number.
    """
    seconds = (response.request.extensions.get("timeout") or {}).get("read")
    if response.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
        seconds = None
    packed = response.headers.get("content-encoding", "").strip().lower() in COMPRESSED
    if packed:
        del response.headers["content-encoding"]
    response.stream = _BoundedBody(response.stream, seconds, response.request, packed)


class _BoundedBody(httpx2.SyncByteStream):
    _unpacking = None

    def __init__(self, stream: httpx2.SyncByteStream, seconds: float | None, request: httpx2.Request, packed: bool):
        self._stream, self._seconds, self._request, self._packed = stream, seconds, request, packed

    def __iter__(self) -> Iterator[bytes]:
        sent, size, began = 0, 0, time.monotonic()
        for raw in self._stream:
            sent += len(raw)
            check_size(sent)
            for part in self._unpacked(raw) if self._packed else (raw,):
                size += len(part)
                check_size(size)
                yield part
            if self._seconds is not None and time.monotonic() - began > self._seconds:
                raise httpx2.ReadTimeout("the reply goes on and on", request=self._request)

    def _unpacked(self, raw: bytes) -> Iterator[bytes]:
        if self._unpacking is None:
            self._unpacking = zlib.decompressobj(ANY_HEADER)
            try:
                self._unpacking.copy().decompress(raw, 1)
            except zlib.error:  # `deflate` comes without a header, too
                self._unpacking = zlib.decompressobj(NO_HEADER)
        try:
            part = raw
            while part and not self._unpacking.eof:
                part = self._unpacking.decompress(raw, UNPACKED_AT_ONCE)
                raw = self._unpacking.unconsumed_tail  # there may be more to come where it is empty
                yield part
        except zlib.error as error:
            raise httpx2.DecodingError(str(error), request=self._request) from None

    def close(self) -> None:
        self._stream.close()
