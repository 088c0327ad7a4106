"""The rollout servers as a learner knows them: where they are, which weights they hold, and whether they may be asked. No torch, no HTTP.

A server that was lost (it did not answer, or answered with weights that nobody pushed) is asked nothing until weights were pushed to it again: it may have been
restarted, and would answer with the weights of its first day.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.generation.protocol import BackendLostError
from coordexp.types.errors import ConfigError

_WHERE = "rollout_matching.vllm.server"
_FIX = "start the servers again ('coordexp rollout-server'); the learner pushes its weights at the next step"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Example: `ServerAddress("http://127.0.0.1:8000")`"""

    base_url: str
    group_port: int | None = None
    """Port on the learner's machine where the weight channel meets; None: any free one."""

    def __post_init__(self) -> None:
        scheme, separator, rest = self.base_url.partition("://")
        port = rest.rstrip("/").rpartition(":")[2]
        if scheme not in ("http", "https") or not separator or not port.isdigit():
            raise ConfigError(f"{self.base_url!r} is no http(s) address with a port", where="server address", fix="write http://127.0.0.1:8000")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    @property
    def host(self) -> str:
        return self.base_url.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    @property
    def is_loopback(self) -> bool:
        return self.host in ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class ServerState:
    """Of one server at one moment."""

    version: int | None = None
    """Of the weights that were pushed last; None: none were, it has those that it was started with."""
    needs_sync: bool = False
    """It may not be asked before weights were pushed."""
    last_error: str = ""
    adapter: str | None = None
    """Name of the adapter that requests ask for; None: the model itself."""


class ServerPool:
    """Shared by the client that asks and by the one that pushes, in any thread.

    Every method returns at once. `usable` is read before requests are sent; `mark_lost` is called by whoever found a server dead or stale; `mark_synced` by
    whoever pushed, and on the other learner ranks after the barrier behind a push.

    Example:
        pool = ServerPool([ServerAddress("http://127.0.0.1:8000")], needs_sync=True)
        pool.usable() == []
        pool.mark_synced(pool.addresses[0], version=3)
        pool.state(pool.addresses[0]).version == 3
    """

    def __init__(self, addresses: Sequence[ServerAddress], *, needs_sync: bool = False, where: str = _WHERE, fix: str = _FIX) -> None:
        """Args beside the obvious.

        needs_sync: nothing is sent before the first push.
        where, fix: of the error when no server is left.

        Raises:
            ConfigError: there is none, or one twice.
        """
        if len({address.base_url for address in addresses}) != len(addresses) or not addresses:
            raise ConfigError("needs at least one server, each once", where="rollout_matching.vllm.server.servers", fix="give the base_url of each server")
        self.addresses = tuple(addresses)
        self._where, self._fix = where, fix
        self._lock = threading.Lock()
        self._states = {address.base_url: ServerState(needs_sync=needs_sync) for address in addresses}

    def state(self, address: ServerAddress) -> ServerState:
        with self._lock:
            return self._states[address.base_url]

    def usable(self) -> list[ServerAddress]:
        """Those that may be asked, in the order of the configuration."""
        with self._lock:
            return [address for address in self.addresses if not self._states[address.base_url].needs_sync]

    @property
    def needs_sync(self) -> bool:
        """Whether a server waits for weights."""
        return len(self.usable()) < len(self.addresses)

    def mark_lost(self, address: ServerAddress, error: str) -> None:
        with self._lock:
            self._states[address.base_url] = ServerState(version=self._states[address.base_url].version, needs_sync=True, last_error=error)

    def mark_synced(self, address: ServerAddress, *, version: int, adapter: str | None = None) -> None:
        with self._lock:
            self._states[address.base_url] = ServerState(version=version, adapter=adapter)

    def snapshot(self) -> dict[str, ServerState]:
        """By base_url; for another rank's `adopt`."""
        with self._lock:
            return dict(self._states)

    def adopt(self, states: dict[str, ServerState]) -> None:
        """Take over what the rank that pushed knows. To be called where no request is under way."""
        with self._lock:
            self._states.update({url: states[url] for url in self._states})

    def describe_lost(self) -> BackendLostError:
        """The error for: no server is left."""
        states = self.snapshot()
        lost = ", ".join(f"{url} ({state.last_error or 'no weights were pushed yet'})" for url, state in states.items() if state.needs_sync)
        return BackendLostError(f"no server can be used: {lost}", where=self._where, fix=self._fix)
