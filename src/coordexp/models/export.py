"""Writes a model as a checkpoint folder that stock transformers and vLLM open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel

from coordexp.models.load import LoadedModel
from coordexp.types.files import atomic_folder

_CARRIED = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json", "chat_template.json")
"""Files that say how images and prompts are prepared; copied unchanged from the checkpoint that the model came from."""


def save_checkpoint(loaded: LoadedModel, dst: Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write model, tokenizer and image settings to `dst`, which is replaced as a whole.

    Args:
        loaded: the model as it is now, with the folder that it was loaded from.
        dst: the folder.
        dtype: of the weights in the file; the model's own by default.

    Raises:
        OutputError: the folder cannot be written.
    """
    carried = {name: (loaded.path / name).read_bytes() for name in _CARRIED if (loaded.path / name).is_file()}
    with atomic_folder(dst) as folder:
        write_weights(loaded.model, folder, dtype=dtype)
        loaded.tokenizer.save_pretrained(folder)
        for name, content in carried.items():
            (folder / name).write_bytes(content)
        for file in folder.iterdir():
            file.chmod(0o644)
    return dst


def write_weights(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """config.json, generation_config.json and *.safetensors, in `dtype`."""
    if dtype is None:
        model.save_pretrained(folder)
        return
    state = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
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


def copy_checkpoint(src: Path, dst: Path) -> Path:
    """A folder's files, replaced as a whole."""
    with atomic_folder(dst) as folder:
        for file in src.iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    return dst
