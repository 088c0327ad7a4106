"""Boxes in other numbers than their file says: 0..1, pixels taken for bins, bins taken for pixels, scaled twice, of another image size, x and y swapped.

One thing is at work in all of them: coordinates that reach too far, or never far enough. "Never far enough" is only believed when objects of so many images
would hardly stay away from the right and the lower edge by chance, and do come to the left and the upper one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordexp.data.diagnosis.findings import MAX_PLACES, Check, Finding, Place, Severity, first_places
from coordexp.data.diagnosis.survey import BoolArray, Boxes, FloatArray, Survey
from coordexp.geometry.bins import MAX_BIN

_FEW = 3
"""Fewer boxes prove nothing, unless they are half of all."""
_TOLERANCE = 0.005
"""Share of an image beyond its border that is put down to rounding (COCO's x+w = W)."""
_MIN_SHARE = 0.01
_OTHER_SCALE = 1.06
"""Boxes that leave their image by less were drawn carelessly, or with some room."""
_CHANCE = 1e-5
"""Probability below which "never beyond this line" is no accident."""
_CONTRARY = 0.005
"""Share of boxes that may contradict a pattern."""


def check_ranges(survey: Survey) -> list[Finding]:
    """The first pattern that explains the numbers; none on sound data."""
    boxes = survey.boxes
    checks: tuple[Callable[[Survey, Boxes], Finding | None], ...] = (
        _check_unit_range,
        _check_absolute_in_norm1000,
        _check_swapped_range,
        _check_beyond_border,
        _check_last_bin,
        _check_bins_scaled_down,
        _check_confined,
    )
    found = next((finding for check in checks if len(boxes) and (finding := check(survey, boxes)) is not None), None)
    return [] if found is None else [found]


def places_of(survey: Survey, mask: BoolArray) -> tuple[Place, ...]:
    """One box of each of the first records with a box in the mask, with its numbers."""
    boxes, rows = survey.boxes, np.flatnonzero(mask)
    _, first = np.unique(boxes.record[rows], return_index=True)

    def describe(row: int) -> Place:
        values = ", ".join(f"{value:g}" for value in boxes.values[row].tolist())
        note = f"{survey.labels[int(boxes.label[row])]!r} [{values}] in {boxes.width[row]:.0f}x{boxes.height[row]:.0f}"
        return Place(survey.line(row), int(boxes.index[row]), note)

    return first_places(describe(int(row)) for row in rows[first[:MAX_PLACES]])


def share(mask: BoolArray) -> str:
    """Example: `31 of 40 boxes (78 %)`"""
    return f"{int(mask.sum())} of {len(mask)} boxes ({100 * mask.mean():.0f} %)"


def is_enough(mask: BoolArray, *, among: int | None = None, min_share: float = _MIN_SHARE) -> bool:
    """Whether the boxes of a mask are many enough to be a pattern."""
    num, total = int(mask.sum()), len(mask) if among is None else among
    return num > 0 and num >= min_share * total and (num >= _FEW or 2 * num >= total)


def _check_unit_range(survey: Survey, boxes: Boxes) -> Finding | None:
    """0..1, as pixels, or rounded to bins 0 and 1, or normalized once more: everything lies in the first pixel."""
    spans = np.maximum(1, np.stack([boxes.width, boxes.height], axis=1) - 1)
    far = boxes.values[:, 2:]
    is_fraction = (boxes.values != np.round(boxes.values)).any(axis=1)
    in_pixels = ~boxes.is_bins & (far <= 1.0).all(axis=1) & (boxes.values >= 0).all(axis=1) & is_fraction
    half_bin = 0.5 * spans / MAX_BIN
    in_bins = boxes.is_bins & ((far <= 1).all(axis=1) | (far / MAX_BIN * spans <= 1 + half_bin).all(axis=1))
    mask = (in_pixels | in_bins) & (np.minimum(boxes.width, boxes.height) >= 16)
    if not is_enough(mask):
        return None
    largest = float(boxes.values[mask].max())
    what = f"{share(mask)} lie in the first pixel of their image, no value is above {largest:g}: they look like coordinates in 0..1"
    fix = "multiply x by width - 1 and y by height - 1, write coord_space pixel, and convert with 'coordexp data coord'"
    return Finding(Check.UNIT_RANGE, Severity.ERROR, what, fix, places_of(survey, mask))


def _check_absolute_in_norm1000(survey: Survey, boxes: Boxes) -> Finding | None:
    mask = boxes.is_bins
    fix = "write coord_space pixel into the file (or give --coord-space pixel) and convert with 'coordexp data coord'"
    over = mask & (boxes.values > MAX_BIN).any(axis=1)
    fits = (boxes.values[:, 2] <= boxes.width + 1) & (boxes.values[:, 3] <= boxes.height + 1)
    if is_enough(over & fits, among=int(mask.sum())):
        what = f"{int((over & fits).sum())} of {int(mask.sum())} boxes have values above {MAX_BIN} that fit their image: they look like pixels"
        return Finding(Check.ABSOLUTE_IN_NORM1000, Severity.ERROR, what, fix, places_of(survey, over & fits))
    limits = np.stack([boxes.width, boxes.height], axis=1) / MAX_BIN
    chance = _confined_chance(boxes, mask, limits)
    if chance is None:
        return None
    what = (
        f"no box of {int(mask.sum())} reaches beyond the pixels of its image, although bins go to {MAX_BIN} in images of"
        f" {_sizes(boxes, mask)} (by chance: {chance:.0e}): the bins look like pixels"
    )
    return Finding(Check.ABSOLUTE_IN_NORM1000, Severity.ERROR, what, fix, places_of(survey, mask))


def _check_swapped_range(survey: Survey, boxes: Boxes) -> Finding | None:
    """Pixels of an image that is not square: y beyond its height, and all is well when x and y change places."""
    tall = np.abs(boxes.width - boxes.height) > 2
    mask = boxes.is_pixel & tall & _is_beyond(boxes.values, boxes)
    swapped = boxes.values[:, [1, 0, 3, 2]]
    still = mask & _is_beyond(swapped, boxes)
    others = boxes.is_pixel & tall & ~mask & _is_beyond(swapped, boxes)
    if not is_enough(mask, among=int((boxes.is_pixel & tall).sum())) or still.sum() > 0.05 * mask.sum() or others.sum() > 0.05 * mask.sum():
        return None
    what = f"{share(mask)} reach beyond the border of their image, and {int((mask & ~still).sum())} of these lie inside when x and y change places"
    return Finding(Check.SWAPPED_AXES, Severity.ERROR, what, "write boxes as [x1, y1, x2, y2], not [y1, x1, y2, x2]", places_of(survey, mask))


def _check_beyond_border(survey: Survey, boxes: Boxes) -> Finding | None:
    mask = boxes.is_pixel & _is_beyond(boxes.values, boxes)
    if not is_enough(mask, among=int(boxes.is_pixel.sum())):
        return None
    pixels = boxes.take(boxes.is_pixel)
    whole = bool((pixels.values == np.round(pixels.values)).all()) and float(pixels.values.max()) <= MAX_BIN
    reach = pixels.values[:, 2:].max(axis=0)
    if whole and reach.min() >= 0.8 * MAX_BIN:
        what = (
            f"{share(mask)} reach beyond the border of their image; x goes to {reach[0]:.0f} and y to {reach[1]:.0f} in images of"
            f" {_sizes(boxes, boxes.is_pixel)}, no value is above {MAX_BIN}: the pixels look like bins"
        )
        fix = "write coord_space norm1000 into the file (or give --coord-space norm1000)"
        return Finding(Check.NORM1000_IN_PIXEL, Severity.ERROR, what, fix, places_of(survey, mask))
    beyond = boxes.take(mask)
    factors = (beyond.values[:, 2:] / np.stack([beyond.width, beyond.height], axis=1)).max(axis=1)
    factor = float(factors.max())
    if factor < _OTHER_SCALE or np.median(factors) < 1 + (_OTHER_SCALE - 1) / 3:
        return None
    what = f"{share(mask)} reach beyond the border of their image, up to {factor:.2f} times its side: they belong to a larger picture"
    fix = "import the annotations with the images that they were drawn on, and resize both together with 'coordexp data rescale'"
    return Finding(Check.OTHER_SIZE, Severity.ERROR, what, fix, places_of(survey, mask))


def _check_last_bin(survey: Survey, boxes: Boxes) -> Finding | None:
    """Multiplied twice in images below 1000 pixels: what would lie beyond the border is clamped to it."""
    mask = boxes.is_bins & (boxes.values[:, :2] >= MAX_BIN - 1).any(axis=1)
    if not is_enough(mask, among=int(boxes.is_bins.sum()), min_share=2 * _MIN_SHARE):
        return None
    what = f"{share(mask)} are squeezed into the last bin at the right or lower edge: the coordinates were normalized twice, or belong to a larger picture"
    fix = "convert again from the original annotations, once ('coordexp data coord' on the pixel file); bins are never converted as pixels"
    return Finding(Check.DOUBLE_NORMALIZED, Severity.ERROR, what, fix, places_of(survey, mask))


def _check_bins_scaled_down(survey: Survey, boxes: Boxes) -> Finding | None:
    """Images above 1000 pixels: bins that were taken for pixels end at 999."""
    limits = MAX_BIN / np.stack([boxes.width, boxes.height], axis=1)
    for mask, check, text, fix in (
        (
            boxes.is_bins,
            Check.DOUBLE_NORMALIZED,
            "the coordinates were normalized twice",
            "convert again from the original annotations, once; bins are never converted as pixels",
        ),
        (
            boxes.is_pixel,
            Check.NORM1000_IN_PIXEL,
            "the pixels look like bins",
            "write coord_space norm1000 into the file (or give --coord-space norm1000)",
        ),
    ):
        chance = _confined_chance(boxes, mask, limits)
        if chance is not None:
            what = f"no box of {int(mask.sum())} reaches beyond pixel {MAX_BIN} in images of {_sizes(boxes, mask)} (by chance: {chance:.0e}): {text}"
            return Finding(check, Severity.ERROR, what, fix, places_of(survey, mask))
    return None


def _check_confined(survey: Survey, boxes: Boxes) -> Finding | None:
    """Boxes of a smaller picture: they end at the same share of every image, in both directions."""
    mask = boxes.is_pixel | boxes.is_bins
    if not mask.any():
        return None
    reach = np.array([_reach(boxes, mask, axis) for axis in (0, 1)])
    if reach.max() > 0.8 or reach.min() < 0.8 * reach.max():
        return None
    limits = np.broadcast_to(reach, (len(boxes), 2))
    chance = _confined_chance(boxes, mask, limits)
    if chance is None:
        return None
    what = (
        f"no box of {int(mask.sum())} comes beyond {100 * reach[0]:.0f} % of the width and {100 * reach[1]:.0f} % of the height of its image, and they do"
        f" come to its left and upper edge (by chance: {chance:.0e}): they may belong to a smaller picture"
    )
    fix = "look at the pictures below; import the annotations with the images that they were drawn on, and resize both together with 'coordexp data rescale'"
    return Finding(Check.OTHER_SIZE, Severity.WARNING, what, fix, places_of(survey, mask))


def _is_beyond(values: FloatArray, boxes: Boxes) -> BoolArray:
    """[n] a side lies outside of the image by more than rounding."""
    limits = np.stack([boxes.width, boxes.height], axis=1) * (1 + _TOLERANCE) + 1
    return np.any(values[:, 2:] > limits, axis=1)


def _reach(boxes: Boxes, mask: BoolArray, axis: int) -> float:
    """How far boxes come, as a share of the image; a few contrary ones do not count."""
    return float(np.quantile(boxes.normalized()[mask][:, 2 + axis], 1 - _CONTRARY / 2))


def _confined_chance(boxes: Boxes, mask: BoolArray, limits: FloatArray) -> float | None:
    """Probability that the objects of all images stay by chance below a limit for x and y, in shares of the image; None when they do not, or when it is
    above `_CHANCE`, or when they keep away from the left or upper edge as well.

    One object ends anywhere with equal probability. Of k objects of an image 1 + ln k count, since they are not independent of each other.
    """
    if not mask.any():
        return None
    ends, begins, limits, record = boxes.normalized()[mask][:, 2:], boxes.normalized()[mask][:, :2], limits[mask], boxes.record[mask]
    if (ends > limits + 0.002).any(axis=1).mean() > _CONTRARY:
        return None
    _, first, num_objects = np.unique(record, return_index=True, return_counts=True)
    chance = float(np.exp((np.log(np.minimum(1, limits[first])).sum(axis=1) * (1 + np.log(num_objects))).sum()))
    if chance > _CHANCE:
        return None
    free = 1 - np.minimum(1, limits).mean(axis=0)
    return chance if (free > 0.02).all() and (begins.min(axis=0) <= 0.25 * free).all() else None


def _sizes(boxes: Boxes, mask: BoolArray) -> str:
    """Example: `640x480`, or `320x240 to 1024x768`"""
    pixels = boxes.width[mask] * boxes.height[mask]
    rows = np.flatnonzero(mask)
    low, high = (f"{boxes.width[row]:.0f}x{boxes.height[row]:.0f}" for row in (rows[pixels.argmin()], rows[pixels.argmax()]))
    return low if low == high else f"{low} to {high}"
