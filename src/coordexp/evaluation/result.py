"""What an evaluation found, typed, and the folder it is saved as. The folder appears complete or not at all, and replaces an earlier one as a whole."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from coordexp.evaluation.coco import UNDEFINED, flat_ring
from coordexp.evaluation.columns import EvaluationSet, Floats, InvalidObject, ObjectTable
from coordexp.evaluation.f1_det import IOU_THRESHOLDS, DetCounts, DetResult
from coordexp.evaluation.f1ish import F1ishResult
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.matches import image_summary, match_rows
from coordexp.evaluation.protocol import EvalProtocol
from coordexp.evaluation.scores import ScorePlan
from coordexp.types.files import atomic_writer, replace_owned

HEADLINE = ("f1_det@0.50", "f1_det@0.75", "f1_det@0.95", "f1_det_miou", "mean_matched_iou", "bbox_AP", "bbox_AP50")

_ARTIFACT = re.compile(
    r"metrics\.json|per_class\.csv|per_image\.json|coco_gt\.json|coco_preds\.json|matches(@\d\.\d\d)?\.jsonl|semantic_desc_report\.json|overlays"
)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of equal normalized text; also those that only predictions have."""

    name: str
    ap: float | None
    """COCO AP; None when the COCO part did not run or the class has no ground truth."""
    counts: DetCounts


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Example: `print(result)` shows the headline numbers; `result.metrics["f1_det@0.50"]`; `result.save(Path("eval"))`."""

    metrics: Mapping[str, float]
    counters: Mapping[str, int]
    protocol: EvalProtocol
    det: DetResult
    per_class: tuple[ClassRow, ...]
    category_ap: Floats
    """[K] by category of `labels`; empty when the COCO part did not run."""
    data: EvaluationSet
    labels: LabelPlan
    scores: ScorePlan
    f1ish: F1ishResult | None
    warnings: tuple[str, ...]
    with_segm: bool = True
    """Whether predicted polygons took part."""

    def __str__(self) -> str:
        numbers = "  ".join(f"{key} {self.metrics[key]:.4f}" for key in HEADLINE if key in self.metrics)
        size = f"{len(self.data.images)} images, {len(self.data.gt)} ground truths, {len(self.data.pred)} predictions"
        note = "" if self.scores.ap_valid else f"\nAP is not valid: {self.scores.ap_note}"
        return f"{numbers}\n{size}\n{self.protocol.label}{note}"

    def summary(self) -> dict[str, object]:
        """What `metrics.json` holds."""
        return {
            "metrics": dict(self.metrics),
            "counters": dict(self.counters),
            "protocol": self.protocol.as_dict(),
            "ap_valid": self.scores.ap_valid,
            "ap_note": self.scores.ap_note,
            "num_images": len(self.data.images),
            "num_gt": len(self.data.gt),
            "num_pred": len(self.data.pred),
            "f1_det_by_size": {name: _counts_as_dict(counts) for name, counts in self.det.by_size.items()},
            "f1_det_by_num_objects": {name: _counts_as_dict(counts) for name, counts in self.det.by_num_objects.items()},
            "warnings": list(self.warnings),
        }

    def save(self, folder: Path) -> None:
        """Write the artifacts; those that an earlier run left in the folder are replaced as a whole, other files in it stay.

        Raises:
            OutputError: the folder cannot be written.
        """
        with replace_owned(folder, is_owned=is_artifact) as new:
            self.write_into(new)

    def write_into(self, folder: Path) -> None:
        """Write the artifacts into a folder that the caller makes appear."""
        _write(folder / "metrics.json", [msgspec.json.format(msgspec.json.encode(self.summary()), indent=2), b"\n"])
        _write(folder / "per_class.csv", [self.per_class_csv().encode()])
        _write(folder / "per_image.json", _json_array(self._per_image_rows()))
        _write(folder / "coco_gt.json", self._coco_gt())
        _write(folder / "coco_preds.json", _json_array(self._coco_preds()))
        if self.f1ish is not None:
            for threshold in self.f1ish.levels:
                name = "matches.jsonl" if threshold == self.f1ish.primary else f"matches@{threshold:.2f}.jsonl"
                _write(folder / name, (msgspec.json.encode(row) + b"\n" for row in match_rows(self.data, self.f1ish, threshold)))

    def per_class_csv(self) -> str:
        """One row a category, quoted where needed; the first two columns are `category,AP`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["category", "AP", "num_gt", "num_pred", "f1_det@0.50", "f1_det_miou", "precision@0.50", "recall@0.50", "mean_matched_iou"])
        class_of_category: dict[int, int] = dict(zip(self.labels.gt_category.tolist(), self.labels.gt_class.tolist(), strict=True))
        for number, name in enumerate(self.labels.categories, start=1):
            counts = self.det.by_class[class_of_category[number]]
            ap = float(self.category_ap[number - 1]) if len(self.category_ap) else ""
            mean_iou = "" if counts.mean_iou is None else counts.mean_iou
            f1 = (counts.f1(0.5), counts.f1_miou, counts.precision(0.5), counts.recall(0.5))
            writer.writerow([name, ap, counts.num_gt, counts.num_pred, *f1, mean_iou])
        return text.getvalue()

    def _per_image_rows(self) -> Iterator[dict[str, object]]:
        levels = self.f1ish.levels if self.f1ish is not None else {}
        for place, (image, counts) in enumerate(zip(self.data.images, self.det.per_image, strict=True)):
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

    def _coco_gt(self) -> Iterator[bytes]:
        images = [{"id": image.image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in self.data.images]
        categories = [{"id": number, "name": name} for number, name in enumerate(self.labels.categories, start=1)]
        yield b'{"info":{},"licenses":[],"images":' + msgspec.json.encode(images)
        yield b',"categories":' + msgspec.json.encode(categories) + b',"annotations":'
        yield from _json_array(self._coco_annotations())
        yield b"}\n"

    def _coco_annotations(self) -> Iterator[dict[str, object]]:
        table = self.data.gt
        boxes, areas = _numbers(_xywh(table)), _numbers(table.areas)
        images: list[int] = table.image.tolist()
        for row, (image, category) in enumerate(zip(images, self.labels.gt_category.tolist(), strict=True)):
            yield {
                "id": row + 1,
                "image_id": self.data.images[image].image_id,
                "category_id": category,
                "bbox": boxes[row],
                "area": areas[row],
                "iscrowd": 0,
                "segmentation": [_ring(table, row)],
            }

    def _coco_preds(self) -> Iterator[dict[str, object]]:
        table = self.data.pred
        boxes, scores = _numbers(_xywh(table)), self.scores.scores.tolist()
        images: list[int] = table.image.tolist()
        rows: list[int] = np.flatnonzero(self.labels.pred_category).tolist()
        for row in rows:
            image_id = self.data.images[images[row]].image_id
            entry: dict[str, object] = {"image_id": image_id, "category_id": int(self.labels.pred_category[row]), "bbox": boxes[row], "score": scores[row]}
            yield entry | {"segmentation": [_ring(table, row)]} if self.with_segm and row in table.polygons else entry


def is_artifact(name: str) -> bool:
    """Whether an evaluation writes a file or folder of this name."""
    return _ARTIFACT.fullmatch(name) is not None


def class_rows(labels: LabelPlan, det: DetResult, category_ap: Floats) -> tuple[ClassRow, ...]:
    """One row a class; its AP is the mean over its categories (more than one only where spellings differ in case or separators)."""
    aps: dict[int, list[float]] = {}
    if len(category_ap):
        for category, label_class in sorted(set(zip(labels.gt_category.tolist(), labels.gt_class.tolist(), strict=True))):
            value = float(category_ap[category - 1])
            if value != UNDEFINED:
                aps.setdefault(label_class, []).append(value)
    means = {label_class: sum(values) / len(values) for label_class, values in aps.items()}
    return tuple(ClassRow(name, means.get(place), det.by_class[place]) for place, name in enumerate(labels.classes))


def _counts_as_dict(counts: DetCounts) -> dict[str, object]:
    f1 = {f"f1_det@{threshold:.2f}": counts.f1(threshold) for threshold in IOU_THRESHOLDS}
    rates = {"precision@0.50": counts.precision(0.5), "recall@0.50": counts.recall(0.5), "mean_matched_iou": counts.mean_iou}
    return {"num_gt": counts.num_gt, "num_pred": counts.num_pred, **f1, "f1_det_miou": counts.f1_miou, **rates}


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
