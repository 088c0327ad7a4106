"""The pretrained tiny checkpoint that is part of the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from coordexp.types.errors import CheckpointError


def tiny_checkpoint() -> Path:
    """Its folder; it can be opened where it lies.

    Raises:
        CheckpointError: the package was installed without it.
    """
    folder = Path(str(resources.files("coordexp").joinpath("assets", "tiny")))
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError("the package has no tiny checkpoint", where=str(folder), fix="run 'make tiny' in a clone of the repository to make it")
    return folder
