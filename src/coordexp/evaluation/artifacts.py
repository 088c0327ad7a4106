"""The folder of an evaluation: every file of it, written from columns. `EvaluationResult.save` makes it appear complete or not at all."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from coordexp.evaluation.analysis_artifacts import analysis_as_dict, pr_curves_csv
from coordexp.evaluation.coco import flat_ring
from coordexp.evaluation.columns import Floats, InvalidObject, ObjectTable
from coordexp.evaluation.matches import image_summary, match_rows
from coordexp.types.files import atomic_writer

if TYPE_CHECKING:
    from coordexp.evaluation.result import EvaluationResult

_ARTIFACT = re.compile(
    r"metrics\.json|per_class\.csv|per_image\.json|coco_gt\.json|coco_preds\.json|matches(@\d\.\d\d)?\.jsonl|semantic_desc_report\.json|overlays"
    r"|analysis\.json|pr_curves\.csv"
)


def is_artifact(name: str) -> bool:
    """Whether an evaluation writes a file or folder of this name."""
    return _ARTIFACT.fullmatch(name) is not None


def write_artifacts(result: EvaluationResult, folder: Path) -> None:
    """Write all files into `folder`, which the caller makes appear.

    Raises:
        OutputError: the folder cannot be written.
    """
    _write(folder / "metrics.json", [msgspec.json.format(msgspec.json.encode(result.summary()), indent=2), b"\n"])
    _write(folder / "per_class.csv", [per_class_csv(result).encode()])
    _write(folder / "analysis.json", [msgspec.json.encode(analysis_as_dict(result.analysis, result.data, result.labels)), b"\n"])
    if result.analysis.curves:
        _write(folder / "pr_curves.csv", [pr_curves_csv(result.analysis, result.labels).encode()])
    _write(folder / "per_image.json", _json_array(_per_image_rows(result)))
    if result.semantic_report is not None:
        _write(folder / "semantic_desc_report.json", [msgspec.json.format(msgspec.json.encode(result.semantic_report.as_dict()), indent=2), b"\n"])
    _write(folder / "coco_gt.json", _coco_gt(result))
    _write(folder / "coco_preds.json", _json_array(coco_predictions(result)))
    if result.f1ish is not None:
        for threshold in result.f1ish.levels:
            name = "matches.jsonl" if threshold == result.f1ish.primary else f"matches@{threshold:.2f}.jsonl"
            _write(folder / name, (msgspec.json.encode(row) + b"\n" for row in match_rows(result.data, result.f1ish, threshold)))


def per_class_csv(result: EvaluationResult) -> str:
    """One row a category, quoted where needed; the first two columns are `category,AP`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", "AP", "num_gt", "num_pred", "f1_det@0.50", "f1_det_miou", "precision@0.50", "recall@0.50", "mean_matched_iou"])
    class_of_category: dict[int, int] = dict(zip(result.labels.gt_category.tolist(), result.labels.gt_class.tolist(), strict=True))
    for number, name in enumerate(result.labels.categories, start=1):
        counts = result.det.by_class[class_of_category[number]]
        ap = float(result.category_ap[number - 1]) if len(result.category_ap) else ""
        mean_iou = "" if counts.mean_iou is None else counts.mean_iou
        f1 = (counts.f1(0.5), counts.f1_miou, counts.precision(0.5), counts.recall(0.5))
        writer.writerow([name, ap, counts.num_gt, counts.num_pred, *f1, mean_iou])
    return text.getvalue()


def _per_image_rows(result: EvaluationResult) -> Iterator[dict[str, object]]:
    levels = result.f1ish.levels if result.f1ish is not None else {}
    for place, (image, counts) in enumerate(zip(result.data.images, result.det.per_image, strict=True)):
        tp, fp, fn = counts.at(0.5)
        row: dict[str, object] = {
            "image_id": image.image_id,
            "file_name": image.file_name,
            "gt_count": counts.num_gt,
            "pred_count": counts.num_pred,
            "invalid_gt": [_invalid_as_dict(item) for item in image.invalid_gt],
            "invalid_pred": [_invalid_as_dict(item) for item in image.invalid_pred],
            "f1_det": {"tp": tp, "fp": fp, "fn": fn, "f1": counts.f1(0.5), "f1_miou": counts.f1_miou, "mean_iou": counts.mean_iou},
            "errors": list(image.errors),
        }
        yield row | {"f1ish": {f"{threshold:.2f}": image_summary(level, place) for threshold, level in levels.items()}} if levels else row


def _coco_gt(result: EvaluationResult) -> Iterator[bytes]:
    images = [{"id": image.image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in result.data.images]
    categories = [{"id": number, "name": name} for number, name in enumerate(result.labels.categories, start=1)]
    yield b'{"info":{},"licenses":[],"images":' + msgspec.json.encode(images)
    yield b',"categories":' + msgspec.json.encode(categories) + b',"annotations":'
    yield from _json_array(coco_annotations(result))
    yield b"}\n"


def coco_annotations(result: EvaluationResult) -> Iterator[dict[str, object]]:
    table = result.data.gt
    boxes, areas = _numbers(_xywh(table)), _numbers(table.areas)
    images: list[int] = table.image.tolist()
    for row, (image, category) in enumerate(zip(images, result.labels.gt_category.tolist(), strict=True)):
        yield {
            "id": row + 1,
            "image_id": result.data.images[image].image_id,
            "category_id": category,
            "bbox": boxes[row],
            "area": areas[row],
            "iscrowd": 0,
            "segmentation": [_ring(table, row)],
        }


def coco_predictions(result: EvaluationResult) -> Iterator[dict[str, object]]:
    table = result.data.pred
    boxes, scores = _numbers(_xywh(table)), result.scores.scores.tolist()
    images: list[int] = table.image.tolist()
    rows: list[int] = np.flatnonzero(result.labels.pred_category).tolist()
    for row in rows:
        image_id = result.data.images[images[row]].image_id
        entry: dict[str, object] = {"image_id": image_id, "category_id": int(result.labels.pred_category[row]), "bbox": boxes[row], "score": scores[row]}
        yield entry | {"segmentation": [_ring(table, row)]} if result.with_segm and row in table.polygons else entry


def _invalid_as_dict(item: InvalidObject) -> dict[str, object]:
    return {"reason": item.reason, "raw": _finite(item.raw)}


def _finite(value: object) -> object:
    """NaN and infinity as texts: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, object]", value).items()}
    return value


def _xywh(table: ObjectTable) -> Floats:
    return np.concatenate([table.boxes[:, :2], table.boxes[:, 2:] - table.boxes[:, :2]], axis=1)


def _numbers(values: Floats) -> list[Any]:
    """Whole numbers as int when all are whole, as pixel mode `int` makes them."""
    return values.astype(np.int64).tolist() if (values == np.floor(values)).all() else values.tolist()


def _ring(table: ObjectTable, row: int) -> list[float]:
    return [int(value) if value == int(value) else value for value in flat_ring(table, row)]


def _json_array(rows: Iterator[Any]) -> Iterator[bytes]:
    """A JSON array, one row a line, without holding it in memory."""
    separator = b"[\n"
    for row in rows:
        yield separator + msgspec.json.encode(row)
        separator = b",\n"
    yield b"[]\n" if separator == b"[\n" else b"\n]\n"


def _write(path: Path, chunks: Iterator[bytes] | list[bytes]) -> None:
    with atomic_writer(path) as stream:
        for chunk in chunks:
            stream.write(chunk.decode())
