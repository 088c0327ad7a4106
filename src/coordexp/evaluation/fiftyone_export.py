"""A result as a FiftyOne data set: two label fields with scores, and with what f1_det at IoU 0.50 made of each object. The library is loaded when asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.data.paths import resolve_image
from coordexp.evaluation.columns import ImageRow
from coordexp.evaluation.export import Side, sides_of
from coordexp.types.errors import BackendError, OutputError

if TYPE_CHECKING:
    from coordexp.evaluation.result import EvaluationResult

_FIELDS = ("ground_truth", "predictions")


def write_fiftyone(result: EvaluationResult, *, image_root: Path, name: str) -> int:
    """Make a persistent data set; returns its number of samples.

    Boxes go to the fields `ground_truth` and `predictions`, polygons to `ground_truth_polygons` and `predictions_polygons`; each object has its `status`
    (tp, fp, fn), the `iou` with its match and, of predictions, its `confidence`.

    Args:
        result: an evaluation.
        image_root: folder that file names are relative to.
        name: of the data set.

    Raises:
        BackendError: FiftyOne is not installed, or its database cannot be reached.
        OutputError: there is a data set of this name.
        DataError: the path of an image leaves the folder.
    """
    try:
        fo: Any = importlib.import_module("fiftyone")
        no_database: type[Exception] = importlib.import_module("fiftyone.core.config").FiftyOneConfigError
    except ImportError as error:
        raise BackendError("FiftyOne is not installed", where="fiftyone", fix="pip install fiftyone, or import the COCO files with any other tool") from error
    try:
        if fo.dataset_exists(name):
            raise OutputError("FiftyOne has a data set of this name", where=name, fix=f"choose another name, or delete it: fiftyone datasets delete {name}")
        dataset: Any = fo.Dataset(name, persistent=True)
    except (no_database, ConnectionError) as error:
        raise BackendError(f"FiftyOne has no database ({' '.join(str(error).split())})", where="fiftyone", fix="set FIFTYONE_DATABASE_URI") from error
    sides = sides_of(result)
    ranges = [side.table.ranges(len(result.data.images)) for side in sides]
    samples = [
        _sample(fo, image, image_root, result, [(side, range(own[place], own[place + 1])) for side, own in zip(sides, ranges, strict=True)])
        for place, image in enumerate(result.data.images)
    ]
    dataset.add_samples(samples)
    return len(samples)


def _sample(fo: Any, image: ImageRow, image_root: Path, result: EvaluationResult, parts: list[tuple[Side, range]]) -> Any:
    sample = fo.Sample(filepath=str(resolve_image(image_root, image.file_name).resolve()))
    for field, (side, rows) in zip(_FIELDS, parts, strict=True):
        boxes = [row for row in rows if row not in side.table.polygons]
        rings = [row for row in rows if row in side.table.polygons]
        sample[field] = fo.Detections(detections=[_detection(fo, row, image, result, side) for row in boxes])
        if rings:
            sample[f"{field}_polygons"] = fo.Polylines(polylines=[_polyline(fo, row, image, result, side) for row in rings])
    return sample


def _detection(fo: Any, row: int, image: ImageRow, result: EvaluationResult, side: Side) -> Any:
    x1, y1, x2, y2 = side.table.boxes[row].tolist()
    box = [x1 / image.width, y1 / image.height, (x2 - x1) / image.width, (y2 - y1) / image.height]
    return fo.Detection(bounding_box=box, **_facts(row, result, side))


def _polyline(fo: Any, row: int, image: ImageRow, result: EvaluationResult, side: Side) -> Any:
    ring = side.table.polygons[row].tolist()
    points = [[(x / image.width, y / image.height) for x, y in zip(ring[0::2], ring[1::2], strict=True)]]
    return fo.Polyline(points=points, closed=True, filled=True, **_facts(row, result, side))


def _facts(row: int, result: EvaluationResult, side: Side) -> dict[str, Any]:
    iou = float(side.iou[row])
    is_matched = iou == iou  # not NaN
    facts: dict[str, Any] = {"label": result.labels.classes[int(side.classes[row])], "status": "tp" if is_matched else side.unmatched}
    if is_matched:
        facts["iou"] = iou
    if side.scores is not None:
        facts["confidence"] = float(side.scores[row])
    return facts
