"""95 % intervals of an evaluation: the numbers of many resamples of its images, from matches that were made once."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.evaluation.coco_matches import coco_matches
from coordexp.evaluation.f1_det import object_groups
from coordexp.evaluation.image_counts import DetCountTable, DetStatistic, F1ishStatistic
from coordexp.evaluation.resampling import Intervals, Resampling, Statistic, resample
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.weighted_ap import ApStatistic
from coordexp.types.progress import Progress

FEW_IMAGES = 30
"""Below, percentile intervals are too narrow to be believed."""


def bootstrap_intervals(result: EvaluationResult, resampling: Resampling, *, progress: Progress | None = None) -> Intervals:
    """Intervals of the shares among `result.metrics`: f1_det, precision, recall and mean IoU, f1ish, and AP where scores rank.

    Of AP by constant scores there is no interval: it depends on the order of the file, and an interval would hide that.
    """
    if not result.data.images:
        return Intervals({}, resampling.num_resamples, resampling.seed, {})
    statistics: list[Statistic] = [det_statistic(result), *ap_statistics(result, progress=progress)]
    if result.f1ish is not None:
        statistics.append(F1ishStatistic(result.f1ish))
    values = {key: column for found in resample(statistics, resampling, progress=progress) for key, column in found.items()}
    return Intervals.from_values({key: values[key] for key in result.metrics if key in values}, resampling)


def det_statistic(result: EvaluationResult) -> DetStatistic:
    """f1_det over all objects."""
    groups = object_groups(result.data, result.labels, result.det.matches)
    return DetStatistic(DetCountTable.of(result.data, result.det.matches, groups["total"]))


def ap_statistics(result: EvaluationResult, *, progress: Progress | None = None) -> Sequence[ApStatistic]:
    """One for each IoU type whose AP is among the metrics; none when scores are constant, or without images or categories."""
    if result.scores.mode == "constant" or not result.labels.categories or not result.data.images:
        return ()
    types = [iou_type for iou_type in ("bbox", "segm") if f"{iou_type}_AP" in result.metrics]
    parts = (result.data, result.labels, result.scores.scores)
    return [ApStatistic(coco_matches(*parts, iou_type=kind, iou_thrs=result.protocol.iou_thrs, progress=progress)) for kind in types]
