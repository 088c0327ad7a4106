"""Opens the checkpoint of an inference run: device, number type and attention as asked for, or the nearest that is there, with a notice."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import torch

from coordexp.models.load import LoadedModel, check_checkpoint, load_model
from coordexp.types.errors import BackendError
from coordexp.types.progress import Progress

_PACKAGE_OF_ATTENTION = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_FALLBACK = "sdpa"


def open_checkpoint(path: Path, *, dtype: str, attn_implementation: str, device: str, progress: Progress, needs_coord_tokens: bool = True) -> LoadedModel:
    """The model, ready to generate.

    Args:
        path: folder of the checkpoint.
        dtype: a name that `load_model` knows, or `auto`: the one that the checkpoint was saved in.
        attn_implementation: preferred; a flash attention that is not installed falls back to sdpa.
        device: `cpu`, `cuda:0`, …; `auto`: the first GPU, or the CPU when there is none.
        progress: told about a fall-back.
        needs_coord_tokens: False: a stock checkpoint will do.

    Raises:
        CheckpointError: the folder cannot be used.
        BackendError: there is no such device.
    """
    folder = check_checkpoint(path)
    place = find_device(device)
    package = _PACKAGE_OF_ATTENTION.get(attn_implementation)
    is_missing = package is not None and importlib.util.find_spec(package) is None
    if is_missing:
        progress.say(f"{attn_implementation} is not installed: {_FALLBACK} is used")
    used = _FALLBACK if is_missing else attn_implementation
    loaded = load_model(folder, dtype=dtype, attn_implementation=used, device=place, needs_coord_tokens=needs_coord_tokens)
    return dataclasses.replace(loaded, attn_requested=attn_implementation)


def find_device(name: str) -> str:
    """`auto` resolved, anything else checked.

    Raises:
        BackendError: there is no such device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"there is no device '{name}'", where="infer.device", fix="write cpu, cuda:0 or auto") from error
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        found = "no GPU" if num_gpus == 0 else f"{num_gpus} GPUs"
        raise BackendError(f"device {name} was asked for, and {found} can be used here", where="infer.device", fix="write cpu or auto")
    return name
