"""Connections of clients, where uvicorn leaves something open: what is not HTTP gets our error, and a request's head must come."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.errors import ApiError, json_bytes

HEAD_SECONDS = 30.0  # in which the first line and the header fields of a request must have come
LINGER_SECONDS = 1.0


class Connection(H11Protocol):
    """One connection; see uvicorn."""

    _head_timer: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._await_head(True)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._refused:
            return
        super().data_received(data)
        self._await_head(self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._await_head(False)
        super().connection_lost(exc)

    def _await_head(self, is_due: bool) -> None:
        if not is_due and self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        elif is_due and not self._head_timer:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _should_upgrade(self) -> bool:
        return False  # a request to change to another protocol may be left unheard

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json_bytes(ApiError(400, "this is no HTTP request that can be read", code="invalid_http").body)
            fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            head = h11.Response(status_code=400, headers=list(fields.items()), reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        # A line that is closed while something comes is reset, and the client may never read why.
        self._refused = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
