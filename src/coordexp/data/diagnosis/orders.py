"""Four numbers that are no corners: x, y, width, height; and the same four numbers for every object."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordexp.data.diagnosis.findings import Check, Finding, Severity
from coordexp.data.diagnosis.ranges import is_enough, places_of, share
from coordexp.data.diagnosis.survey import BoolArray, Boxes, Survey

_VOTES = 12
_CONTRARY = 0.005
_UNDECIDED = 0.04
"""Boxes whose middle is so close to that of the image have no vote: x1 + x2 is about the width in either reading."""
_EQUAL_SHARE, _FEW_EQUAL = 0.5, 4
_XYWH_FIX = "write corners: x2 = x + width, y2 = y + height ('coordexp data import' does so for the formats that it knows)"


def check_xywh_disorder(survey: Survey) -> list[Finding]:
    """Corners in the wrong order that are a fitting width and height, with all other boxes of their images."""
    boxes = survey.boxes
    known, fits, wrong = _readings(boxes)
    known &= np.isin(boxes.record, boxes.record[wrong])
    if not is_enough(wrong, min_share=0.0) or (known & ~fits).sum() > _CONTRARY * known.sum():
        return []
    what = f"{share(wrong)} end before they begin, and {_reading(known, fits)}"
    return [Finding(Check.XYWH, Severity.ERROR, what, _XYWH_FIX, places_of(survey, wrong))]


def check_xywh_sums(survey: Survey) -> list[Finding]:
    """All corners in order, as after sorting them, and yet the sums of both sides never leave the image: of true corners half would."""
    boxes = survey.boxes
    known, fits, _ = _readings(boxes)
    middles = boxes.normalized()[:, :2] + boxes.normalized()[:, 2:] - 1
    votes = [known & (np.abs(middles[:, axis]) > _UNDECIDED) for axis in (0, 1)]
    if min(int(vote.sum()) for vote in votes) < _VOTES or (known & ~fits).sum() > _CONTRARY * known.sum():
        return []
    # objects that only ever lie in the upper left quarter would look the same, but not come near the whole width and height
    reach = np.quantile(middles[known] + 1, 0.95, axis=0)
    if reach.min() < 0.75 or len(np.unique(boxes.record[known])) < _FEW_EQUAL:
        return []
    what = f"{_reading(known, fits)}; of corners half the sums would leave it"
    return [Finding(Check.XYWH, Severity.WARNING, what, _XYWH_FIX, places_of(survey, known))]


def check_equal_boxes(survey: Survey) -> list[Finding]:
    """One box for most objects of the file, or one for all objects of an image, image after image."""
    return [*_equal_in_file(survey), *_equal_in_images(survey)][:1]


def _readings(boxes: Boxes) -> tuple[BoolArray, BoolArray, BoolArray]:
    """(boxes whose space is known, those that fit their image as x, y, width, height, those whose corners are out of order)."""
    known = boxes.is_box & (boxes.is_pixel | boxes.is_bins)
    ends = boxes.normalized()[:, :2] + boxes.normalized()[:, 2:]
    fits: BoolArray = np.all(ends <= 1.012, axis=1)
    wrong: BoolArray = known & np.any(boxes.values[:, :2] > boxes.values[:, 2:], axis=1)
    return known, fits, wrong


def _reading(known: BoolArray, fits: BoolArray) -> str:
    return f"x1+x2 and y1+y2 stay inside the image for {int((known & fits).sum())} of {int(known.sum())}: they look like x, y, width, height"


def _equal_in_file(survey: Survey) -> Iterator[Finding]:
    boxes = survey.boxes
    if len(boxes) < _FEW_EQUAL:
        return
    rounded = np.round(boxes.normalized(), 3)
    _, kind, counts = np.unique(rounded, axis=0, return_inverse=True, return_counts=True)
    commonest = int(counts.argmax())
    num_images = len(np.unique(boxes.record[kind.ravel() == commonest]))
    if counts[commonest] >= max(_FEW_EQUAL, _EQUAL_SHARE * len(boxes)):
        mask = kind.ravel() == commonest
        # boxes around whole pictures are odd, and may be meant
        is_whole = bool(np.allclose(boxes.normalized()[mask][0], (0, 0, 1, 1), atol=0.02))
        severity = Severity.ERROR if mask.mean() > 0.9 and not is_whole else Severity.WARNING
        what = f"{share(mask)} in {num_images} images are one and the same{' and cover the whole image' if is_whole else ''}"
        yield Finding(Check.EQUAL_BOXES, severity, what, "check how boxes were joined to images: the same row was taken for all", places_of(survey, mask))


def _equal_in_images(survey: Survey) -> Iterator[Finding]:
    boxes = survey.boxes
    order = np.lexsort((boxes.index, boxes.record))
    values, record = boxes.values[order], boxes.record[order]
    starts = np.flatnonzero(np.r_[True, record[1:] != record[:-1]]) if len(record) else np.zeros(0, dtype=np.int64)
    if not len(starts):
        return
    lengths = np.diff(np.r_[starts, len(record)])
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    crowded = lengths >= 3
    equal = crowded & (low == high).all(axis=1)
    if equal.sum() >= max(1, 0.1 * crowded.sum()):
        mask = np.zeros(len(boxes), dtype=bool)
        mask[order] = np.repeat(equal, lengths)
        what = f"in {int(equal.sum())} of {int(crowded.sum())} images with three or more objects all boxes are the same"
        yield Finding(Check.EQUAL_BOXES, Severity.ERROR, what, "check how boxes were joined to labels: one box was taken for all", places_of(survey, mask))
