"""How vLLM is set up, as a server or in this process: the same arguments and the same environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.generation.constrained_requests import PROCESSOR

EXTENSION = "coordexp.generation.worker_extension.WorkerExtension"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Example: `EngineOptions(model=Path("ckpt/tiny"), device="cpu", dtype="float32")`"""

    model: Path
    device: str = "cpu"
    """`cpu`, or GPU numbers: `0,1`; for an engine in this process any other word means the GPUs that it sees."""
    dtype: str = "auto"
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    max_num_seqs: int = 64
    enforce_eager: bool = False
    prefix_caching: bool = True
    kv_cache_mb: int = 128
    """Of the key and value memory on a CPU."""
    max_logprobs: int = 20
    """Most probable tokens that a request may ask for."""
    constrained: bool = False
    """Take requests with a constraint."""
    transfer: str | None = None
    """Weight-transfer engine; None: `nccl` on GPUs, ours on a CPU."""

    sleeps: bool = False
    """Give the memory back between uses, where the device has that: not a CPU."""

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


def engine_arguments(options: EngineOptions) -> dict[str, Any]:
    """By the names that vLLM's engine has for them."""
    arguments: dict[str, Any] = {
        "model": str(options.model),
        "dtype": options.dtype,
        "generation_config": "vllm",
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "max_num_seqs": options.max_num_seqs,
        "worker_extension_cls": EXTENSION,
        "weight_transfer_config": {"backend": options.transfer or ("coordexp" if options.is_cpu else "nccl")},
        "enable_prefix_caching": options.prefix_caching,
        "max_logprobs": options.max_logprobs,
    }
    if options.constrained:
        arguments["logits_processors"] = [PROCESSOR]
    if options.is_cpu:
        # the default share of the memory refuses to start on a busy machine; the cache is sized by itself
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": options.kv_cache_mb * 1024**2, "gpu_memory_utilization": 0.2}
    else:
        arguments |= {"tensor_parallel_size": options.tensor_parallel, "gpu_memory_utilization": options.gpu_memory_utilization}
        arguments |= {"enforce_eager": True} if options.enforce_eager else {}
        arguments |= {"enable_sleep_mode": True} if options.sleeps else {}
    return arguments if options.max_model_len is None else arguments | {"max_model_len": options.max_model_len}


def as_flags(arguments: dict[str, Any]) -> list[str]:
    """Arguments of the engine as those of vLLM's command. Example: `as_flags({"max_num_seqs": 8, "enforce_eager": True})` ends with `--enforce-eager`"""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
            flags += [f"--{flag}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in values)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return flags


def engine_environment(*, is_cpu: bool, constrained: bool = False) -> dict[str, str]:
    """What vLLM reads from the environment, where the user has not set it."""
    own = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    if constrained:
        # the second model runner has another interface for logits processors
        own["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if is_cpu:
        # bound threads would all sit on the first processor beside whatever else runs there
        own["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # without threads to bind the worker needs no process of its own, which would import everything once more: a third of the start
        own["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if "OMP_WAIT_POLICY" not in os.environ:
            # as for every command of ours: its threads share the cores with the server's other processes, with clients and with a learner
            own["GOMP_SPINCOUNT"] = "2000"
    return own
