"""`logging.jsonl`: one JSON object for each log event, appended whole. A resumed run continues the file from the step of its checkpoint."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from coordexp.metrics.payload import MetricPayload, Mode, PayloadError, parse_line
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import EVAL_PREFIX
from coordexp.types.files import translate_os_errors, write_text


class RunLog:
    """Appends events. One writer; what a reader finds up to the last line end is complete, but for a machine that loses power.

    Example: `RunLog(folder / "logging.jsonl").write({"loss": 2.31, "epoch": 0.5}, step=20)`
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._warned: set[str] = set()

    def rewind(self, step: int) -> None:
        """Drop events after `step`, and a last line that was cut off: the run repeats them."""
        if not self._path.exists():
            return
        kept: list[str] = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                payload = parse_line(line)
            except PayloadError:
                continue
            if payload.global_step <= step and "train_runtime" not in payload.metrics:
                kept.append(line + "\n")
        write_text(self._path, "".join(kept))

    def write(self, logs: Mapping[str, float], *, step: int) -> None:
        """Append one event.

        Raises:
            UnknownMetricError: a key is not registered.
            OutputError: the disk is full.
        """
        REGISTRY.check_logged(logs)
        mode: Mode = "eval" if any(key.startswith(EVAL_PREFIX) for key in logs) else "train"
        payload = MetricPayload(mode=mode, global_step=step, metrics=self._finite(logs))
        line = payload.to_line(time=datetime.now(UTC).isoformat(timespec="milliseconds")) + "\n"
        with translate_os_errors(self._path), self._path.open("ab") as stream:
            stream.write(line.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())

    def _finite(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Without diagnostics that are not finite (a gradient norm of a step that fp16 scaling skips); each is told once."""
        finite = {key: float(value) for key, value in logs.items() if math.isfinite(value)}
        for key in logs.keys() - finite.keys() - self._warned:
            self._warned.add(key)
            warnings.warn(f"the metric '{key}' is {logs[key]}: such values are left out of {self._path.name}", stacklevel=3)
        return finite
