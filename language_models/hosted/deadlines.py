"""Connections that must not be waited for any longer than some seconds: one thread for all of them cuts what is overdue."""

import contextlib
import itertools
import socket
import threading
import time
from typing import Any

LOOK_SECONDS = 0.2


def cut(sock: socket.socket) -> None:
    """Cut a connection that another thread may be reading."""
    with contextlib.suppress(OSError, TypeError):
        # Not the method of TLS sockets, which takes their state from under whoever reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Deadlines:
    """Cuts connections whose time is up, which ends the reading in whichever thread waits for them.

    A read's own timeout is fixed when its request is sent. A timer each would be a new thread for every stream.
    """

    def __init__(self):
        self._cuts: dict[int, tuple[float, Any]] = {}
        self._keys = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def cut_after(self, seconds: float, stream: Any) -> int:
        """Cut a connection after some seconds, unless `is_over` is asked before.

        Args:
            stream: httpcore's network stream (the response's extension of that name); None for none.

        Returns:
            The key for `is_over`.
        """
        with self._lock:
            key = next(self._keys)
            self._cuts[key] = time.monotonic() + seconds, stream
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
        return key

    def is_over(self, key: int) -> bool:
        """Whether the connection was cut; if it was not, it will not be."""
        with self._lock:  # a connection that is being cut must not be used again meanwhile
            return self._cuts.pop(key, None) is None

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            with self._lock:
                if not self._cuts:
                    self._thread = None
                    return
                for key in [key for key, (until, _) in self._cuts.items() if until <= now]:
                    _, stream = self._cuts.pop(key)
                    if stream is not None:
                        with contextlib.suppress(AttributeError, TypeError):
                            cut(stream.get_extra_info("socket"))


DEADLINES = Deadlines()
