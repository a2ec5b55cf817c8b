"""Connections that are cut where what they are waited for is cancelled: while they are opened, and until a response is over.

A connection is shared by many requests, one after another. It belongs to a request's cancellation from the first byte that is sent
until the response is closed, which puts it back: so it is cut for nobody else, and one that was cut is not used again.
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import httpcore2
import httpx2

from language_models.cancelling import Cancellation, current
from language_models.hosted.background import begin
from language_models.hosted.deadlines import cut

POOL_SECONDS = 0.2  # between two looks while all connections are in use


class _Use:
    """The connections of one request, for as long as it lasts."""

    def __init__(self, cancellation: Cancellation):
        self.cancellation = cancellation
        self._keys: dict[socket.socket, int] = {}

    def hold(self, sock: socket.socket) -> None:
        """Have a connection be cut by the cancellation."""
        if sock not in self._keys:
            self._keys[sock] = self.cancellation.when_cancelled(lambda: cut(sock))

    def release(self, sock: socket.socket) -> None:
        """Have it not be cut any more."""
        self.cancellation.forget(self._keys.pop(sock))

    def end(self) -> None:
        """Have none of them be cut any more."""
        for sock in list(self._keys):
            self.release(sock)


class _OfThread(threading.local):
    use: _Use | None = None


_HERE = _OfThread()


class Transport(httpx2.HTTPTransport):
    """As httpx2's own; requests of a thread that has a cancellation end with it, by Cancelled."""

    def __init__(self, **options):
        super().__init__(**options)
        # httpx2 has no other way to its pool's. Without it, which tests would tell, a cancelled request ends with the next byte.
        pool = getattr(self, "_pool", None)
        if backend := getattr(pool, "_network_backend", None):
            pool._network_backend = _Network(backend)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2.BaseTransport."""
        cancellation = current()
        if cancellation is None:
            return super().handle_request(request)
        use = _Use(cancellation)
        before, _HERE.use = _HERE.use, use
        try:
            response = self._when_free(request, cancellation)
        except BaseException as error:
            use.end()
            if isinstance(error, httpx2.HTTPError):
                cancellation.check()
            raise
        finally:
            _HERE.use = before
        response.stream = _Body(response.stream, use)
        return response

    def _when_free(self, request: httpx2.Request, cancellation: Cancellation) -> httpx2.Response:
        """The response, once there is a connection for the request; the pool's own waiting cannot be ended."""
        timeouts = request.extensions.get("timeout") or {}
        if timeouts.get("pool") is not None:
            return super().handle_request(request)
        request.extensions = request.extensions | {"timeout": timeouts | {"pool": POOL_SECONDS}}
        while True:
            cancellation.check()
            try:
                return super().handle_request(request)
            except httpx2.PoolTimeout:
                continue


class _Body(httpx2.SyncByteStream):
    """The body of a response under a cancellation."""

    def __init__(self, stream: httpx2.SyncByteStream, use: _Use):
        self._stream, self._use = stream, use

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except (httpx2.HTTPError, httpx2.StreamError):
            self._use.cancellation.check()
            raise
        self._use.cancellation.check()  # a cut line may be an end of a body, too

    def close(self) -> None:
        self._use.end()  # before somebody else may have the connection
        self._stream.close()


class _Network(httpcore2.NetworkBackend):
    """Opens connections that can be cut."""

    def __init__(self, backend: httpcore2.NetworkBackend):
        self._backend = backend

    def connect_tcp(self, *args, **options) -> "_Stream":
        return _Stream(self._connect(lambda: self._backend.connect_tcp(*args, **options)))

    def connect_unix_socket(self, *args, **options) -> "_Stream":
        return _Stream(self._connect(lambda: self._backend.connect_unix_socket(*args, **options)))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)

    def _connect(self, connect) -> httpcore2.NetworkStream:
        if _HERE.use is None:
            return connect()
        # Looking up a name and connecting cannot be ended from outside: they end in a thread of their own, within their timeout.
        connecting, over = begin(connect), threading.Event()
        connecting.add_done_callback(lambda _: over.set())
        cancellation = _HERE.use.cancellation
        try:
            key = cancellation.when_cancelled(over.set)
            over.wait()
            cancellation.forget(key)
            cancellation.check()
        except BaseException:
            connecting.add_done_callback(_close)
            raise
        return connecting.result()


def _close(connecting: "Future[httpcore2.NetworkStream]") -> None:
    """Close a connection that nobody wants any more once it is there."""
    if connecting.exception() is None:
        connecting.result().close()


class _Stream(httpcore2.NetworkStream):
    """A connection; it belongs to the request that writes to it."""

    def __init__(self, stream: httpcore2.NetworkStream):
        self._stream = stream
        self.read, self.close, self.get_extra_info = stream.read, stream.close, stream.get_extra_info

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if _HERE.use is not None:
            _HERE.use.hold(self._stream.get_extra_info("socket"))
        self._stream.write(buffer, timeout)

    def start_tls(self, *args, **options) -> "_Stream":
        use, sock = _HERE.use, self._stream.get_extra_info("socket")
        if use is None:
            return _Stream(self._stream.start_tls(*args, **options))
        if isinstance(sock, ssl.SSLSocket):  # TLS within TLS keeps the outer one's
            use.hold(sock)
            return _Stream(self._stream.start_tls(*args, **options))
        with sock.dup() as twin:  # TLS takes the socket away from under this one
            use.hold(twin)
            try:
                return _Stream(self._stream.start_tls(*args, **options))
            finally:
                use.release(twin)
