"""A result for other tools: two COCO data sets that FiftyOne imports as two label fields, and detections of the library supervision.

Nothing is left out: predictions with a name that no ground truth has are there too, and each object says what f1_det at IoU 0.50 made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from coordexp.evaluation.columns import Floats, ImageRow, Ints, ObjectTable
from coordexp.evaluation.json_rows import as_array, portions
from coordexp.geometry.masks import ring_to_mask
from coordexp.geometry.polygons import box_to_ring
from coordexp.types.errors import BackendError
from coordexp.types.files import atomic_writer

if TYPE_CHECKING:
    import supervision as sv

    from coordexp.evaluation.result import EvaluationResult

GROUND_TRUTH, PREDICTIONS = "ground_truth.json", "predictions.json"


class ExportedObject(msgspec.Struct, gc=False):
    """A COCO annotation with what became of it."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    status: str
    """tp, fp (a prediction without a match) or fn (a ground truth without one)."""
    iou: float | UnsetType = UNSET
    """With its match."""
    score: float | UnsetType = UNSET
    segmentation: list[list[float]] | UnsetType = UNSET


def write_coco_pair(result: EvaluationResult, folder: Path) -> None:
    """`ground_truth.json` and `predictions.json`: COCO data sets with the same images and categories; predictions have a `score`.

    Raises:
        OutputError: the folder cannot be written.
    """
    for name, side in zip((GROUND_TRUTH, PREDICTIONS), sides_of(result), strict=True):
        with atomic_writer(folder / name) as stream:
            stream.write(_head(result))
            for chunk in as_array(_rows(result, side)):
                stream.write(chunk.decode())
            stream.write("}\n")


@dataclass(frozen=True, slots=True)
class Side:
    """Ground truth or predictions with what became of them."""

    table: ObjectTable
    classes: Ints
    """[N] position in `LabelPlan.classes`."""
    iou: Floats
    """[N] with its match; NaN without one."""
    scores: Floats | None
    unmatched: str
    """What an object without a match is called."""


def sides_of(result: EvaluationResult) -> tuple[Side, Side]:
    """Ground truth and predictions."""
    data, labels, matches = result.data, result.labels, result.det.matches
    gt_iou, pred_iou = np.full(len(data.gt), np.nan), np.full(len(data.pred), np.nan)
    gt_iou[matches.gt] = pred_iou[matches.pred] = matches.iou
    return Side(data.gt, labels.gt_class, gt_iou, None, "fn"), Side(data.pred, labels.pred_class, pred_iou, result.scores.scores, "fp")


def _head(result: EvaluationResult) -> str:
    images = [{"id": image.image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in result.data.images]
    categories = [{"id": number, "name": name} for number, name in enumerate(result.labels.classes, start=1)]
    texts = [msgspec.json.encode(value).decode() for value in (images, categories)]
    return f'{{"info":{{}},"licenses":[],"images":{texts[0]},"categories":{texts[1]},"annotations":'


def _rows(result: EvaluationResult, side: Side) -> Iterator[list[ExportedObject]]:
    """In portions."""
    image_ids = np.array([image.image_id for image in result.data.images], dtype=np.int64)
    for part in portions(len(side.table)):
        yield [_row(row, int(image_ids[side.table.image[row]]), side) for row in range(part.start, part.stop)]


def _row(row: int, image_id: int, side: Side) -> ExportedObject:
    x1, y1, x2, y2 = side.table.boxes[row].tolist()
    iou = float(side.iou[row])
    is_matched = iou == iou  # not NaN
    ring = side.table.polygons.get(row)
    return ExportedObject(
        id=row + 1,
        image_id=image_id,
        category_id=int(side.classes[row]) + 1,
        bbox=[x1, y1, x2 - x1, y2 - y1],
        area=(x2 - x1) * (y2 - y1),
        iscrowd=0,
        status="tp" if is_matched else side.unmatched,
        iou=iou if is_matched else UNSET,
        score=UNSET if side.scores is None else float(side.scores[row]),
        segmentation=UNSET if ring is None else [ring.tolist()],
    )


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """One image for supervision: `class_id` counts in `EvaluationResult.labels.classes`, `data["class_name"]` names it, `data["status"]` is tp, fp or fn."""

    file_name: str
    ground_truth: sv.Detections
    predictions: sv.Detections


def to_supervision(result: EvaluationResult) -> Iterator[ImageDetections]:
    """Image by image, in the order of the file. Where one of an image's objects is a polygon, all of them have masks.

    Raises:
        BackendError: supervision is not installed.
    """
    try:
        import supervision as sv
    except ModuleNotFoundError as error:
        fix = "pip install 'coordexp[supervision]'"
        raise BackendError("detections need the library supervision, which is not installed", where="to_supervision", fix=fix) from error
    data, names = result.data, np.array(result.labels.classes, dtype=np.str_)
    truth, said = sides_of(result)
    gt_ranges, pred_ranges = data.gt.ranges(len(data.images)), data.pred.ranges(len(data.images))
    for place, image in enumerate(data.images):
        gt, pred = slice(gt_ranges[place], gt_ranges[place + 1]), slice(pred_ranges[place], pred_ranges[place + 1])
        yield ImageDetections(
            file_name=image.file_name,
            ground_truth=sv.Detections(**_columns(truth, gt, names, image)),
            predictions=sv.Detections(**_columns(said, pred, names, image)),
        )


def _columns(side: Side, part: slice, names: npt.NDArray[np.str_], image: ImageRow) -> dict[str, Any]:
    """The arguments of `sv.Detections` for the rows `part`."""
    table, classes = side.table, side.classes[part]
    rows = range(part.start, part.stop)
    masks = None
    if any(row in table.polygons for row in rows):
        rings = [table.polygons[row].tolist() if row in table.polygons else box_to_ring(table.boxes[row].tolist()) for row in rows]
        masks = np.stack([ring_to_mask(ring, width=image.width, height=image.height) for ring in rings])
    return {
        "xyxy": table.boxes[part].copy(),
        "mask": masks,
        "confidence": None if side.scores is None else side.scores[part].copy(),
        "class_id": classes,
        "data": {"class_name": names[classes], "status": np.where(np.isnan(side.iou[part]), side.unmatched, "tp")},
    }
