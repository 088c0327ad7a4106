"""The log of a training, for comparisons of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCKS = ("time", "runtime", "per_second", "gen_tokens_per_s", "train_")


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]


def without_clocks(run: Path) -> list[dict[str, Any]]:
    kept = [line for line in log_of(run) if "train_runtime" not in line]
    return [{key: value for key, value in line.items() if not any(part in key for part in (*CLOCKS, "backend_"))} for line in kept]
