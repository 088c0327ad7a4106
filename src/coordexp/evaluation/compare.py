"""Two runs on the same images: what changed, by how much, and whether chance alone would do it.

The bootstrap is paired: a resample draws the same images for both runs, so what makes an image hard for both cancels out of the difference.
Example: `compare(before, after).metrics["f1_det@0.50"]` is `Change(a=0.41, b=0.47, low=0.02, high=0.10, share_above=0.998)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.bootstrap import FEW_IMAGES, ap_statistics, det_statistic
from coordexp.evaluation.coco import UNDEFINED
from coordexp.evaluation.columns import Bools, Floats, Ints
from coordexp.evaluation.comparable import check_same_data, rule_differences
from coordexp.evaluation.f1_det import DetCounts
from coordexp.evaluation.resampling import DEFAULT_SEED, Resampling, Statistic, percentile_interval, resample
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.run_groups import GroupStatistic, RunGroup, run_groups
from coordexp.types.progress import Progress


@dataclass(frozen=True, slots=True)
class Change:
    """How a number changed from run A to run B."""

    a: float
    b: float
    low: float | None = None
    """Ends of the 95 % interval of b - a; None without resamples, or where no resample defines it."""
    high: float | None = None
    share_above: float | None = None
    """Share of the resamples in which B is above A; equal numbers do not count for it."""

    @property
    def delta(self) -> float:
        return self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class GroupChange:
    """One class, size or number of objects. Only groups with ground truth: without, F1 says nothing."""

    name: str
    counts_a: DetCounts
    counts_b: DetCounts
    f1: Change
    """F1 at IoU 0.50."""
    f1_miou: Change


@dataclass(frozen=True, slots=True)
class ImageChange:
    """Ground truths of one image that are found in one run and missed in the other, at IoU 0.50 within their class."""

    place: int
    """Position of the image."""
    gained: tuple[int, ...]
    """Rows of the ground-truth table that only B finds."""
    lost: tuple[int, ...]
    """Rows that only A finds."""
    false_a: int
    """Predictions without a match."""
    false_b: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A, run B, and the differences B - A."""

    a: EvaluationResult
    b: EvaluationResult
    names: tuple[str, str]
    rule_differences: tuple[str, ...]
    """Not empty: the numbers were made under different rules and are not comparable."""
    metrics: Mapping[str, Change]
    by_class: tuple[GroupChange, ...]
    """By falling change of F1 at 0.50."""
    by_size: tuple[GroupChange, ...]
    by_num_objects: tuple[GroupChange, ...]
    """By ground truths in the image."""
    images: tuple[ImageChange, ...]
    """Those that changed, most gained and lost objects first."""
    num_resamples: int
    seed: int
    warnings: tuple[str, ...] = ()
    """What a reader must know before believing an interval; those of the two evaluations are in their results."""

    @property
    def is_comparable(self) -> bool:
        return not self.rule_differences

    @property
    def num_clear_classes(self) -> int:
        return sum(row.f1.is_clear for row in self.by_class)


def compare(
    a: EvaluationResult,
    b: EvaluationResult,
    *,
    num_resamples: int = 1000,
    seed: int = DEFAULT_SEED,
    names: tuple[str, str] = ("A", "B"),
    progress: Progress | None = None,
) -> Comparison:
    """Compare two evaluations of the same images. `num_resamples` 0: differences without intervals.

    AP has an interval where both runs have scores that rank.

    Raises:
        DataError: they hold different images or ground truth.
    """
    check_same_data(a, b, names=names)
    resampling = Resampling(len(a.data.images), num_resamples if a.data.images else 0, seed)
    groups_a, groups_b = run_groups(a), run_groups(b)
    drawn_a, drawn_b = _draw([(a, groups_a), (b, groups_b)], resampling, progress) if resampling.num_resamples else ({}, {})

    def change(key: str, value_a: float, value_b: float) -> Change:
        return _change(value_a, value_b, drawn_a.get(key), drawn_b.get(key))

    def changes_by(family: str) -> tuple[GroupChange, ...]:
        pairs = [(mine, groups_b[key]) for key, mine in groups_a.items() if mine.family == family and key in groups_b]
        return tuple(
            GroupChange(
                mine.name,
                mine.counts,
                other.counts,
                change(f"{mine.key} f1", mine.counts.f1(0.5), other.counts.f1(0.5)),
                change(f"{mine.key} miou", mine.counts.f1_miou, other.counts.f1_miou),
            )
            for mine, other in pairs
        )

    keys = [key for key in a.metrics if _is_share(key) and UNDEFINED not in (a.metrics[key], b.metrics.get(key, UNDEFINED))]
    return Comparison(
        a=a,
        b=b,
        names=names,
        rule_differences=rule_differences(a, b),
        metrics={key: change(key, a.metrics[key], b.metrics[key]) for key in keys},
        by_class=tuple(sorted(changes_by("class"), key=lambda row: (-row.f1.delta, -row.counts_a.num_gt, row.name))),
        by_size=changes_by("size"),
        by_num_objects=changes_by("num_objects"),
        images=changed_images(a, b),
        num_resamples=resampling.num_resamples,
        seed=seed,
        warnings=_warnings(resampling),
    )


def _warnings(resampling: Resampling) -> tuple[str, ...]:
    if not resampling.num_resamples or resampling.num_images >= FEW_IMAGES:
        return ()
    return (f"intervals from {resampling.num_images} images are too narrow to be believed",)


def _change(a: float, b: float, drawn_a: Floats | None, drawn_b: Floats | None) -> Change:
    if drawn_a is None or drawn_b is None:
        return Change(a, b)
    delta = drawn_b - drawn_a
    interval = percentile_interval(delta)
    if interval is None:
        return Change(a, b)
    return Change(a, b, *interval, share_above=float((delta[~np.isnan(delta)] > 0).mean()))


def _is_share(key: str) -> bool:
    """Whether a metric is a share of objects or an average precision: counts have no interval."""
    is_det = key.startswith("f1_det") and not key.endswith(("_tp", "_fp", "_fn"))
    return is_det or key == "mean_matched_iou" or key.startswith(("bbox_AP", "segm_AP"))


def _draw(runs: Sequence[tuple[EvaluationResult, Mapping[str, RunGroup]]], resampling: Resampling, progress: Progress | None) -> list[dict[str, Floats]]:
    """For each run: key → [R]; the resamples are the same for all."""
    statistics: list[list[Statistic]] = [[det_statistic(result), GroupStatistic(groups), *ap_statistics(result, progress=progress)] for result, groups in runs]
    drawn = iter(resample([item for of_run in statistics for item in of_run], resampling, progress=progress))
    return [{key: values for _ in of_run for key, values in next(drawn).items()} for of_run in statistics]


def changed_images(a: EvaluationResult, b: EvaluationResult) -> tuple[ImageChange, ...]:
    """Most gained and lost objects first; the runs have the same ground truth."""
    found_a, found_b = _found(a), _found(b)
    gained, lost = np.flatnonzero(found_b & ~found_a), np.flatnonzero(found_a & ~found_b)
    image = a.data.gt.image
    num_changes = np.bincount(image[gained], minlength=len(a.data.images)) + np.bincount(image[lost], minlength=len(a.data.images))
    false_a, false_b = _num_false(a), _num_false(b)
    changes: list[ImageChange] = []
    for place in np.argsort(-num_changes, kind="stable").tolist():
        if not num_changes[place]:
            break
        rows = (tuple(part[image[part] == place].tolist()) for part in (gained, lost))
        changes.append(ImageChange(place, *rows, false_a=int(false_a[place]), false_b=int(false_b[place])))
    return tuple(changes)


def _found(result: EvaluationResult) -> Bools:
    """[G]: is the ground truth matched at IoU 0.50?"""
    marks = np.zeros(len(result.data.gt), dtype=np.bool_)
    marks[result.det.matches.gt] = True
    return marks


def _num_false(result: EvaluationResult) -> Ints:
    """[I] predictions without a match at IoU 0.50."""
    images, num_images = result.data.pred.image, len(result.data.images)
    return np.bincount(images, minlength=num_images) - np.bincount(images[result.det.matches.pred], minlength=num_images)
