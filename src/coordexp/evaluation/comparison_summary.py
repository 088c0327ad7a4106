"""A comparison as plain values: what `compare.json` holds."""

from __future__ import annotations

from coordexp.evaluation.columns import ObjectTable
from coordexp.evaluation.compare import Change, Comparison, GroupChange, ImageChange
from coordexp.evaluation.resampling import LEVEL
from coordexp.evaluation.result import EvaluationResult


def comparison_summary(comparison: Comparison) -> dict[str, object]:
    """Every difference is B - A."""
    a, b = comparison.a, comparison.b
    return {
        "a": _run(comparison.names[0], a),
        "b": _run(comparison.names[1], b),
        "comparable": comparison.is_comparable,
        "rule_differences": list(comparison.rule_differences),
        "warnings": list(comparison.warnings),
        "num_images": len(a.data.images),
        "num_gt": len(a.data.gt),
        "bootstrap": {
            "num_resamples": comparison.num_resamples,
            "seed": comparison.seed,
            "level": LEVEL,
            "method": "percentiles of paired resamples of the images",
        },
        "metrics": {key: _change(change) for key, change in comparison.metrics.items()},
        "by_class": [_group(row) for row in comparison.by_class],
        "num_clear_classes": comparison.num_clear_classes,
        "by_size": [_group(row) for row in comparison.by_size],
        "by_num_objects": [_group(row) for row in comparison.by_num_objects],
        "images": [_image(row, a) for row in comparison.images],
    }


def _run(name: str, result: EvaluationResult) -> dict[str, object]:
    return {
        "name": name,
        "predictions": str(result.source.absolute()) if result.source else None,
        "coco_gt": str(result.coco_gt.absolute()) if result.coco_gt else None,
        "num_pred": len(result.data.pred),
        "protocol": result.protocol.as_dict(),
        "ap_valid": result.scores.ap_valid,
        "ap_note": result.scores.ap_note,
        "warnings": list(result.warnings),
    }


def _change(change: Change) -> dict[str, object]:
    interval = None if change.low is None else [change.low, change.high]
    return {"a": change.a, "b": change.b, "delta": change.delta, "interval": interval, "share_b_above": change.share_above}


def _group(row: GroupChange) -> dict[str, object]:
    return {
        "name": row.name,
        "num_gt": row.counts_a.num_gt,
        "num_pred": [row.counts_a.num_pred, row.counts_b.num_pred],
        "tp@0.50": [row.counts_a.at(0.5)[0], row.counts_b.at(0.5)[0]],
        "f1_det@0.50": _change(row.f1),
        "f1_det_miou": _change(row.f1_miou),
    }


def _image(row: ImageChange, result: EvaluationResult) -> dict[str, object]:
    image, table = result.data.images[row.place], result.data.gt
    return {
        "image_id": image.image_id,
        "file_name": image.file_name,
        "gained": [_object(table, place, result) for place in row.gained],
        "lost": [_object(table, place, result) for place in row.lost],
        "false": [row.false_a, row.false_b],
    }


def _object(table: ObjectTable, row: int, result: EvaluationResult) -> dict[str, object]:
    """The index is that of the record's own array."""
    return {"index": int(table.index[row]), "desc": result.data.descs[int(table.desc[row])]}
