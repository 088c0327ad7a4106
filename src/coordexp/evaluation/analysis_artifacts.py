"""The analysis as files: the section `analysis` of metrics.json (numbers), analysis.json (all of it), pr_curves.csv (one row a category and IoU)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from coordexp.evaluation.analysis import DetectionAnalysis
from coordexp.evaluation.columns import EvaluationSet, Floats, Ints
from coordexp.evaluation.confusion import BACKGROUND, Confusion, ConfusionMatrix
from coordexp.evaluation.error_types import ErrorExample, ErrorKind, ErrorTypes
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.sweep import ConfidenceSweep

_TOP_CONFUSIONS = 20
_DIGITS = 6
"""Of a curve's points; single numbers keep all of theirs."""


def analysis_summary(analysis: DetectionAnalysis, labels: LabelPlan) -> dict[str, object]:
    """The numbers without curves, examples and classes. Example: `summary["errors"]["duplicate"] == {"count": 3, "delta_f1": 0.02, "delta_ap": 0.01}`"""
    return {
        "best": None if analysis.sweep is None else asdict(analysis.sweep.best),
        "calibration": None if analysis.calibration is None else {name: value for name, value in asdict(analysis.calibration).items() if name != "bins"},
        "confusions": [_confusion(found, labels.classes) for found in analysis.confusion.top[:_TOP_CONFUSIONS]],
        "errors": {str(kind): _cost(found) for kind, found in analysis.errors.kinds.items()},
        "nms": None if analysis.nms is None else asdict(analysis.nms),
        "health": asdict(analysis.health),
        "absent": list(analysis.absent),
    }


def analysis_as_dict(analysis: DetectionAnalysis, data: EvaluationSet, labels: LabelPlan) -> dict[str, object]:
    """What `analysis.json` holds: classes by name, objects by image and by their place in the record's own arrays."""
    curves = [{"iou": curve.iou, "recall": _rounded(curve.recall), "mean_precision": _rounded(curve.mean)} for curve in analysis.curves]
    return {
        "curves": curves,
        "sweep": None if analysis.sweep is None else _sweep(analysis.sweep, labels),
        "calibration": None if analysis.calibration is None else asdict(analysis.calibration),
        "confusion": _confusion_matrix(analysis.confusion, labels),
        "errors": _errors(analysis.errors, data, labels),
        "nms": None if analysis.nms is None else asdict(analysis.nms),
        "health": asdict(analysis.health),
        "absent": list(analysis.absent),
    }


def pr_curves_csv(analysis: DetectionAnalysis, labels: LabelPlan) -> str:
    """`category,iou,p@0.00,…,p@1.00`: interpolated precision at each recall; categories without ground truth have no row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for curve in analysis.curves[:1]:
        writer.writerow(["category", "iou", *(f"p@{recall:.2f}" for recall in curve.recall.tolist())])
    for curve in analysis.curves:
        for name, precision in zip(labels.categories, curve.by_category, strict=True):
            if not np.isnan(precision[0]):
                writer.writerow([name, f"{curve.iou:.2f}", *_rounded(precision)])
    return text.getvalue()


def _sweep(sweep: ConfidenceSweep, labels: LabelPlan) -> dict[str, object]:
    points = {name: _rounded(getattr(sweep, name)) for name in ("scores", "precision", "recall", "f1")}
    best = {name: asdict(point) for name, point in zip(labels.classes, sweep.best_by_class, strict=True) if point is not None}
    return {"iou": sweep.iou, **points, "num_pred": sweep.num_pred.tolist(), "best": asdict(sweep.best), "best_by_class": best}


def _confusion_matrix(matrix: ConfusionMatrix, labels: LabelPlan) -> dict[str, object]:
    rows = zip(_names(matrix.gt_class, labels), _names(matrix.pred_class, labels), matrix.count.tolist(), strict=True)
    return {"iou": matrix.iou, "entries": [list(row) for row in rows], "top": [_confusion(found, labels.classes) for found in matrix.top[:_TOP_CONFUSIONS]]}


def _confusion(found: Confusion, classes: tuple[str, ...]) -> dict[str, object]:
    return {"gt": classes[found.gt_class], "pred": classes[found.pred_class], "count": found.count, "share": found.share}


def _errors(errors: ErrorTypes, data: EvaluationSet, labels: LabelPlan) -> dict[str, object]:
    kinds = {
        str(kind): {
            **_cost(found),
            "by_class": {labels.classes[place]: int(found.by_class[place]) for place in np.flatnonzero(found.by_class).tolist()},
            "examples": _examples(found.examples, data),
        }
        for kind, found in errors.kinds.items()
    }
    return {"base_f1": errors.base_f1, "base_ap": errors.base_ap, "types": kinds}


def _cost(found: ErrorKind) -> dict[str, object]:
    return {"count": found.count, "delta_f1": found.delta_f1, "delta_ap": found.delta_ap}


def _examples(examples: Iterable[ErrorExample], data: EvaluationSet) -> list[dict[str, object]]:
    return [
        {
            "image_id": data.images[example.image].image_id,
            "file_name": data.images[example.image].file_name,
            "pred_idx": None if example.pred is None else int(data.pred.index[example.pred]),
            "gt_idx": None if example.gt is None else int(data.gt.index[example.gt]),
            "iou": example.iou,
            "score": example.score,
        }
        for example in examples
    ]


def _names(classes: Ints, labels: LabelPlan) -> list[str | None]:
    return [None if place == BACKGROUND else labels.classes[place] for place in classes.tolist()]


def _rounded(values: Floats) -> list[Any]:
    return [round(value, _DIGITS) for value in values.tolist()]
