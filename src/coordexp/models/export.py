"""Writes a model as a checkpoint folder that stock transformers and vLLM open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from coordexp.models.disk import DiskErrors
from coordexp.models.load import LoadedModel
from coordexp.models.weights import write_weights
from coordexp.types.files import atomic_folder

_CARRIED = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json", "chat_template.json")
"""Files that say how images and prompts are prepared; copied unchanged from the checkpoint that the model came from."""


def save_checkpoint(loaded: LoadedModel, dst: Path, *, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> Path:
    """Write model, tokenizer and image settings to `dst`, which is replaced as a whole.

    Args:
        loaded: the model as it is now, with the folder that it was loaded from.
        dst: the folder.
        dtype: of the weights in the file; the model's own by default.
        state: the weights, when the model's own are split over processes.

    Raises:
        OutputError: the folder cannot be written.
    """
    carried = {name: (loaded.path / name).read_bytes() for name in _CARRIED if (loaded.path / name).is_file()}
    with atomic_folder(dst) as folder, DiskErrors(dst.parent):
        write_weights(loaded.model, folder, dtype=dtype, state=state)
        loaded.tokenizer.save_pretrained(folder)
        for name, content in carried.items():
            (folder / name).write_bytes(content)
        for file in folder.iterdir():
            file.chmod(0o644)
    return dst
