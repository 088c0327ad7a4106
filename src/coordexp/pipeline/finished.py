"""Whether a run's folder already holds what is asked for, whole or in part. Equal fingerprints mean equal predictions on the same machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordexp.pipeline.artifacts import ArtifactPaths
from coordexp.pipeline.journal import read_journal
from coordexp.pipeline.result_file import journal_path, partial_path
from coordexp.types.errors import OutputError
from coordexp.types.files import file_sha256


def fingerprint(settings: Mapping[str, Any], *, gt_jsonl: Path, checkpoint: Path) -> str:
    """Of the settings, the bytes of the data file, and the checkpoint (its small files by content, its weights by size and time: they can be large)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(file_sha256(gt_jsonl).encode())
    for path in sorted(checkpoint.iterdir()) if checkpoint.is_dir() else ():
        if path.suffix == ".safetensors":
            status = path.stat()
            digest.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns}".encode())
        elif path.suffix in {".json", ".jinja", ".txt"}:
            digest.update(f"{path.name}:{file_sha256(path)}".encode())
    return digest.hexdigest()


def is_finished(paths: ArtifactPaths, expected: str) -> bool:
    """True when the predictions of a run with this fingerprint are complete; False when there are none, or a part that can be continued.

    Raises:
        OutputError: a run with other settings, data or weights lies there, finished or not.
    """
    unfinished = read_journal(journal_path(paths.gt_vs_pred)) if partial_path(paths.gt_vs_pred).exists() else None
    if unfinished is not None and unfinished.marks:
        if unfinished.fingerprint == expected:
            return False
        what = f"an unfinished run with other settings, data or weights lies here ({len(unfinished.lines)} records are written)"
        raise OutputError(what, where=str(paths.gt_vs_pred), fix="go on with the former settings, choose another run.name, or start again with --overwrite")
    if not (paths.gt_vs_pred.is_file() and paths.summary.is_file() and paths.resolved_config.is_file()):
        return False
    if _fingerprint_of(paths.resolved_config) == expected:
        return True
    what = "a finished run with other settings, data or weights lies here"
    raise OutputError(what, where=str(paths.gt_vs_pred), fix="choose another run.name, or start again with --overwrite")


def _fingerprint_of(manifest: Path) -> str | None:
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value.get("fingerprint") if isinstance(value, dict) else None
