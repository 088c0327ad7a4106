"""Disk space for checkpoints, what may lie in one that is resumed, and the folder `final` that inference opens."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from pickle import UnpicklingError  # an error of torch; nothing is read with it  # nosec B403

import torch
from transformers.trainer_pt_utils import safe_globals

from coordexp.types.errors import CheckpointError, OutputError, first_line
from coordexp.types.files import atomic_folder, translate_os_errors

_TRAINING_STATE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "trainer_state.json")
_STATES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state")
"""Beginnings of the names of what torch has written."""


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Raise `OutputError` unless one checkpoint of this size fits on the disk of `folder` (or of its nearest parent that exists)."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        what = f"a checkpoint needs {num_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        raise OutputError(what, where=str(folder), fix="free space, choose another output folder, or set training.save_only_model: true")


def check_states(checkpoint: Path) -> None:
    """Raise `CheckpointError` when a state of the training is damaged, or holds more than tensors and plain values: nothing else is opened.

    Tensors stay on the disk.
    """
    for file in sorted(path for path in checkpoint.iterdir() if path.name.startswith(_STATES)):
        try:
            with safe_globals():
                torch.load(file, weights_only=True, mmap=True, map_location="cpu")
        except (UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
            reason = "it holds something else than tensors and plain values" if isinstance(error, UnpicklingError) else first_line(error)
            raise CheckpointError(f"{file.name} is not opened ({reason})", where=str(checkpoint), fix="resume from another checkpoint of the run") from error


def link_model(checkpoint: Path, dst: Path) -> Path:
    """The model of a training checkpoint as a folder of its own, replaced as a whole; weights are hard links where the disk can, so they cost nothing.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_folder(dst) as folder:
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and file.name not in _TRAINING_STATE and not file.name.startswith("rng_state"):
                _link_or_copy(file, folder / file.name)
    return dst


def _link_or_copy(src: Path, dst: Path) -> None:
    with translate_os_errors(dst):
        if src.suffix == ".safetensors":
            try:
                os.link(src, dst)
            except OSError:
                # no hard links here (another file system, or one without them)
                shutil.copyfile(src, dst)
        else:
            shutil.copyfile(src, dst)
