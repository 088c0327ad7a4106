"""`run_summary.json`: how a training ended. Written once, when it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coordexp.training.faults import SkippedRecord
from coordexp.types.files import write_text

SUMMARY_NAME = "run_summary.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the caller knows when training has ended."""

    steps: int
    """Optimizer steps behind the last weights."""
    planned_steps: int
    first_step: int
    """Steps that were there when this process began: 0, or those of the checkpoint that it resumed. Seconds and skipped samples count from there."""
    seconds: float
    has_stopped_early: bool
    best_metric: str | None
    best_value: float | None
    best_checkpoint: str | None
    final: str | None
    """Folder with the model for inference."""
    skipped: Sequence[SkippedRecord] = ()

    def document(self) -> dict[str, Any]:
        """As it is written."""
        fields = {key: value for key, value in asdict(self).items() if key != "skipped"}
        skipped = {"samples": sum(record.times for record in self.skipped), "records": [asdict(record) for record in self.skipped]}
        return {"schema_version": SCHEMA_VERSION, "finished": datetime.now(UTC).isoformat(timespec="seconds"), **fields, "skipped": skipped}


def write_summary(folder: Path, summary: RunSummary) -> Path:
    """Raises OutputError when it cannot be written."""
    path = folder / SUMMARY_NAME
    write_text(path, json.dumps(summary.document(), indent=2, ensure_ascii=False) + "\n")
    return path
