"""Opens what generates: transformers in this process, vLLM servers (given, or started and stopped with the run), or vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.infer import BackendSection, InferSection
from coordexp.generation.engine import find_python
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.hf import HfBackend
from coordexp.generation.http import TOKEN_VARIABLE
from coordexp.generation.protocol import GenerationBackend
from coordexp.generation.served_model import check_server
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.models.load import check_checkpoint
from coordexp.models.processor import load_processor
from coordexp.pipeline.checkpoint import find_device, open_checkpoint
from coordexp.recipes.doctor import free_port
from coordexp.types.errors import ConfigError
from coordexp.types.progress import Progress

_LOST_FIX = "start the server again and repeat the command: the run goes on where it stopped"
_OPTIONS_OF = {
    "tensor_parallel_size": "tensor_parallel",
    "data_parallel_size": "data_parallel",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "enforce_eager": "enforce_eager",
    "enable_prefix_caching": "prefix_caching",
}
"""vLLM's names of what we set ourselves; others are passed on as they are."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend with what speaks to it."""

    backend: GenerationBackend
    encoder: PromptEncoder
    tokenizer: TextTokenizer


@contextmanager
def open_backend(section: InferSection, *, device: str, log: Path, progress: Progress) -> Iterator[Opened]:
    """The backend of the configuration, closed with the block; a server that was started for it is stopped.

    Args:
        section: the configuration.
        device: as in the configuration, or what a rank was given.
        log: where a server that is started here writes its log.
        progress: told about starts and fall-backs.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        BackendError: the device or the server is not there.
    """
    if section.backend.type == "hf":
        with _open_hf(section, device=device, progress=progress) as opened:
            yield opened
        return
    folder, is_constrained = check_checkpoint(Path(section.model_checkpoint)), section.constrain != "off"
    processor = load_processor(folder)
    facts = ModelFacts.of_folder(folder, processor, needs_coord_tokens=section.mode != "native")
    tokenizer = TextTokenizer.of(processor.tokenizer)  # type: ignore[attr-defined]
    if section.backend.mode == "local":
        place = find_device(device)
        if place not in ("cpu", "cuda", "cuda:0"):
            what = f"vLLM in this process takes the first GPU that it sees, not {place}"
            raise ConfigError(what, where="infer.backend.mode", fix="name the GPU in CUDA_VISIBLE_DEVICES, or set mode: server and auto_launch: true")
        options = EngineOptions(
            model=folder, device="cpu" if place == "cpu" else "gpu", **_engine_settings(section.backend, is_constrained, passes_on=False)[0]
        )
        backend = VllmEngineBackend(options, facts=facts, tokenizer=tokenizer, top_tokens=section.backend.top_logprobs)
        try:
            yield Opened(backend, PromptEncoder(processor), tokenizer)
        finally:
            backend.close()
        return
    with _servers(section.backend, folder, is_constrained, device=device, log=log, progress=progress) as addresses:
        pool = ServerPool(addresses, where="infer.backend.base_url", fix=_LOST_FIX)
        token = os.environ.get(TOKEN_VARIABLE) or None
        asked: dict[str, Any] = {"token": token, "facts": facts, "model": section.backend.model, "constrained": is_constrained}
        routes = {check_server(address, say=progress.say, **asked) for address in addresses}
        client = VllmServerBackend(
            pool,
            facts=facts,
            tokenizer=tokenizer,
            token=token,
            model=section.backend.model,
            top_tokens=section.backend.top_logprobs,
            concurrency=section.backend.client_concurrency,
            route="chat" if "chat" in routes else "tokens",
        )
        try:
            yield Opened(client, PromptEncoder(processor), tokenizer)
        finally:
            client.close()


@contextmanager
def _open_hf(section: InferSection, *, device: str, progress: Progress) -> Iterator[Opened]:
    model = open_checkpoint(
        Path(section.model_checkpoint),
        dtype=section.backend.torch_dtype,
        attn_implementation=section.backend.attn_impl,
        device=device,
        progress=progress,
        needs_coord_tokens=section.mode != "native",
    )
    backend = HfBackend(model, batch_size=section.generation.batch_size, has_fixed_weights=True)
    try:
        yield Opened(backend, PromptEncoder(model.processor), backend.text_tokenizer)
    finally:
        backend.close()


@contextmanager
def _servers(backend: BackendSection, folder: Path, is_constrained: bool, *, device: str, log: Path, progress: Progress) -> Iterator[list[ServerAddress]]:
    """The servers that were given, or one that is started here."""
    if not backend.auto_launch:
        assert backend.base_url is not None, "the configuration requires it"
        yield [ServerAddress(url.strip()) for url in backend.base_url.split(",")]
        return
    address = ServerAddress(backend.base_url or f"http://127.0.0.1:{free_port()}")
    if not address.is_loopback:
        raise ConfigError(f"{address.base_url} is not this machine", where="infer.backend.base_url", fix="leave it out, or set auto_launch: false")
    place = find_device(device)
    settings, extra = _engine_settings(backend, is_constrained, passes_on=True)
    count = int(settings.get("tensor_parallel", 1)) * int(settings.get("data_parallel", 1))
    options = ServerOptions(
        model=folder,
        port=address.port,
        device=name_gpus(place, count=count, environment=os.environ, num_gpus=torch.cuda.device_count()) if place.startswith("cuda") else place,
        token=os.environ.get(TOKEN_VARIABLE) or None,
        extra=extra,
        **settings,
    )
    progress.say(f"starting vLLM with {folder} on {options.device} (log: {log})")
    with ServerProcess(find_python(), options, log=log) as server:
        progress.say(f"{address.base_url} is ready after {server.wait_ready(backend.timeout_s):.0f} s")
        yield [options.address]


def name_gpus(place: str, *, count: int, environment: Mapping[str, str], num_gpus: int) -> str:
    """GPUs of a server, `count` from `place` on, by the names that CUDA_VISIBLE_DEVICES has for them: PyTorch counts those that this process may see.

    Example: `name_gpus("cuda:1", count=1, environment={"CUDA_VISIBLE_DEVICES": "4,6"}, num_gpus=2) == "6"`

    Raises:
        ConfigError: there are not so many, or several processes would take the same ones.
    """
    first = int(place.partition(":")[2] or 0)
    where = "infer.backend.server_options"
    if count > 1 and int(environment.get("WORLD_SIZE", "1")) > 1:
        fix = "start servers with 'coordexp rollout-server' and give their base_url, or start without torchrun"
        raise ConfigError(f"a server of {count} GPUs for each process of torchrun", where=where, fix=fix)
    if first + count > num_gpus:
        what = f"{count} GPUs from cuda:{first} on were asked for, and {num_gpus} can be used here"
        raise ConfigError(what, where=where, fix="lower tensor_parallel_size and data_parallel_size")
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(num_gpus)]
    return ",".join(names[first : first + count])


def _engine_settings(backend: BackendSection, is_constrained: bool, *, passes_on: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings of the engine by our names, and arguments of vLLM that we do not know.

    Raises:
        ConfigError: there are such arguments, and nothing takes them.
    """
    settings: dict[str, Any] = {"dtype": backend.torch_dtype}
    settings["constrained"] = is_constrained
    settings["max_logprobs"] = max(backend.top_logprobs, 20)
    extra: list[str] = []
    for name, value in backend.server_options.items():
        known = _OPTIONS_OF.get(name.replace("-", "_"))
        if known is not None and (passes_on or known != "data_parallel"):
            settings[known] = value
        elif passes_on:
            flag = "--" + name.replace("_", "-")
            extra += [flag] if value is True else [flag, str(value)]
        else:
            raise ConfigError(f"{name} is not known for an engine in this process", where="infer.backend.server_options", fix=f"use {', '.join(_OPTIONS_OF)}")
    return settings, tuple(extra)
