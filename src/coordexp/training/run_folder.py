"""Run folders `<output_dir>/v<N>-<YYYYMMDD-HHMMSS>/<run_name>`: N counts up, also when two runs start at once; and which one to resume."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from coordexp.types.errors import CheckpointError, ConfigError
from coordexp.types.files import ensure_output_folder, translate_os_errors

METADATA_NAME = "run_metadata.json"
LOG_NAME = "logging.jsonl"
FINAL_NAME = "final"

_VERSION = re.compile(r"v(\d+)-\d{8}-\d{6}")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LOCK_NAME = ".run-number.lock"
_STATE_NAME = "trainer_state.json"


def create_run_folder(output_dir: Path, run_name: str, *, now: datetime | None = None) -> Path:
    """A new, empty run folder with the next number.

    Raises:
        ConfigError: `run_name` is not the name of a folder.
        OutputError: it cannot be created.
    """
    check_run_name(run_name)
    ensure_output_folder(output_dir)
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    with _locked(output_dir / _LOCK_NAME), translate_os_errors(output_dir):
        number = max((version for version, _ in _versions(output_dir)), default=-1) + 1
        folder = output_dir / f"v{number}-{stamp}" / run_name
        folder.mkdir(parents=True)
    return folder


def check_run_name(run_name: str) -> None:
    """Raise `ConfigError` unless `run_name` is a plain folder name."""
    if run_name in (".", "..") or "/" in run_name or "\\" in run_name or not run_name.strip():
        raise ConfigError(f"{run_name!r} is not a folder name", where="training.run_name", fix="use letters, digits, '-' and '_'")


def find_resume_checkpoint(output_dir: Path, run_name: str) -> Path:
    """The newest complete checkpoint of the newest run of this name that has one.

    Raises:
        CheckpointError: there is none.
    """
    for _, version in sorted(_versions(output_dir), reverse=True):
        checkpoints = list_checkpoints(version / run_name)
        if checkpoints:
            return checkpoints[-1]
    raise CheckpointError(
        f"no run '{run_name}' with a complete checkpoint to resume", where=str(output_dir), fix="remove training.resume_from_checkpoint to start a new run"
    )


def check_resume_checkpoint(folder: Path) -> Path:
    """The checkpoint, when training can go on from it.

    Raises:
        CheckpointError: it is not a complete training checkpoint.
    """
    if not folder.is_dir():
        raise CheckpointError("no such checkpoint folder", where=str(folder), fix="name a folder checkpoint-<step> of a run, or write true for the newest")
    if not is_complete(folder):
        raise CheckpointError(
            "this is not a complete training checkpoint (weights, optimizer, scheduler, random state and trainer state)",
            where=str(folder),
            fix="resume from an older checkpoint-<step> of the run",
        )
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, by step."""
    found = [(int(match[1]), path) for path in run.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name)) and is_complete(path)]
    return [path for _, path in sorted(found)]


def is_complete(checkpoint: Path) -> bool:
    """False for one whose writing was interrupted: the trainer state is written last."""
    try:
        json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    has_optimizer = any((checkpoint / name).is_file() for name in ("optimizer.pt", "optimizer.bin"))
    return has_optimizer and (checkpoint / "scheduler.pt").is_file() and any(checkpoint.glob("*.safetensors")) and any(checkpoint.glob("rng_state*.pth"))


def read_step(checkpoint: Path) -> int:
    """Optimizer steps that a complete checkpoint has behind it."""
    return int(json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))["global_step"])


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that holds the checkpoint; None when it was copied out of its run."""
    parent = checkpoint.resolve().parent
    return parent if (parent / METADATA_NAME).is_file() else None


def _versions(output_dir: Path) -> Iterator[tuple[int, Path]]:
    if output_dir.is_dir():
        for path in output_dir.iterdir():
            match = _VERSION.fullmatch(path.name)
            if match:
                yield int(match[1]), path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process."""
    with translate_os_errors(path), path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
