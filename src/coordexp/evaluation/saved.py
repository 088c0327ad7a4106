"""Reads back what the folder of an evaluation says about itself: which predictions it measured, under which rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from coordexp.evaluation.protocol import EvalProtocol
from coordexp.types.errors import DataError

_FIX = "give the folder of an inference run, or its gt_vs_pred.jsonl"


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """Example: `read_saved(Path("output/run/eval")).predictions` is `/data/output/run/gt_vs_pred.jsonl`."""

    predictions: Path
    coco_gt: Path | None
    """The COCO file of the ground truth; None where the predictions bring it along."""
    protocol: EvalProtocol


def is_saved_evaluation(folder: Path) -> bool:
    return _path(folder).is_file()


def read_saved(folder: Path) -> SavedEvaluation:
    """What `metrics.json` in `folder` records.

    Raises:
        DataError: it cannot be read, does not record what is needed, or the predictions are gone.
    """
    recorded = _read(folder)
    name, truth = recorded.get("predictions"), recorded.get("coco_gt")
    if not isinstance(name, str):
        raise DataError("does not record which predictions it measured", where=str(_path(folder)), fix=_FIX)
    coco_gt = _find(Path(truth), folder, "ground truth") if isinstance(truth, str) else None
    return SavedEvaluation(_find(Path(name), folder, "predictions"), coco_gt, _protocol(recorded.get("protocol"), _path(folder)))


def read_protocol(folder: Path) -> EvalProtocol | None:
    """The rules alone, also when what they were applied to is gone. None: those of COCO files, which records do not have.

    Raises:
        DataError: `metrics.json` cannot be read, or does not record them.
    """
    recorded = _read(folder)
    return None if isinstance(recorded.get("coco_gt"), str) else _protocol(recorded.get("protocol"), _path(folder))


def _path(folder: Path) -> Path:
    return folder / "metrics.json"


def _read(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads(_path(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON ({error})", where=str(_path(folder)), fix=_FIX) from error
    return cast("dict[str, Any]", values) if isinstance(values, dict) else {}


def _find(recorded: Path, folder: Path, what: str) -> Path:
    """Where it was, or beside the folder when the run was moved as a whole."""
    for path in (recorded, folder.absolute().parent / recorded.name):
        if path.is_file():
            return path
    raise DataError(f"the {what} {recorded} cannot be found", where=str(folder), fix=_FIX)


def _protocol(values: object, path: Path) -> EvalProtocol:
    try:
        return msgspec.convert(values, EvalProtocol)
    except msgspec.ValidationError as error:
        raise DataError(f"does not record the rules of the evaluation ({error})", where=str(path), fix="evaluate the predictions again") from error
