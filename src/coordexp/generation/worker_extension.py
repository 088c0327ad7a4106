# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportArgumentType=false, reportOptionalMemberAccess=false
# vLLM is in the engine's environment alone
"""Runs inside the workers of a vLLM server: a weight-transfer engine for machines without NCCL, and methods that the client calls by `/collective_rpc`.

vLLM imports it by name (`--worker-extension-cls`), so it is importable in the engine's own environment, which has nothing else of what this package needs:
torch, safetensors and vLLM alone. The transfer engine is called `coordexp`; a learner chooses between its two transports when it connects:

- `shared_memory`: each update names a safetensors file that both sides see;
- `gloo`: each update is a few flat buffers that the learner broadcasts in a process group of its own.

Weights come in checkpoint format under checkpoint names and go through vLLM's layerwise reload: on CPU the loaded weights are packed for the processor, and
nothing else can put new ones in.
"""

from __future__ import annotations

import base64
import datetime
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

ENGINE_NAME = "coordexp"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """How the learner will send. For gloo: where its store listens, and how many processes take part, the learner (rank 0) included."""

    transport: str
    host: str = ""
    port: int = 0
    world_size: int = 0
    timeout_s: float = 120.0


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One part of an update: a file, or the tensors of the flat buffers that come next."""

    path: str = ""
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """Tensors of each buffer; one dtype in each."""
    checked: list[str] = field(default_factory=list)
    """Tensors whose checksum is wanted."""


class CoordexpTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Receives whole weights in checkpoint format."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group: Any = None
        self.checksums: dict[str, int] = {}
        """Of the last update: CRC-32 of the bytes that arrived, by tensor."""

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        self.shutdown()
        if init_info.transport == "gloo":
            timeout = datetime.timedelta(seconds=init_info.timeout_s)
            store = torch.distributed.TCPStore(init_info.host, init_info.port, is_master=False, timeout=timeout)
            self._group = torch.distributed.ProcessGroupGloo(store, 1 + self._rank(), init_info.world_size, timeout)

    def _rank(self) -> int:
        parallel = self.parallel_config
        return parallel.data_parallel_index * parallel.world_size + parallel.rank

    def start_weight_update(self) -> None:
        self.checksums = {}
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_heads()

    def _repack_tied_heads(self) -> None:
        """A head that shares the embedding's matrix gets no weights of its own, so the reload leaves its form for the processor as it was: made of old ones."""
        with torch.no_grad():
            for layer in self.model.modules():
                if isinstance(layer, ParallelLMHead) and self.device.type == "cpu":
                    layer.quant_method.process_weights_after_loading(layer)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # without the base class's wait for an accelerator, which a CPU has not
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        tensors = self._from_file(update_info) if update_info.path else self._from_group(update_info)
        self.model.load_weights(self._counted(tensors, wanted=frozenset(update_info.checked)))

    def shutdown(self) -> None:
        self._group = None

    def _counted(self, tensors: Iterator[tuple[str, Tensor]], *, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            if name in wanted:
                self.checksums[name] = zlib.crc32(tensor.contiguous().view(torch.uint8).cpu().numpy())
            yield name, tensor

    def _from_file(self, update_info: UpdateInfo) -> Iterator[tuple[str, Tensor]]:
        with safe_open(update_info.path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).to(self.device)

    def _from_group(self, update_info: UpdateInfo) -> Iterator[tuple[str, Tensor]]:
        if self._group is None:
            raise RuntimeError("no learner is connected: /init_weight_transfer_engine comes first")
        parts = iter(zip(update_info.names, update_info.dtypes, update_info.shapes, strict=True))
        for count in update_info.groups:
            members = [next(parts) for _ in range(count)]
            sizes = [torch.Size(shape).numel() for _, _, shape in members]
            buffer = torch.empty(sum(sizes), dtype=getattr(torch, members[0][1]))
            self._group.broadcast([buffer], _from_learner()).wait()
            for (name, _, shape), piece in zip(members, buffer.split(sizes), strict=True):
                yield name, piece.view(shape).to(self.device)


def _from_learner() -> Any:
    options = torch.distributed.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    return options


if ENGINE_NAME not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(ENGINE_NAME, CoordexpTransferEngine)


class WorkerExtension:
    """Mixed into vLLM's worker class; every method is called by name over HTTP and returns JSON."""

    weight_transfer_engine: Any
    model_runner: Any
    vllm_config: Any
    rank: int

    def coordexp_describe(self) -> dict[str, Any]:
        """What serves here."""
        config = self.vllm_config
        return {
            "model": str(config.model_config.model),
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "device": torch.device(self.model_runner.device).type,
            "backend": config.weight_transfer_config.backend if config.weight_transfer_config is not None else None,
            "workers": config.parallel_config.world_size * config.parallel_config.data_parallel_size,
            "max_model_len": config.model_config.max_model_len,
            "lora": config.lora_config is not None,
        }

    def coordexp_load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Whole weights in checkpoint format, from a learner in the same process; read one after the other, and copied."""
        engine = self.weight_transfer_engine
        engine.start_weight_update()
        engine.model.load_weights((name, tensor.to(engine.device)) for name, tensor in tensors)
        engine.finish_weight_update()

    def coordexp_checksums(self) -> dict[str, int]:
        """Of the tensors of the last update that were to be checked."""
        return dict(getattr(self.weight_transfer_engine, "checksums", {}))

    def coordexp_resident(self, *names: str) -> dict[str, int]:
        """CRC-32 of tensors that the model holds now; those that it keeps under another name or in another form are left out."""
        held = dict(self.model_runner.get_model().named_parameters())
        return {name: zlib.crc32(held[name].detach().contiguous().view(torch.uint8).cpu().numpy()) for name in names if name in held}

    def coordexp_watch_pixels(self) -> dict[str, Any]:
        """From now on the patches that the vision tower computes on are kept, normalized; forgets those kept so far."""
        self._grids: list[Tensor] = []
        self._pixels: list[Tensor] = []
        if not getattr(self, "_watches", None):
            visual = self.model_runner.get_model().visual
            # the tower normalizes by itself: its input is not yet what it computes on
            self._watches = (visual.register_forward_pre_hook(self._keep_grid, with_kwargs=True), visual.input_norm.register_forward_hook(self._keep_pixels))
        return {}

    def coordexp_take_pixels(self) -> list[dict[str, Any]]:
        """What was kept, in the order of arrival, and the end of watching. Values as float32, little endian, base64."""
        for watch in self._watches:
            watch.remove()
        self._watches = ()
        return [_describe_pixels(pixels, grid) for pixels, grid in zip(self._pixels, self._grids, strict=True)]

    def _keep_grid(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._grids.append(torch.as_tensor(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]).cpu())

    def _keep_pixels(self, module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        del module, args
        self._pixels.append(output.detach().float().cpu())


def _describe_pixels(pixels: Tensor, grid: Tensor) -> dict[str, Any]:
    return {"grid_thw": grid.tolist(), "shape": list(pixels.shape), "values": base64.b64encode(pixels.numpy().tobytes()).decode("ascii")}
