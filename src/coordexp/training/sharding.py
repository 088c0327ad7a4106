"""FSDP2 through accelerate: weights, gradients and optimizer state are split over the processes of a run; each layer is gathered while it computes.

Accelerate turns FSDP on for GPUs only, and leaves plain DDP without a word on CPUs: `force_sharding` puts it in force there too, and `check_sharded` stops a
run that would go on without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from coordexp.types.errors import CheckpointError, ConfigError

LAYERS: Final = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")
"""Each of these is gathered and freed by itself; what is left (embedding, head, merger) together."""
OPTIMIZER_NAME: Final = "optimizer.bin"
"""In checkpoints of sharded runs; `optimizer.pt` in others."""
_ENGINES: Final = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed steps its engine inside every backward, which is wrong with several packs in a step",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM has a training loop of its own",
    "ACCELERATE_USE_FSDP": "FSDP is turned on there and not in the configuration, where its layers and number formats come from",
}


def refuse_engine(*, is_sharded: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigError` when the environment (`accelerate launch`) chooses an engine that the configuration does not name, and that would be wrong.

    `is_sharded`: the configuration asks for FSDP; accelerate itself then sets its variable.
    """
    for name, reason in _ENGINES.items():
        is_wanted = is_sharded and name == "ACCELERATE_USE_FSDP"
        if not is_wanted and environment.get(name, "false").lower() in {"1", "true"}:
            raise ConfigError(reason, where=f"environment variable {name}", fix="start with scripts/train.sh or torchrun, and set training.fsdp")


def sharding_arguments(mode: str) -> dict[str, Any]:
    """What `TrainingArguments` take for FSDP2.

    Args:
        mode: `full_shard`, or `shard_grad_op`: weights stay whole between forward and backward.
    """
    config = {
        "version": 2,
        "reshard_after_forward": mode == "full_shard",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": list(LAYERS),
        "state_dict_type": "FULL_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": config}


def number_formats(*, bf16: bool) -> MixedPrecisionPolicy:
    """Gradients are added over processes in float32. Outputs keep their format: accelerate's own policy would round sums of losses to bfloat16."""
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, output_dtype=None)


def force_sharding(accelerator: Accelerator, plugin: Any) -> None:
    """Put FSDP in force on processes that have no GPU.

    Args:
        accelerator: as it was made; on GPUs it shards already.
        plugin: accelerate's `FullyShardedDataParallelPlugin`.
    """
    state: Any = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = plugin
        # every new handle on the state copies the kind from here
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def check_sharded(accelerator: Accelerator, model: nn.Module) -> None:
    """Raise `ConfigError` unless the model and its layers are split over the processes, and accelerate knows it."""
    layers = [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in LAYERS]
    if not accelerator.is_fsdp2 or not isinstance(model, FSDPModule) or not layers or not all(isinstance(layer, FSDPModule) for layer in layers):
        raise ConfigError("FSDP was asked for and is not in force", where="training.fsdp", fix="remove it, or report the versions of torch and accelerate")


def check_resumable(checkpoint: Path, *, is_sharded: bool) -> None:
    """Raise `CheckpointError` when the optimizer was saved the other way: its state would be left out without a word."""
    if (checkpoint / OPTIMIZER_NAME).is_file() != is_sharded:
        how, fix = ("without", "remove") if is_sharded else ("with", "set")
        raise CheckpointError(f"the checkpoint was written {how} FSDP", where=str(checkpoint), fix=f"{fix} training.fsdp to resume it")


def gather_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """All weights, on the CPU, on rank 0, those that are tied once; nothing on the others, which must call it too."""
    once = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once.keys()
    state: dict[str, Any] = accelerator.get_state_dict(model)
    return {name: value for name, value in state.items() if name not in tied}


def save_optimizer(accelerator: Accelerator, optimizer: torch.optim.Optimizer, model: nn.Module, folder: Path) -> None:
    """Write the whole state of a sharded optimizer as `OPTIMIZER_NAME`. Every rank must call it."""
    save_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, optimizer, model, str(folder))
