"""A relay in front of a real server that behaves as networks and servers do on a bad day."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

Weather: TypeAlias = Literal["fair", "down", "stalled", "garbage", "slow"]
"""fair: passes everything on; down: every connection is cut, also those that are open; stalled: takes requests and says nothing; garbage: answers 200 with what
is no JSON; slow: passes on after `delay_s`."""

_GARBAGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{]<html>oops</html"


@dataclass(frozen=True)
class _Link:
    client: socket.socket
    server: socket.socket | None

    def cut(self) -> None:
        for end in (self.client, self.server):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class BadNetwork:
    """Relays bytes between clients and `host:port`; a thread for each direction of each connection.

    Example:
        with BadNetwork(("127.0.0.1", 8000)) as network:
            network.weather = "down"
            requests_to(network.url)
    """

    def __init__(self, target: tuple[str, int], *, delay_s: float = 0.2) -> None:
        self._target, self._delay_s = target, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Condition()
        self._weather: Weather = "fair"
        self._links: list[_Link] = []
        self._is_closed = False
        self._last_client: tuple[str, int] | None = None
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> BadNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, value: Weather) -> None:
        with self._lock:
            self._weather = value
            links, self._links = (self._links, []) if value in ("down", "garbage") else ([], self._links)
            self._lock.notify_all()
        for link in links:
            link.cut()

    def settle(self) -> None:
        """Wait until every connection that was opened before is counted: also one that its client gave up while it waited to be accepted."""
        with socket.create_connection(("127.0.0.1", self.port)) as own, self._lock:
            self._lock.wait_for(lambda: self._last_client == own.getsockname() or self._is_closed)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            links, self._links = self._links, []
            self._lock.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in links:
            link.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, name = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.num_connections += 1
                self._last_client = name
                weather = self._weather
                self._lock.notify_all()
            threading.Thread(target=self._serve, args=(client, weather), daemon=True).start()

    def _serve(self, client: socket.socket, weather: Weather) -> None:
        if weather == "down":
            client.close()
            return
        if weather == "garbage":
            with contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(_GARBAGE)
            client.close()
            return
        try:
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        link = _Link(client, server)
        with self._lock:
            self._links.append(link)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(link, source, sink), daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    self._lock.wait_for(lambda: self._weather != "stalled" or self._is_closed)
                    if self._weather == "slow":
                        self._lock.wait(self._delay_s)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            link.cut()
