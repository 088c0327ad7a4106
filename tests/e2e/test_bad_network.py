"""The relay that fault tests put in front of a server does what it says."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from .bad_network import BadNetwork


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def network() -> Iterator[BadNetwork]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with BadNetwork(("127.0.0.1", server.server_port)) as relay:
        yield relay
    server.shutdown()
    server.server_close()


def test_fair_and_slow_weather_pass_everything_on(network: BadNetwork) -> None:
    assert httpx.get(network.url, trust_env=False).json() == {}
    network.weather = "slow"
    assert httpx.get(network.url, trust_env=False).json() == {}
    assert network.num_connections == 2


def test_bad_weather_cuts_stalls_or_garbles_and_passes(network: BadNetwork) -> None:
    network.weather = "down"
    with pytest.raises(httpx.TransportError):
        httpx.get(network.url, trust_env=False)
    network.weather = "garbage"
    answer = httpx.get(network.url, trust_env=False)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="Expecting"):
        answer.json()
    network.weather = "stalled"
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(network.url, timeout=0.2, trust_env=False)
    network.weather = "fair"
    assert httpx.get(network.url, trust_env=False).json() == {}


def test_a_settled_relay_has_counted_those_that_gave_up_before_they_were_accepted(network: BadNetwork) -> None:
    for _ in range(20):
        socket.create_connection(("127.0.0.1", network.port)).close()
    network.settle()
    assert network.num_connections == 21, "its own is one of them"
