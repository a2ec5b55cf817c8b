"""A load balancer of the simplest kind: each TCP connection goes to the next server that takes it."""

import contextlib
import itertools
import socket
import threading


class RoundRobin:
    """Listens on a free loopback port; `taken` counts connections by server.

    Args:
        ports: of the servers on this machine.
    """

    def __init__(self, ports: list[int]):
        self.taken = dict.fromkeys(ports, 0)
        self._next = itertools.cycle(ports)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket:
        for port in itertools.islice(self._next, len(self.taken)):
            with contextlib.suppress(OSError):
                server = socket.create_connection(("127.0.0.1", port))
                self.taken[port] += 1
                return server
        raise AssertionError("no server takes a connection")


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy what comes until its end, which is passed on."""
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            sink.sendall(part)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
