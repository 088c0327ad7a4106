"""An adapter in place of all weights: a folder in shared memory that a server started with --enable-lora loads under a name of its own."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from coordexp.generation.server_control import Control
from coordexp.generation.transfers import shared_memory_folder


class AdapterFolder:
    """Lives while a server may read it again."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="coordexp-adapter-", dir=shared_memory_folder())
        self.name = f"policy-{uuid.uuid4().hex[:12]}"
        """A server does not take another adapter under a name that it knows."""

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())

    def close(self) -> None:
        self._folder.cleanup()


def load_adapter(control: Control, folder: Path, *, name: str, before: str | None, version: int) -> dict[str, float]:
    """One cycle on one server: pause, load, forget the one before, clear the caches, resume. Returns the seconds of its parts.

    Raises:
        BackendError: the server refuses, for example because of the rank.
        httpx.HTTPError: it is in trouble.
    """
    times = [time.perf_counter()]
    control.post("/pause", mode="wait")
    times.append(time.perf_counter())
    try:
        control.post_text("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        times.append(time.perf_counter())
        if before is not None:
            control.post_text("/v1/unload_lora_adapter", {"lora_name": before})
        control.post("/update_weight_version", {"new_version": str(version)})
        control.clear_caches()
    finally:
        control.post("/resume")
    times.append(time.perf_counter())
    return {part: after - start for part, start, after in zip(("pause", "transfer", "finish"), times[:-1], times[1:], strict=True)}
