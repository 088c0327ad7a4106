"""Weights as safetensors with a config.json that says in which precision they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from coordexp.models.quiet import no_library_bars


def write_weights(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> None:
    """config.json, generation_config.json and *.safetensors, in `dtype`; `state` holds the weights when the model does not have them whole."""
    weights = None if state is None else dict(state)
    if dtype is not None:
        weights = {name: value.detach().to(dtype).contiguous() for name, value in (weights or model.state_dict()).items()}
    with no_library_bars():
        model.save_pretrained(folder, state_dict=weights)
    if dtype is not None:
        set_config_dtype(folder, dtype)


def set_config_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Say in config.json what the weight file holds; the model in memory keeps its own."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    config["dtype"] = name
    for part in ("text_config", "vision_config"):
        config[part]["dtype"] = name
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
