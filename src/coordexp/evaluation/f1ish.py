"""f1ish: first where (class-agnostic one-to-one matching by IoU), then what (are the labels of a match near each other).

Its numbers depend on the label rule and on the scope; f1_det is the headline number. All formulas: docs/eval/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import Overlaps, match_greedily, pairs_in_image
from coordexp.evaluation.similarity import LabelSimilarity
from coordexp.semantics.normalize import normalize_label

PredScope: TypeAlias = Literal["annotated", "all"]

DEFAULT_THRESHOLDS = (0.3, 0.5)


@dataclass(frozen=True, slots=True)
class F1ishCounts:
    """Counts of every image at one threshold, each [I]."""

    tp_loc: Ints
    fp_loc: Ints
    fn_loc: Ints
    sem_ok: Ints
    sem_bad: Ints
    pred_total: Ints
    pred_eval: Ints

    @property
    def pred_ignored(self) -> Ints:
        return self.pred_total - self.pred_eval

    @property
    def fp_full(self) -> Ints:
        return self.fp_loc + self.sem_bad

    @property
    def fn_full(self) -> Ints:
        return self.fn_loc + self.sem_bad


@dataclass(frozen=True, slots=True)
class F1ishLevel:
    """One threshold: its matches by falling IoU inside an image, and its counts."""

    threshold: float
    matches: Overlaps
    similarity: Floats
    """[K] of the matches; NaN where unknown."""
    is_near: Bools
    """[K]"""
    counts: F1ishCounts


@dataclass(frozen=True, slots=True)
class F1ishResult:
    """Example: `result.levels[0.5].counts.tp_loc.sum()`"""

    levels: dict[float, F1ishLevel]
    scope: PredScope
    is_evaluated: Bools
    """[P] False: the prediction is ignored, because its label is not near any of its image."""

    @property
    def primary(self) -> float:
        """The threshold of `matches.jsonl`: 0.5 if present, else the largest."""
        return 0.5 if 0.5 in self.levels else max(self.levels)


def f1ish(
    data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps, *, similarity: LabelSimilarity, thresholds: Sequence[float] = (), scope: PredScope = "annotated"
) -> F1ishResult:
    """`overlaps` must reach down to the lowest threshold. No thresholds: 0.30 and 0.50."""
    chosen = tuple(thresholds) or DEFAULT_THRESHOLDS
    is_evaluated = np.ones(len(data.pred), dtype=np.bool_) if scope == "all" else _has_near_label(data, labels, similarity)
    candidates = overlaps.where(is_evaluated[overlaps.pred] & (overlaps.iou >= min(chosen)))
    matches = match_greedily(candidates, num_pred=len(data.pred), num_gt=len(data.gt))
    near = similarity.compare(labels.pred_class[matches.pred], labels.gt_class[matches.gt])
    return F1ishResult({threshold: _level(data, matches, near, is_evaluated, threshold) for threshold in chosen}, scope, is_evaluated)


def f1ish_metrics(result: F1ishResult) -> dict[str, float]:
    """Example: `{"f1ish@0.50_tp_loc": 31.0, …, "f1ish@0.50_f1_full_macro": 0.57}`"""
    metrics: dict[str, float] = {}
    for threshold, level in result.levels.items():
        key, counts = f"f1ish@{threshold:.2f}_", level.counts
        right = counts.sem_ok
        sums: dict[str, Ints] = {"tp_loc": counts.tp_loc, "fp_loc": counts.fp_loc, "fn_loc": counts.fn_loc}
        sums |= {"pred_total": counts.pred_total, "pred_eval": counts.pred_eval, "pred_ignored": counts.pred_ignored}
        metrics |= _totals(key, sums) | _rates(key, "loc", counts.tp_loc, counts.fp_loc, counts.fn_loc)
        metrics |= _totals(key, {"matched_sem_ok": right, "matched_sem_bad": counts.sem_bad})
        metrics[f"{key}sem_acc_on_matched"] = sem_acc(int(right.sum()), int(counts.sem_bad.sum()))
        metrics |= _totals(key, {"tp_full": right, "fp_full": counts.fp_full, "fn_full": counts.fn_full})
        metrics |= _rates(key, "full", right, counts.fp_full, counts.fn_full)
    return metrics


def sem_acc(num_right: int, num_wrong: int) -> float:
    """Share of right labels among matches; 1 without matches."""
    return num_right / (num_right + num_wrong) if num_right + num_wrong else 1.0


def _has_near_label(data: EvaluationSet, labels: LabelPlan, similarity: LabelSimilarity) -> Bools:
    """[P]: is the label near that of any ground truth of the same image? Never so in an image without ground truth, nor for an empty label."""
    found = np.zeros(len(data.pred), dtype=np.bool_)
    has_text = np.array([bool(normalize_label(name)) for name in labels.classes], dtype=np.bool_)
    for pred, gt in pairs_in_image(data):
        found[pred[labels.pred_class[pred] == labels.gt_class[gt]]] = True
        is_open = ~found[pred]  # all pairs of a prediction stand together: most need no comparison, and then no encoder
        pred, gt = pred[is_open], gt[is_open]
        _, is_near = similarity.compare(labels.pred_class[pred], labels.gt_class[gt])
        found[pred[is_near]] = True
    return found & has_text[labels.pred_class]


def _level(data: EvaluationSet, matches: Overlaps, near: tuple[Floats, Bools], is_evaluated: Bools, threshold: float) -> F1ishLevel:
    keep = matches.iou >= threshold
    kept, similarity, is_near = matches.where(keep), near[0][keep], near[1][keep]
    images = data.gt.image[kept.gt]

    def per_image(rows: Ints) -> Ints:
        return np.bincount(rows, minlength=len(data.images)).astype(np.int64)

    tp, evaluated = per_image(images), per_image(data.pred.image[is_evaluated])
    counts = F1ishCounts(
        tp_loc=tp,
        fp_loc=evaluated - tp,
        fn_loc=per_image(data.gt.image) - tp,
        sem_ok=per_image(images[is_near]),
        sem_bad=per_image(images[~is_near]),
        pred_total=per_image(data.pred.image),
        pred_eval=evaluated,
    )
    return F1ishLevel(threshold, kept, similarity, is_near, counts)


def _totals(key: str, columns: dict[str, Ints]) -> dict[str, float]:
    return {f"{key}{name}": float(values.sum()) for name, values in columns.items()}


def _rates(key: str, kind: str, tp: Ints, fp: Ints, fn: Ints) -> dict[str, float]:
    """Micro from the sums, macro as the mean over images (0 without images)."""
    micro = precision_recall_f1(tp.sum(keepdims=True), fp.sum(keepdims=True), fn.sum(keepdims=True))
    macro = precision_recall_f1(tp, fp, fn)
    names = ("precision", "recall", "f1")
    rates = {f"{key}{name}_{kind}_micro": float(values[0]) for name, values in zip(names, micro, strict=True)}
    return rates | {f"{key}{name}_{kind}_macro": float(values.mean()) if values.size else 0.0 for name, values in zip(names, macro, strict=True)}


def precision_recall_f1(tp: Ints | Floats, fp: Ints | Floats, fn: Ints | Floats) -> tuple[Floats, Floats, Floats]:
    """P = 1 where tp + fp = 0, R = 1 where tp + fn = 0, F1 = 0 where P + R = 0."""
    precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0)
    recall = np.where(tp + fn > 0, tp / np.maximum(tp + fn, 1), 1.0)
    both = precision + recall
    return precision, recall, np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1.0), 0.0)
