"""How the bytes of weights reach a server: a safetensors file in shared memory, a gloo broadcast, or NCCL, which is vLLM's own engine on both ends.

The first two are received by `worker_extension`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from coordexp.generation.server_control import Control, ServerFacts
from coordexp.types.errors import BackendError, first_line

_BUCKET_BYTES = 64 * 1024**2
"""Of one broadcast buffer; larger tensors get a buffer of their own."""
_SHARED_MEMORY = Path("/dev/shm")  # files in it get random names, for this user alone  # nosec B108
_FOLDER_PREFIX = "coordexp-weights-"
_ABANDONED_S = 900
"""A folder of this age that nobody has locked belongs to a learner that was killed; a younger one may be about to be locked."""


class Transfer(Protocol):
    """Carries tensors to one server that has started an update."""

    def send(self, tensors: Sequence[tuple[str, Tensor]], *, checked: Sequence[str]) -> None: ...

    def close(self) -> None: ...


class SharedMemoryTransfer:
    """A safetensors file in memory that learner and server see. The file goes when the push ends."""

    def __init__(self, control: Control) -> None:
        self._control = control
        control.post("/init_weight_transfer_engine", {"init_info": {"transport": "shared_memory"}})

    def send(self, tensors: Sequence[tuple[str, Tensor]], *, checked: Sequence[str]) -> None:
        with _shared_file(tensors) as path:
            self.send_file(path, checked=checked)

    def send_file(self, path: Path, *, checked: Sequence[str]) -> None:
        """One file may serve several servers."""
        self._control.post("/update_weights", {"update_info": {"path": str(path), "checked": list(checked)}})

    def close(self) -> None:
        return None


class GlooTransfer:
    """A broadcast in a process group of the learner and the workers of one server: tensors in flat buffers of one dtype."""

    def __init__(self, control: Control, facts: ServerFacts, *, timeout_s: float) -> None:
        self._control = control
        timeout = datetime.timedelta(seconds=timeout_s)
        host = "127.0.0.1" if control.address.is_loopback else _own_address(control.address.host)
        world_size = 1 + facts.num_workers
        try:
            store: Any = torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                host, control.address.group_port or 0, is_master=True, wait_for_workers=False, timeout=timeout
            )
        except RuntimeError as error:
            what = f"the weight channel cannot listen on {host}, port {control.address.group_port or 'any'} ({first_line(error)})"
            raise BackendError(what, where=control.address.base_url, fix="choose another group_port, or leave it out") from error
        info = {"transport": "gloo", "host": host, "port": store.port, "world_size": world_size, "timeout_s": timeout_s}
        with ThreadPoolExecutor(max_workers=1) as other:
            joined = other.submit(control.post, "/init_weight_transfer_engine", {"init_info": info})
            try:
                self._group: Any = torch.distributed.ProcessGroupGloo(store, 0, world_size, timeout)
            except RuntimeError as error:
                # that the server refused says more than that it did not come
                joined.result()
                raise httpx.ConnectTimeout(f"it did not join the weight channel ({first_line(error)})") from error
            joined.result()
        self._store = store

    def send(self, tensors: Sequence[tuple[str, Tensor]], *, checked: Sequence[str]) -> None:
        buckets = list(_buckets(tensors))
        info = {
            "names": [name for bucket in buckets for name, _ in bucket],
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for bucket in buckets for _, tensor in bucket],
            "shapes": [list(tensor.shape) for bucket in buckets for _, tensor in bucket],
            "groups": [len(bucket) for bucket in buckets],
            "checked": list(checked),
        }
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        with ThreadPoolExecutor(max_workers=1) as other:
            received = other.submit(self._control.post, "/update_weights", {"update_info": info})
            try:
                for bucket in buckets:
                    flat = torch.cat([tensor.detach().reshape(-1) for _, tensor in bucket]).cpu()
                    self._group.broadcast([flat], options).wait()
            except RuntimeError as error:
                raise httpx.ReadError(f"the broadcast broke ({first_line(error)})") from error
            received.result()

    def close(self) -> None:
        self._group = None


class NcclTransfer:
    """vLLM's own NCCL engine, on both ends: needs vLLM and a GPU in the learner's environment."""

    def __init__(self, control: Control, facts: ServerFacts) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine  # pyright: ignore[reportMissingImports]

        self._control, self._source = control, _PairSource()
        info = NCCLTrainerInitInfo(
            rank=0, master_address=_own_address(control.address.host), master_port=control.address.group_port or _free_port(), world_size=1 + facts.num_workers
        )
        self._engine: Any = NCCLTrainerWeightTransferEngine.trainer_init(info, client=_WithinPush(control), source=self._source)

    def send(self, tensors: Sequence[tuple[str, Tensor]], *, checked: Sequence[str]) -> None:
        del checked  # NCCL checks its own transfers
        self._source.pairs = tensors
        self._engine.send_weights()

    def close(self) -> None:
        self._engine.shutdown()


class _WithinPush:
    """The four calls that vLLM's trainer engine makes; start and finish belong to the push around it."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._control.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        return None

    def update_weights(self, update_info: Any) -> None:
        self._control.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        del weight_version


class _PairSource:
    """vLLM's `WeightSource` over the tensors of the push under way."""

    pairs: Sequence[tuple[str, Tensor]] = ()

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer.base import ParamMeta  # pyright: ignore[reportMissingImports]

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.pairs]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.pairs)

    def held_names(self) -> None:
        return None


class SharedFiles(contextlib.ExitStack):
    """One file for all servers of a push, written when the first one wants it."""

    _path: Path | None = None

    def path(self, pairs: Sequence[tuple[str, Tensor]]) -> Path:
        if self._path is None:
            self._path = self.enter_context(_shared_file(pairs))
        return self._path


@contextlib.contextmanager
def _shared_file(pairs: Sequence[tuple[str, Tensor]]) -> Iterator[Path]:
    """In a folder of its own, which is locked while it is used.

    Raises:
        BackendError: there is no room for it.
    """
    place = shared_memory_folder() or Path(tempfile.gettempdir())
    _remove_abandoned(place)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=place))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing counts as abandoned
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = folder / "weights.safetensors"
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in pairs}, path)
        except (OSError, SafetensorError) as error:
            what = f"{place} does not take the weights ({first_line(error)})"
            raise BackendError(what, fix="make it larger (docker run --shm-size), or set rollout_matching.vllm.sync.transfer: gloo") from error
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(place: Path) -> None:
    """What killed learners have left takes main memory until the machine starts anew."""
    for path in place.glob(f"{_FOLDER_PREFIX}*"):
        # what other users have, or what is in use
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_S:
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def shared_memory_folder() -> Path | None:
    """None: the folder for temporary files, where the system has no memory to share."""
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None


def _buckets(pairs: Sequence[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """In order; tensors of one bucket have one dtype."""
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in pairs:
        num_bytes = tensor.numel() * tensor.element_size()
        if bucket and (size + num_bytes > _BUCKET_BYTES or tensor.dtype != bucket[0][1].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += num_bytes
    if bucket:
        yield bucket


def checksum(tensor: Tensor) -> int:
    """CRC-32 of the bytes, as `worker_extension` counts it."""
    raw: Any = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return zlib.crc32(raw)


def _own_address(host: str) -> str:
    """The address of this machine as `host` sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
