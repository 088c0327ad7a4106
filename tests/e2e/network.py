"""A bad network between a client and a server on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import Enum


class Weather(Enum):
    FAIR = "fair"
    CUT = "cut"
    """Connections are closed, old ones and new ones."""
    STALL = "stall"
    """Connections stay open, and nothing passes."""


class BadNetwork:
    """Passes what comes to `port` on to a server, as the weather permits.

    Example:
        with BadNetwork(8000) as network:
            httpx.get(f"http://127.0.0.1:{network.port}/health")
            network.change(Weather.CUT)
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._fair = threading.Event()
        self._fair.set()
        self._weather = Weather.FAIR
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False

    def __enter__(self) -> BadNetwork:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_closed = True
        self._listener.close()
        self._fair.set()
        self._cut()

    def change(self, weather: Weather) -> None:
        self._weather = weather
        if weather is Weather.STALL:
            self._fair.clear()
        else:
            self._fair.set()
        if weather is Weather.CUT:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._weather is Weather.CUT:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._fair.wait()
                target.sendall(data)
        with self._lock:
            self._open -= {source, target}
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()
