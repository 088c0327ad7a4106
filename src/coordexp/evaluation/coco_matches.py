"""What became of each detection in the COCO matching: kept once, so that average precision of any resample of images needs no new matching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from coordexp.evaluation.coco import AREA_LABELS, build_evaluator, library_ids
from coordexp.evaluation.coco_form import coco_annotations, coco_results
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.types.progress import NoProgress, Progress

_ENTRIES_AT_ONCE = 20_000
"""(image, category, area) entries that the library hands out at once, some 8 kB each."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Detections of one category and one range of areas, by falling score (ties by rising image id). Those beyond the cap of an image are absent."""

    image: Ints
    """[D] position of the image."""
    is_hit: Bools
    """[T, D] matched to a ground truth that counts."""
    is_counted: Bools
    """[T, D] hit or false; the others are ignored: outside the range of areas, in a crowd region, or not annotated."""
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
    frequency: tuple[str, ...] | None = None
    """Of each category, `r`, `c` or `f`, under the rules of LVIS."""


def coco_matches(
    data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_type: str, iou_thrs: Sequence[float] | None = None, progress: Progress | None = None
) -> CocoMatches:
    """Match as `coco_numbers` does, and keep the matches. Some 60 microseconds for each image, category and range of areas with an object.

    There must be a category and an image.
    """
    evaluator = build_evaluator(data, labels, scores, iou_type=iou_type, iou_thrs=iou_thrs)
    thresholds = tuple(evaluator.params.iou_thrs)
    area_of_range = {tuple(bounds): place for place, bounds in enumerate(evaluator.params.area_rng)}
    ids = library_ids(data)
    place_of_id: dict[int, int] = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    portions: list[_Columns] = []
    for part in (progress or NoProgress()).track(list(_portions(data, labels, scores, np.argsort(ids))), f"{iou_type} matches"):
        evaluator.params.img_ids = ids[part].tolist()  # by images and not by categories: LVIS caps the detections of an image over all its categories
        evaluator.evaluate()
        portions.append(_Columns.of([entry for entry in evaluator.eval_imgs if entry is not None], place_of_id, area_of_range, len(thresholds)))
    whole = _Columns.joined(portions)
    rankings = {name: tuple(whole.ranking(place, category) for category in range(1, len(labels.categories) + 1)) for place, name in enumerate(AREA_LABELS)}
    federation = data.coco.federation if data.coco is not None else None
    return CocoMatches(iou_type, thresholds, rankings, federation.frequency if federation is not None else None)


def _portions(data: EvaluationSet, labels: LabelPlan, scores: Floats, order: Ints) -> Iterator[Ints]:
    """Positions of images in `order`, in portions of bounded memory."""
    num_keys = len(labels.categories) + 1
    sides = (coco_annotations(data, labels), coco_results(data, labels, scores))
    keys = np.unique(np.concatenate([side.image * num_keys + side.category for side in sides]))
    entries = np.bincount(keys // num_keys, minlength=len(data.images))[order] * len(AREA_LABELS)
    portion = np.cumsum(entries) // _ENTRIES_AT_ONCE
    yield from np.split(order, np.flatnonzero(np.diff(portion)) + 1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Detections and ground truths of all categories and ranges of areas."""

    group: Ints
    """[D] area · 2³² + category."""
    image: Ints
    score: Floats
    is_hit: Bools
    """[T, D]"""
    is_counted: Bools
    """[T, D]"""
    gt_group: Ints
    """[N]"""
    gt_image: Ints

    @classmethod
    def of(
        cls, entries: Sequence[dict[str, Any]], place_of_id: Mapping[int, int], area_of_range: Mapping[tuple[float, ...], int], num_thresholds: int
    ) -> _Columns:
        """Detections that no threshold counts are left out."""
        group = np.array([_key(area_of_range[tuple(entry["aRng"])], entry["category_id"]) for entry in entries], dtype=np.int64)
        image = np.array([place_of_id[entry["image_id"]] for entry in entries], dtype=np.int64)
        num_pred = [len(entry["dtScores"]) for entry in entries]
        num_gt = [sum(entry["gtInDenominator"]) for entry in entries]
        matched, ignored = (
            np.array([list(chain.from_iterable(entry[name][level] for entry in entries)) for level in range(num_thresholds)], dtype=np.bool_)
            for name in ("dtMatched", "dtIgnore")
        )
        keep = ~ignored.all(axis=0)
        return cls(
            np.repeat(group, num_pred)[keep],
            np.repeat(image, num_pred)[keep],
            np.fromiter(chain.from_iterable(entry["dtScores"] for entry in entries), dtype=np.float64)[keep],
            (matched & ~ignored)[:, keep],
            ~ignored[:, keep],
            np.repeat(group, num_gt),
            np.repeat(image, num_gt),
        )

    @classmethod
    def joined(cls, parts: Sequence[_Columns]) -> _Columns:
        """All parts, sorted by group and falling score, so that a ranking is a slice."""
        group, image, score, gt_group, gt_image = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("group", "image", "score", "gt_group", "gt_image")
        )
        is_hit, is_counted = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("is_hit", "is_counted"))
        order = np.lexsort((-score, group))
        gt_order = np.argsort(gt_group, kind="stable")
        return cls(group[order], image[order], score[order], is_hit[:, order], is_counted[:, order], gt_group[gt_order], gt_image[gt_order])

    def ranking(self, area: int, category: int) -> Ranking:
        ends = (_key(area, category), _key(area, category + 1))
        span = slice(*np.searchsorted(self.group, ends).tolist())
        gt_span = slice(*np.searchsorted(self.gt_group, ends).tolist())
        return Ranking(self.image[span], self.is_hit[:, span], self.is_counted[:, span], self.gt_image[gt_span])


def _key(area: int, category: int) -> int:
    return (area << 32) + category
