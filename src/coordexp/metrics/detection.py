"""The keys of detection in the evaluations of a training: the model generates, and its answers are measured as `coordexp eval` measures them."""

from __future__ import annotations

from typing import Final

from coordexp.metrics.specs import MetricSpec, RunKind
from coordexp.types.metrics import Reduction

DETECTION_SETTING: Final = "custom.eval_detection.enabled"

_MEANINGS: Final = {
    "det_f1": "f1_det@0.50 of greedy answers to a fixed sample of the validation set (docs/eval/README.md)",
    "det_f1@0.75": "f1_det@0.75 of the same answers",
    "det_f1@0.95": "f1_det@0.95 of the same answers",
    "det_f1_miou": "f1_det_miou: the mean of f1_det over IoU 0.50, 0.55, …, 0.95",
    "det_precision": "precision behind det_f1",
    "det_recall": "recall behind det_f1",
    "det_bbox_AP": "COCO AP of the boxes, ranked by the model's own scores",
    "det_bbox_AP50": "COCO AP at IoU 0.50",
    "det_images": "images of the sample",
    "det_gt_objects": "ground-truth objects of the sample",
    "det_pred_objects": "predicted objects that could be used",
    "det_invalid_objects": "predicted objects that could not be used, and parts of answers that could not be read",
    "det_truncated_rate": "share of answers that were cut at custom.eval_detection.max_new_tokens",
    "det_runtime": "seconds of generation and measuring",
}

DETECTION_METRICS: Final = tuple(
    MetricSpec(key, meaning, Reduction.LAST, frozenset(RunKind), in_eval=True, in_train=False, needs=DETECTION_SETTING) for key, meaning in _MEANINGS.items()
)
