"""Disk space for checkpoints, and the folder `final` that inference opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from coordexp.types.errors import OutputError
from coordexp.types.files import atomic_folder, describe_os_error, translate_os_errors

_TRAINING_STATE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "trainer_state.json")
_FULL_BELOW_BYTES = 1 << 20


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Raise `OutputError` unless one checkpoint of this size fits on the disk of `folder` (or of its nearest parent that exists)."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        what = f"a checkpoint needs {num_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        raise OutputError(what, where=str(folder), fix="free space, choose another output folder, or set training.save_only_model: true")


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Raise `OutputError` in place of what the writers of weights and optimizer states raise when the disk is full."""
    try:
        yield
    except OSError as error:
        described = describe_os_error(error)
        if described is None:
            raise
        raise described from error
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free >= _FULL_BELOW_BYTES:
            raise
        raise OutputError("no space left on the device", where=str(folder), fix="free space and resume with training.resume_from_checkpoint: true") from error


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
