"""Pushes of weights to a small HTTP server in this process: what cannot be sent is a sentence, and nothing is left behind. The real one is in tests/e2e."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.generation import transfers
from coordexp.generation.protocol import BackendLostError
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.transfers import SharedFiles
from coordexp.generation.weight_transfer import WeightPusher
from coordexp.types.errors import BackendError

FACTS = {"model": "m", "dtype": "float32", "device": "cpu", "backend": "coordexp", "workers": 1, "max_model_len": 100, "lora": False}
WEIGHTS = [("a", torch.ones(100_000))]


class Server(ThreadingHTTPServer):
    """Takes everything but connections of a group, which it answers with 500, and what it is told to refuse."""

    daemon_threads = True
    refused = ""
    """A route."""

    @property
    def address(self) -> ServerAddress:
        return ServerAddress(f"http://127.0.0.1:{self.server_port}")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply(200, {})

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/collective_rpc":
            self._reply(200, {"results": [FACTS]})
        elif self.path == self.server.refused:
            self._reply(400, {"said": "no"})
        else:
            self._reply(500 if b'"gloo"' in body else 200, {"said": "no group here"})

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def base_url() -> Iterator[str]:
    with running() as server:
        yield server.address.base_url


def test_a_server_that_does_not_join_the_weight_channel_is_lost_with_what_it_said(base_url: str) -> None:
    pusher = WeightPusher(ServerPool([ServerAddress(base_url)], needs_sync=True), transfer="gloo", timeout_s=0.5)
    with pytest.raises(BackendLostError, match=r"it answers with 500: .*no group here"):
        pusher.push(WEIGHTS, version=1)


def test_a_push_that_one_server_refuses_leaves_none_that_answers_with_its_weights() -> None:
    with running() as first, running() as second, running() as third:
        pool = ServerPool([first.address, second.address, third.address], needs_sync=True)
        pusher = WeightPusher(pool, verify_every=0)
        pusher.push(WEIGHTS, version=1)
        second.refused = "/finish_weight_update"
        with pytest.raises(BackendError, match="refuses the request"):
            pusher.push(WEIGHTS, version=2)
        # the caller knows version 1 alone
        assert {address: pool.state(address).version for address in pool.usable()} == {third.address: 1}
        second.refused = ""
        assert len(pusher.push(WEIGHTS, version=2).pushed) == 3
        assert {pool.state(address).version for address in pool.usable()} == {2}


def test_a_port_of_the_weight_channel_that_is_taken_is_named(base_url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        pusher = WeightPusher(ServerPool([ServerAddress(base_url, group_port=port)], needs_sync=True), transfer="gloo", timeout_s=0.5)
        with pytest.raises(BackendError, match=rf"cannot listen on 127.0.0.1, port {port}.*choose another group_port"):
            pusher.push(WEIGHTS, version=1)


def test_shared_memory_that_is_too_small_is_a_sentence_and_nothing_stays_in_it(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_SHARED_MEMORY", tmp_path)
    pusher, limits = WeightPusher(ServerPool([ServerAddress(base_url)])), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(BackendError, match=rf"{tmp_path} does not take the weights .*--shm-size"):
            pusher.push(WEIGHTS, version=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_learners_have_left_goes_with_the_next_push_and_what_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_SHARED_MEMORY", tmp_path)
    old, new, other = (tmp_path / name for name in ("coordexp-weights-old", "coordexp-weights-new", "theirs"))
    for path in (old, new, other):
        path.mkdir()
        (path / ".tmp-half-written").write_bytes(b"weights")
    with contextlib.ExitStack() as stack:
        used = stack.enter_context(SharedFiles()).path(WEIGHTS)
        for folder in (old, other, used.parent):
            os.utime(folder, (0, 0))
        used_too = stack.enter_context(SharedFiles()).path(WEIGHTS)
        assert set(tmp_path.iterdir()) == {new, other, used.parent, used_too.parent}
        assert [load_file(path)["a"].sum() for path in (used, used_too)] == [100_000, 100_000]
    assert set(tmp_path.iterdir()) == {new, other}
