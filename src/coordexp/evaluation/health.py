"""Generation health: what a model's answers look like, whatever they are about. From what inference wrote into the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, ImageRow, ObjectTable
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.objects import Reason
from coordexp.evaluation.pred_overlaps import PredOverlaps

DUPLICATE_IOU = 0.90

_UNUSABLE = frozenset(str(reason) for reason in Reason)
"""Codes that name an object; every other code in `errors` but `empty_pred` says why there is no answer."""


@dataclass(frozen=True, slots=True)
class ObjectsPerImage:
    """Over all images, also those without objects; 0 when there is no image."""

    mean: float
    p50: float
    p90: float
    max: int


@dataclass(frozen=True, slots=True)
class GenerationHealth:
    """Shares are of images unless said otherwise; 0 where there is nothing to share out. None: the records do not say."""

    num_images: int
    num_answers: int
    """Images whose record has a `finish_reason`."""
    finish_reasons: Mapping[str, int]
    """Answers by reason. Example: `{"length": 3, "stop": 97}`"""
    truncated: float | None
    """Share of answers cut at the token limit (`length`); None without answers."""
    looped: float | None
    """Share of answers that the loop guard ended (`repeat`); None without answers."""
    malformed: float
    """Share of images with an entry that could not be read or used."""
    malformed_entries: Mapping[str, int]
    """Such entries by reason, most frequent first; one that inference only named (`errors`) counts once an image."""
    failed: float
    """Share of images that got no answer: `errors` names why."""
    empty: float
    """Share of images without a usable prediction, failed ones left out."""
    num_duplicates: int
    """Predictions with the class of an earlier one of their image and IoU > 0.90 with it."""
    duplicates: float
    """Share of predictions."""
    gt_objects: ObjectsPerImage
    pred_objects: ObjectsPerImage


def generation_health(data: EvaluationSet, labels: LabelPlan, pairs: PredOverlaps) -> GenerationHealth:
    """Count over all images. `pairs` must hold all with IoU > `DUPLICATE_IOU`."""
    num_images = len(data.images)
    reasons = Counter(image.finish_reason for image in data.images if image.finish_reason is not None)
    entries = [_malformed_entries(image) for image in data.images]
    has_pred = np.bincount(data.pred.image, minlength=num_images) > 0
    is_failed = np.array([_is_failed(image) for image in data.images], dtype=np.bool_)
    is_double = (labels.pred_class[pairs.first] == labels.pred_class[pairs.second]) & (pairs.iou > DUPLICATE_IOU)
    num_duplicates = len(np.unique(pairs.second[is_double]))
    num_answers = sum(reasons.values())
    return GenerationHealth(
        num_images=num_images,
        num_answers=num_answers,
        finish_reasons=dict(sorted(reasons.items())),
        truncated=reasons["length"] / num_answers if num_answers else None,
        looped=reasons["repeat"] / num_answers if num_answers else None,
        malformed=_share(sum(map(bool, entries)), num_images),
        malformed_entries=dict(sum(entries, Counter[str]()).most_common()),
        failed=_share(int(is_failed.sum()), num_images),
        empty=_share(int((~has_pred & ~is_failed).sum()), int((~is_failed).sum())),
        num_duplicates=num_duplicates,
        duplicates=_share(num_duplicates, len(data.pred)),
        gt_objects=_objects_per_image(data.gt, num_images),
        pred_objects=_objects_per_image(data.pred, num_images),
    )


def _malformed_entries(image: ImageRow) -> Counter[str]:
    """What inference could not read, what it could not use, and what the evaluator cannot use."""
    if not image.broken and not image.invalid_pred and not image.errors:
        return Counter()
    entries = Counter[str](dict(image.broken))
    entries.update(error for error in set(image.errors) if error in _UNUSABLE)
    entries.update(item.reason for item in image.invalid_pred)
    return entries


def _is_failed(image: ImageRow) -> bool:
    return image.finish_reason is None and any(error not in _UNUSABLE and error != "empty_pred" for error in image.errors)


def _objects_per_image(table: ObjectTable, num_images: int) -> ObjectsPerImage:
    if not num_images:
        return ObjectsPerImage(0.0, 0.0, 0.0, 0)
    counts = np.bincount(table.image, minlength=num_images)
    p50, p90 = np.percentile(counts, (50, 90)).tolist()
    return ObjectsPerImage(float(counts.mean()), p50, p90, int(counts.max()))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
