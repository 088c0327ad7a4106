"""Do boxes lie on what is in the picture? Sides of an object show as edges: along the sides of a true box brightness changes more than along other lines.

For a sample of images every box is compared with what it would be under another reading (axes swapped, turned, mirrored, as large elsewhere). A single box
proves nothing; many that agree do. In pictures without edges nothing agrees, and nothing is said.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from coordexp.data.diagnosis.findings import Check, Finding, Severity
from coordexp.data.diagnosis.ranges import places_of
from coordexp.data.diagnosis.survey import FloatArray, Survey, SurveyRecord
from coordexp.data.images import load_image
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress

_NUM_IMAGES, _SIDE = 48, 320
_BOXES_AN_IMAGE = 12
_SLACK = 2
"""Pixels by which a side may miss its edge."""
_CHANCE, _WIN_RATE, _FIT_RATE = 1e-4, 0.6, 0.75
_SAME = 0.6
"""IoU above which two readings are the same box."""

Reading = Callable[[FloatArray], FloatArray]
"""[n, 4] normalized corners → the same boxes read in another way."""

READINGS: Mapping[str, Reading] = {
    "with x and y swapped": lambda b: b[:, [1, 0, 3, 2]],
    "turned by 90 degrees": lambda b: np.stack([1 - b[:, 3], b[:, 0], 1 - b[:, 1], b[:, 2]], axis=1),
    "turned by 180 degrees": lambda b: 1 - b[:, [2, 3, 0, 1]],
    "turned by 270 degrees": lambda b: np.stack([b[:, 1], 1 - b[:, 2], b[:, 3], 1 - b[:, 0]], axis=1),
    "mirrored left to right": lambda b: np.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], axis=1),
    "mirrored top to bottom": lambda b: np.stack([b[:, 0], 1 - b[:, 3], b[:, 2], 1 - b[:, 1]], axis=1),
}


@dataclass(slots=True)
class _Tally:
    wins: int = 0
    total: int = 0

    @property
    def rate(self) -> float:
        return self.wins / self.total if self.total else 0.0

    @property
    def chance(self) -> float:
        """Probability of so many wins or more when both readings are equally good (normal approximation with continuity correction; exact below 200)."""
        if self.total <= 200:
            return sum(math.comb(self.total, k) for k in range(self.wins, self.total + 1)) / 2**self.total
        return 0.5 * math.erfc((self.wins - 0.5 - self.total / 2) / math.sqrt(self.total / 2))


@dataclass(slots=True)
class Alignment:
    """How boxes compare with other readings of themselves."""

    num_images: int
    elsewhere: _Tally
    """Boxes that fit their picture better than as many of the same size elsewhere in it."""
    readings: dict[str, _Tally]
    """Boxes that another reading fits better."""

    @property
    def fits(self) -> bool:
        """The boxes lie on what is in the pictures."""
        return self.elsewhere.rate >= _FIT_RATE and self.elsewhere.chance <= _CHANCE

    def better_reading(self) -> tuple[str, _Tally] | None:
        """The reading that fits clearly better than the boxes as they are."""
        name, tally = max(self.readings.items(), key=lambda item: (item[1].rate, item[1].total))
        return (name, tally) if tally.total and tally.rate >= _WIN_RATE and tally.chance <= _CHANCE else None


def measure_alignment(survey: Survey, *, seed: int = 0, progress: Progress | None = None) -> Alignment:
    """Compare the boxes of a sample of images with other readings of themselves."""
    found = Alignment(0, _Tally(), {name: _Tally() for name in READINGS})
    generator = random.Random(seed)
    candidates = [record for record in survey.records if record.is_valid and record.end > record.first]
    chosen = generator.sample(candidates, min(_NUM_IMAGES, len(candidates)))
    for record in (progress or NoProgress()).track(chosen, "look at pictures", total=len(chosen)):
        try:
            picture = load_image(resolve_image(survey.path.parent, record.image))
        except DataError:  # said by another finding
            continue
        found.num_images += 1
        _compare(found, _Edges(picture), _boxes_of(survey, record, generator), generator)
    return found


def check_alignment(survey: Survey, alignment: Alignment) -> list[Finding]:
    """A reading that fits the pictures better than the boxes as they are."""
    better = alignment.better_reading()
    if better is None:
        return []
    name, tally = better
    is_swap = name == "with x and y swapped"
    what = f"{name} {tally.wins} of {tally.total} boxes lie better on the edges of their pictures than as they are ({alignment.num_images} pictures looked at)"
    fix = "write boxes as [x1, y1, x2, y2]" if is_swap else "check EXIF rotation and augmentation: boxes must belong to the upright image"
    check = Check.SWAPPED_AXES if is_swap else Check.TURNED
    return [Finding(check, Severity.ERROR, what, fix, places_of(survey, np.ones(len(survey.boxes), dtype=bool)))]


def _boxes_of(survey: Survey, record: SurveyRecord, generator: random.Random) -> FloatArray:
    rows = generator.sample(range(record.first, record.end), min(_BOXES_AN_IMAGE, record.end - record.first))
    return np.clip(survey.boxes.normalized_rows(np.array(sorted(rows))), 0, 1)


def _compare(found: Alignment, edges: _Edges, boxes: FloatArray, generator: random.Random) -> None:
    # a pixel-sized box has no sides, and the frame of the picture none that show
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 0.02).all(axis=1) & ((boxes[:, 2:] - boxes[:, :2]).max(axis=1) < 0.95)]
    if not len(boxes):
        return
    own = edges.score(boxes)
    moved = _moved(boxes, generator)
    is_other = _overlap(boxes, moved) < _SAME
    found.elsewhere.wins += int((own > edges.score(moved))[is_other].sum())
    found.elsewhere.total += int(is_other.sum())
    for name, read in READINGS.items():
        other = read(boxes)
        is_other = _overlap(boxes, other) < _SAME
        found.readings[name].wins += int((edges.score(other) > own)[is_other].sum())
        found.readings[name].total += int(is_other.sum())


def _moved(boxes: FloatArray, generator: random.Random) -> FloatArray:
    sides = boxes[:, 2:] - boxes[:, :2]
    corners = np.array([[generator.random() for _ in range(2)] for _ in boxes]) * (1 - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def _overlap(a: FloatArray, b: FloatArray) -> FloatArray:
    """[n] IoU, row by row."""
    common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    return common / np.maximum((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common, 1e-12)


class _Edges:
    """Changes of brightness of a picture, summed so that the mean along any line takes no loop."""

    def __init__(self, picture: Image.Image) -> None:
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        values = np.asarray(small, dtype=np.float64)
        across, down = np.abs(np.diff(values, axis=1)).max(axis=2), np.abs(np.diff(values, axis=0)).max(axis=2)
        # relative to what is usual in this picture, and a few strong pixels must not decide
        self._across = _summed(np.minimum(across / (across.mean() + 1.0), 4.0), axis=0)
        self._down = _summed(np.minimum(down / (down.mean() + 1.0), 4.0), axis=1)
        self._width, self._height = small.size

    def score(self, boxes: FloatArray) -> FloatArray:
        """[n] mean change of brightness over the four sides, of each the strongest line nearby."""
        spans = np.array([self._width, self._height, self._width, self._height], dtype=np.float64) - 1
        x1, y1, x2, y2 = np.round(np.clip(boxes, 0, 1) * spans).astype(np.int64).T
        left, right = (self._line(self._across, x, y1, y2) for x in (x1, x2))
        top, bottom = (self._line(self._down.T, y, x1, x2) for y in (y1, y2))
        return (left + right + top + bottom) / 4

    @staticmethod
    def _line(summed: FloatArray, place: np.ndarray, start: np.ndarray, end: np.ndarray) -> FloatArray:
        """Strongest mean along `start` to `end` of the lines around `place`; lines are columns of `summed`."""
        length = np.maximum(end - start, 1)
        end = np.minimum(start + length, summed.shape[0] - 1)
        start = np.minimum(start, end - 1)
        lines = np.clip(place[:, None] + np.arange(-_SLACK, _SLACK), 0, summed.shape[1] - 1)
        means = (summed[end[:, None], lines] - summed[start[:, None], lines]) / (end - start)[:, None]
        return means.max(axis=1)


def _summed(values: FloatArray, *, axis: int) -> FloatArray:
    padded = np.cumsum(values, axis=axis)
    return np.concatenate([np.zeros_like(padded.take([0], axis=axis)), padded], axis=axis)
