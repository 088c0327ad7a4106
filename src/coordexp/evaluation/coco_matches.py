"""What became of each detection in the COCO matching: kept once, so that average precision of any resample of images needs no new matching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coordexp.evaluation.coco import AREA_LABELS, build_evaluator
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.types.progress import NoProgress, Progress

_ENTRIES_AT_ONCE = 20_000
"""(image, category, area) entries that the library hands out at once, some 8 kB each."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Detections of one category and one range of areas, by falling score (ties in file order). At most 100 of an image, as in COCO."""

    image: Ints
    """[D] position of the image."""
    is_hit: Bools
    """[T, D] matched to a ground truth that counts."""
    is_counted: Bools
    """[T, D] hit or false; the others are ignored, as COCO ignores what lies outside the range of areas."""
    gt_image: Ints
    """[N] position of the image of each ground truth that counts."""


@dataclass(frozen=True, slots=True)
class CocoMatches:
    """Example: `matches.rankings["small"][0]` are the detections of the first category that take part in APs."""

    iou_type: str
    """`bbox` or `segm`: the prefix of the metric keys."""
    iou_thrs: tuple[float, ...]
    rankings: Mapping[str, tuple[Ranking, ...]]
    """By `AREA_LABELS`, then by category."""


def coco_matches(
    data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_type: str, iou_thrs: Sequence[float] | None = None, progress: Progress | None = None
) -> CocoMatches:
    """Match as `coco_numbers` does, and keep the matches. About 60 microseconds for each image, category and range of areas with an object."""
    num_categories = len(labels.categories)
    rankings: dict[str, list[Ranking]] = {name: [] for name in AREA_LABELS}
    if not num_categories:
        return CocoMatches(iou_type, tuple(iou_thrs or ()), dict.fromkeys(AREA_LABELS, ()))
    evaluator = build_evaluator(data, labels, scores, iou_type=iou_type, iou_thrs=iou_thrs)
    ranges = [tuple(bounds) for bounds in evaluator.params.area_rng]
    thresholds = tuple(evaluator.params.iou_thrs)
    place_of_id = {image.image_id: place for place, image in enumerate(data.images)}
    for chunk in (progress or NoProgress()).track(list(_portions(data, labels)), f"{iou_type} matches"):
        evaluator.params.cat_ids = chunk
        evaluator.evaluate()
        entries: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for entry in evaluator.eval_imgs:
            if entry is not None:
                entries.setdefault((entry["category_id"], ranges.index(tuple(entry["aRng"]))), []).append(entry)
        for category in chunk:
            for place, name in enumerate(AREA_LABELS):
                rankings[name].append(_rank(entries.get((category, place), []), place_of_id, len(thresholds)))
    return CocoMatches(iou_type, thresholds, {name: tuple(values) for name, values in rankings.items()})


def _portions(data: EvaluationSet, labels: LabelPlan) -> Iterator[list[int]]:
    """Category ids in portions of bounded memory."""
    num_images = max(1, len(data.images))
    keys = np.concatenate([labels.gt_category * num_images + data.gt.image, labels.pred_category * num_images + data.pred.image])
    counts = np.bincount(np.unique(keys) // num_images, minlength=len(labels.categories) + 1) * len(AREA_LABELS)
    portion: list[int] = []
    total = 0
    for category in range(1, len(labels.categories) + 1):
        if portion and total + counts[category] > _ENTRIES_AT_ONCE:
            yield portion
            portion, total = [], 0
        portion.append(category)
        total += int(counts[category])
    yield portion


def _rank(entries: Sequence[dict[str, Any]], place_of_id: Mapping[int, int], num_thresholds: int) -> Ranking:
    """Joins the images of one category and range; those that are never counted are left out."""
    images = [place_of_id[entry["image_id"]] for entry in entries]
    image = np.repeat(np.array(images, dtype=np.int64), [len(entry["dtScores"]) for entry in entries])
    scores = np.concatenate([np.asarray(entry["dtScores"], dtype=np.float64) for entry in entries]) if entries else np.empty(0)
    is_matched, is_ignored = (_joined([entry[name] for entry in entries], num_thresholds) for name in ("dtMatched", "dtIgnore"))
    num_gt = [int(np.count_nonzero(entry["gtInDenominator"])) for entry in entries]
    order = np.argsort(-scores, kind="stable")
    order = order[(~is_ignored[:, order]).any(axis=0)]
    return Ranking(
        image=image[order],
        is_hit=(is_matched & ~is_ignored)[:, order],
        is_counted=~is_ignored[:, order],
        gt_image=np.repeat(np.array(images, dtype=np.int64), num_gt),
    )


def _joined(parts: Sequence[Sequence[Sequence[bool]]], num_thresholds: int) -> npt.NDArray[np.bool_]:
    """[T, sum of D] of parts [T, D]."""
    arrays = [np.asarray(part, dtype=np.bool_).reshape(num_thresholds, -1) for part in parts]
    return np.concatenate(arrays, axis=1) if arrays else np.zeros((num_thresholds, 0), dtype=np.bool_)
