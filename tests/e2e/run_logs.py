"""The log of a training, for comparisons of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCKS = ("time", "runtime", "per_second", "gen_tokens_per_s", "train_", "backend_")


def log_of(run: Path) -> list[dict[str, Any]]:
    """Also of a run that is writing: what stands behind the last line end is not there yet."""
    return [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]


def without_clocks(run: Path, *others: str) -> list[dict[str, Any]]:
    """Without what differs between runs that train the same, and keys that hold one of `others`."""
    kept = [line for line in log_of(run) if "train_runtime" not in line]
    return [{key: value for key, value in line.items() if not any(part in key for part in (*CLOCKS, *others))} for line in kept]
