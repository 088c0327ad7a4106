"""Weights from a learner to its rollout servers, over vLLM's control routes.

One push, on every server: pause (what is under way is finished) → start → transfer → finish under the new version → clear the prefix, multimodal and encoder
caches → resume. The encoder cache holds image embeddings: left alone it answers with a vision tower of the past.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import httpx
import torch
from torch import Tensor

from coordexp.generation.adapter_loading import AdapterFolder, load_adapter
from coordexp.generation.http import describe_trouble
from coordexp.generation.server_control import Control, ServerFacts
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.transfers import GlooTransfer, NcclTransfer, SharedFiles, SharedMemoryTransfer, Transfer, checksum
from coordexp.types.errors import BackendError

TransferName: TypeAlias = Literal["auto", "shared_memory", "gloo", "nccl"]

_NUM_CHECKED = 8
"""Tensors of a push whose checksums are compared."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """Example: `PushReport(version=3, seconds=0.09, num_bytes=6584320, pushed=("http://127.0.0.1:8000",), skipped={})`"""

    version: int
    seconds: float
    num_bytes: int
    """Of the weights, once, whatever the number of servers."""
    pushed: tuple[str, ...]
    skipped: dict[str, str]
    """Servers that could not be reached, and why; they stay lost."""
    num_verified: int = 0
    """Tensors whose checksums were compared on each server."""
    parts_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each part on the slowest server: pause, transfer, finish."""


class WeightPusher:
    """Pushes to every server of a pool. Blocking; one caller at a time, the thread of the training.

    A server that cannot be reached, or breaks during a push, is skipped and stays lost; the next push tries it again. When none is left that is an error.

    Example: `WeightPusher(pool).push(merged_tensors(model), version=3).pushed == ("http://127.0.0.1:8000",)`
    """

    def __init__(self, pool: ServerPool, *, transfer: TransferName = "auto", token: str | None = None, timeout_s: float = 240.0, verify_every: int = 1) -> None:
        """Args beside the obvious.

        timeout_s: of each control call and of a broadcast.
        verify_every: checksums are compared in the first push and every n-th one after it; 0: never.
        """
        self._pool, self._transfer_name, self._verify_every = pool, transfer, verify_every
        self._timeout_s = timeout_s
        self._controls = {address: Control(address, token=token, timeout_s=timeout_s) for address in pool.addresses}
        self._transfers: dict[ServerAddress, Transfer] = {}
        self._facts: dict[ServerAddress, ServerFacts] = {}
        self._num_pushes = 0
        self._based: set[ServerAddress] = set()
        """Servers that hold the weights below the adapter."""
        self._folder: AdapterFolder | None = None

    @property
    def controls(self) -> Sequence[Control]:
        """Of every server, in the order of the pool."""
        return tuple(self._controls.values())

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every server is up; a training starts with all of its servers.

        Raises:
            BackendError: one is not after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        for control in self._controls.values():
            while not control.is_healthy():
                if time.monotonic() > deadline:
                    what = f"no rollout server answers within {timeout_s:.0f} s"
                    raise BackendError(what, where=control.address.base_url, fix="start it with 'coordexp rollout-server', or raise vllm.server.timeout_s")
                time.sleep(0.5)

    def push(self, tensors: Iterable[tuple[str, Tensor]], version: int, *, clears_caches: bool = True) -> PushReport:
        """Send all weights, in checkpoint format, and make them version `version` of every server.

        `clears_caches` is False only where the harm of stale caches is shown.

        Raises:
            BackendError: no server could be reached, one refuses, or a checksum differs.
        """
        pairs = [(name, tensor.detach()) for name, tensor in tensors]
        verifies = self._verify_every > 0 and self._num_pushes % self._verify_every == 0
        checked = _spread_names(pairs) if verifies else []
        with SharedFiles() as files:

            def send(control: Control) -> dict[str, float]:
                times = self._push_one(control, pairs, version=version, checked=checked, clears_caches=clears_caches, files=files)
                self._based.discard(control.address)
                self._pool.mark_synced(control.address, version=version)
                return times

            report = self._to_all(send, version=version)
        return replace(report, num_bytes=_num_bytes(pairs), num_verified=len(checked))

    def adapter_obstacle(self) -> str | None:
        """Why the servers that are up cannot take an adapter; None: they can."""
        for control in self._controls.values():
            if not control.address.is_loopback:
                return f"{control.address.base_url} is another machine, which does not see the files of this one"
            if self._trouble(control) is None and not self._facts[control.address].has_lora:
                return f"{control.address.base_url} was started without --enable-lora"
        return None

    def push_adapter(self, write: Callable[[Path], object], version: int, *, base: Callable[[], Iterable[tuple[str, Tensor]]]) -> PushReport:
        """Send an adapter for the weights of `base`, which a server gets once, and make both together version `version`.

        Args:
            write: writes the adapter into a folder, as PEFT saves it.
            version: of the policy.
            base: what the adapter lies on, in checkpoint format; asked for when a server has it not yet.

        Raises:
            BackendError: no server could be reached, or one refuses.
        """
        folder = AdapterFolder()
        write(folder.path)

        def send(control: Control) -> dict[str, float]:
            before = self._pool.state(control.address).adapter
            if control.address not in self._based:
                with SharedFiles() as files:
                    self._push_one(control, list(base()), version=version, checked=[], clears_caches=True, files=files)
                self._based.add(control.address)
                before = None
            times = load_adapter(control, folder.path, name=folder.name, before=before, version=version)
            self._pool.mark_synced(control.address, version=version, adapter=folder.name)
            return times

        report = self._to_all(send, version=version)
        # a server may read the newest one again
        if self._folder is not None:
            self._folder.close()
        self._folder = folder
        return replace(report, num_bytes=folder.num_bytes)

    def _to_all(self, send: Callable[[Control], dict[str, float]], *, version: int) -> PushReport:
        """Bytes and checks are for the caller to add."""
        start = time.perf_counter()
        skipped: dict[str, str] = {}
        parts: dict[str, float] = {}
        pushed: list[ServerAddress] = []
        for control in self._controls.values():
            try:
                times = self._send_twice(control, send)
            except BackendError as error:
                self._pool.mark_lost(control.address, error.what)
                # the caller goes on with the version before this one, if it goes on
                for address in pushed:
                    self._pool.mark_lost(address, f"{control.address.base_url} refused the push of the weights that it has")
                raise
            if isinstance(times, str):
                skipped[control.address.base_url] = times
                self._pool.mark_lost(control.address, times)
                continue
            parts = {name: max(seconds, parts.get(name, 0.0)) for name, seconds in times.items()}
            pushed.append(control.address)
        if not pushed:
            raise self._pool.describe_lost()
        self._num_pushes += 1
        return PushReport(version, time.perf_counter() - start, 0, tuple(address.base_url for address in pushed), skipped, parts_s=parts)

    def _send_twice(self, control: Control, send: Callable[[Control], dict[str, float]]) -> dict[str, float] | str:
        """Seconds, or why the server has not got it. A server that was restarted fails once: it knows nothing of the connection; then it gets a new one."""
        for is_last in (False, True):
            trouble = self._trouble(control)
            if trouble is not None:
                return trouble
            try:
                return send(control)
            except httpx.HTTPError as error:
                self._forget(control)
                if is_last or isinstance(error, httpx.TimeoutException):
                    return describe_trouble(error)
        raise AssertionError("unreachable")

    def close(self) -> None:
        for transfer in self._transfers.values():
            transfer.close()
        for control in self._controls.values():
            control.close()
        if self._folder is not None:
            self._folder.close()

    def dtype(self) -> torch.dtype | None:
        """In which every server computes, so that nothing wider is sent; None: they differ, or none has been reached yet."""
        found = {facts.dtype for facts in self._facts.values()}
        return next(iter(found)) if len(found) == 1 else None

    def _trouble(self, control: Control) -> str | None:
        """None: it is there, connected, and the same process as at the last push."""
        if not control.is_healthy():
            self._forget(control)
            return "nothing answers there"
        state = self._pool.state(control.address)
        if state.needs_sync:
            # it may be a new process, which knows nothing of the old connection
            self._forget(control)
        try:
            if control.address not in self._transfers:
                self._facts[control.address] = control.describe()
                self._transfers[control.address] = self._connect(control, self._facts[control.address])
        except httpx.HTTPError as error:
            self._forget(control)
            return describe_trouble(error)
        return None

    def _forget(self, control: Control) -> None:
        self._based.discard(control.address)
        transfer = self._transfers.pop(control.address, None)
        if transfer is not None:
            transfer.close()

    def _connect(self, control: Control, facts: ServerFacts) -> Transfer:
        if facts.backend is None:
            fix = "start it with 'coordexp rollout-server'"
            raise BackendError("the server takes no weights (--weight-transfer-config is missing)", where=control.address.base_url, fix=fix)
        name = self._transfer_name
        if name == "auto":
            name = "nccl" if facts.backend == "nccl" else "shared_memory" if control.address.is_loopback else "gloo"
        if (name == "nccl") != (facts.backend == "nccl"):
            what = f"the server takes weights by {facts.backend}, and the learner sends them by {name}"
            raise BackendError(what, where=control.address.base_url, fix="set rollout_matching.vllm.sync.transfer: auto")
        if name == "nccl":
            return NcclTransfer(control, facts)
        return SharedMemoryTransfer(control) if name == "shared_memory" else GlooTransfer(control, facts, timeout_s=self._timeout_s)

    def _push_one(
        self, control: Control, pairs: Sequence[tuple[str, Tensor]], *, version: int, checked: Sequence[str], clears_caches: bool, files: SharedFiles
    ) -> dict[str, float]:
        """Seconds of its parts."""
        times: list[float] = [time.perf_counter()]
        control.post("/pause", mode="wait", clear_cache=json.dumps(clears_caches))
        times.append(time.perf_counter())
        _start_update(control)
        transfer = self._transfers[control.address]
        if isinstance(transfer, SharedMemoryTransfer):
            transfer.send_file(files.path(pairs), checked=checked)
        else:
            transfer.send(pairs, checked=checked)
        times.append(time.perf_counter())
        control.post("/finish_weight_update", {"weight_version": str(version)})
        if clears_caches:
            control.clear_caches()
        if checked and not isinstance(transfer, NcclTransfer):
            _compare(dict(pairs), control.call("coordexp_checksums"), checked, address=control.address)
        control.post("/resume")
        times.append(time.perf_counter())
        return {name: after - before for name, before, after in zip(("pause", "transfer", "finish"), times[:-1], times[1:], strict=True)}


def _num_bytes(pairs: Sequence[tuple[str, Tensor]]) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in pairs)


def _start_update(control: Control) -> None:
    try:
        control.post("/start_weight_update")
    except httpx.HTTPStatusError:
        # a push that was cut off has left an update open; what it brought is replaced whole by this one
        control.post("/finish_weight_update", {"weight_version": "cut off"})
        control.post("/start_weight_update")


def _spread_names(pairs: Sequence[tuple[str, Tensor]]) -> list[str]:
    """Names from the first to the last tensor."""
    count = min(_NUM_CHECKED, len(pairs))
    return [pairs[round(number * (len(pairs) - 1) / max(1, count - 1))][0] for number in range(count)]


def _compare(sent: dict[str, Tensor], received: dict[str, int], checked: Sequence[str], *, address: ServerAddress) -> None:
    wrong = [name for name in checked if received.get(name) != checksum(sent[name])]
    if wrong:
        fix = "start the server again; if it happens again, use another rollout_matching.vllm.sync.transfer"
        raise BackendError(f"{len(wrong)} of {len(checked)} checked tensors arrived with other bytes ({wrong[0]})", where=address.base_url, fix=fix)
