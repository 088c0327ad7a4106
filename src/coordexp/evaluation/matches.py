"""The rows of `matches.jsonl`: which prediction met which ground truth, one row an image. Indices are those of the record's own arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, ObjectTable
from coordexp.evaluation.f1ish import F1ishLevel, F1ishResult, sem_acc


def match_rows(data: EvaluationSet, result: F1ishResult, threshold: float) -> Iterator[dict[str, object]]:
    """One dictionary an image, in file order."""
    level = result.levels[threshold]
    gt_ranges, pred_ranges = data.gt.ranges(len(data.images)).tolist(), data.pred.ranges(len(data.images)).tolist()
    match_ranges = np.searchsorted(data.gt.image[level.matches.gt], np.arange(len(data.images) + 1)).tolist()
    gt_free, pred_free = np.ones(len(data.gt), np.bool_), result.is_evaluated.copy()
    gt_free[level.matches.gt] = False
    pred_free[level.matches.pred] = False
    for place, image in enumerate(data.images):
        gt_rows, pred_rows = slice(gt_ranges[place], gt_ranges[place + 1]), slice(pred_ranges[place], pred_ranges[place + 1])
        yield {
            "image_id": image.image_id,
            "file_name": image.file_name,
            "width": image.width,
            "height": image.height,
            "iou_thr": threshold,
            **_counts(level, place),
            "pred_scope": result.scope,
            "matches": [_match(data, level, match) for match in range(match_ranges[place], match_ranges[place + 1])],
            "unmatched_pred_indices": data.pred.index[pred_rows][pred_free[pred_rows]].tolist(),
            "ignored_pred_indices": data.pred.index[pred_rows][~result.is_evaluated[pred_rows]].tolist(),
            "unmatched_gt_indices": data.gt.index[gt_rows][gt_free[gt_rows]].tolist(),
        }


def image_summary(level: F1ishLevel, place: int) -> dict[str, object]:
    """The `f1ish` entry of `per_image.json` at one threshold."""
    counts = level.counts
    right, wrong = int(counts.sem_ok[place]), int(counts.sem_bad[place])
    return {
        "tp_loc": int(counts.tp_loc[place]),
        "fp_loc": int(counts.fp_loc[place]),
        "fn_loc": int(counts.fn_loc[place]),
        "pred_count_eval": int(counts.pred_eval[place]),
        "pred_count_ignored": int(counts.pred_ignored[place]),
        "matched_sem_ok": right,
        "matched_sem_bad": wrong,
        "sem_acc_on_matched": sem_acc(right, wrong),
        "tp_full": right,
        "fp_full": int(counts.fp_full[place]),
        "fn_full": int(counts.fn_full[place]),
    }


def _counts(level: F1ishLevel, place: int) -> dict[str, object]:
    counts = level.counts
    tp, fp, fn = int(counts.tp_loc[place]), int(counts.fp_loc[place]), int(counts.fn_loc[place])
    return {
        "gt_count": tp + fn,
        "pred_count": int(counts.pred_total[place]),
        "pred_count_eval": int(counts.pred_eval[place]),
        "pred_count_ignored": int(counts.pred_ignored[place]),
        "tp_loc": tp,
        "fp_loc": fp,
        "fn_loc": fn,
    }


def _match(data: EvaluationSet, level: F1ishLevel, match: int) -> dict[str, object]:
    pred, gt = int(level.matches.pred[match]), int(level.matches.gt[match])
    similarity = float(level.similarity[match])
    return {
        "pred_idx": int(data.pred.index[pred]),
        "gt_idx": int(data.gt.index[gt]),
        "iou": float(level.matches.iou[match]),
        "pred_desc": data.descs[int(data.pred.desc[pred])],
        "gt_desc": data.descs[int(data.gt.desc[gt])],
        "sem_sim": None if math.isnan(similarity) else similarity,
        "sem_ok": bool(level.is_near[match]),
        "pred_bbox": _box(data.pred, pred),
        "gt_bbox": _box(data.gt, gt),
        "pred_type": _kind(data.pred, pred),
        "gt_type": _kind(data.gt, gt),
    }


def _box(table: ObjectTable, row: int) -> list[float]:
    values: list[float] = table.boxes[row].tolist()
    return [int(value) if value.is_integer() else value for value in values]


def _kind(table: ObjectTable, row: int) -> str:
    return "poly" if row in table.polygons else "bbox_2d"
