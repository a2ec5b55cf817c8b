"""The application: routes behind their guard; and the server that runs it until it is told to stop."""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from command.errors import UserError
from nudged_pair import NudgedPair
from serving.connections import Connection
from serving.errors import ApiError
from serving.guard import Guard
from serving.metrics import Metrics
from serving.routes import Api, on_any_error, on_api_error, on_disconnect, on_http_error
from serving.settings import COMMAND, ServeSettings
from serving.slots import Slots

GRACE_SECONDS = 30  # for answers that are being written when the server is told to stop
BACKLOG = 2048  # connections that wait to be accepted; uvicorn's
IDLE_SECONDS = 75  # after which a connection without a request is closed; longer than load balancers keep theirs


def make_app(pair: NudgedPair, settings: ServeSettings) -> ASGIApp:
    """The application over a pair; its pool of threads ends with the process, or by `app.state.slots.close()`."""
    metrics = Metrics()
    slots = Slots(pair, settings.max_concurrent, metrics)
    api = Api(pair, settings, slots, metrics)
    origins = tuple(origin.lower() for origin in settings.cors_origin)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    app = Starlette(
        routes=api.routes,
        middleware=[
            *([cors] if origins else []),
            Middleware(Guard, key=settings.key, origins=origins, metrics=metrics),
        ],
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_disconnect,
            Exception: on_any_error,
        },
    )
    app.state.slots = slots
    return app


def bind(settings: ServeSettings) -> socket.socket:
    """A socket at the address to listen on; nobody can connect yet.

    Raises:
        UserError: it cannot be bound.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {settings.host} --port {settings.port} cannot be listened on ({error.strerror or error}); choose another"
        ) from None
    return listening


class Server(uvicorn.Server):
    """A server that a first signal asks to finish what it is writing, and a second one to leave at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, self._stop) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        COMMAND.note(
            f"told to stop: no new requests, and up to {GRACE_SECONDS} s for the answers that are being written"
        )


def make_server(app: ASGIApp) -> Server:
    """What runs an application."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,  # its lines would show addresses and paths; errors of ours are logged by ourselves
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return Server(config)
