"""Cards of the report's gallery: one image with what was found, missed and invented, for one run or for two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp.evaluation.columns import Bools, ImageRow, ObjectTable
from coordexp.evaluation.result import EvaluationResult
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import embed_picture, open_image

IMAGE_SIDE = 720
"""Longer side of an embedded image; larger ones are scaled down."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One outline with its tag. Positions are percent of the image, so that they hold at every size."""

    side: str
    """`gt` or `pred`."""
    status: str
    """`hit`: matched at IoU 0.50 within its class; `miss`: a ground truth without a match; `false`: a prediction without one."""
    label: str
    detail: str
    """What the tooltip says."""
    points: str
    """SVG polygon points, in pixels of the record."""
    left: float
    top: float
    bottom: float

    @property
    def at_right(self) -> bool:
        """The tag of an object at the right edge grows to the left."""
        return self.left > 70

    @property
    def at_top(self) -> bool:
        """There is no room for a tag above."""
        return self.top < 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One run on one image."""

    name: str
    """Empty when there is only one run."""
    marks: tuple[Mark, ...]
    tp: int
    fp: int
    fn: int

    @property
    def errors(self) -> int:
        return self.fp + self.fn


@dataclass(frozen=True, slots=True)
class Card:
    """One image of the gallery."""

    place: int
    """Position in the file, for sorting."""
    image: ImageRow
    uri: str | None
    """`data:` URI; None when the image cannot be read."""
    panels: tuple[Panel, ...]
    """Before (if any), then the run itself."""
    labels: tuple[str, ...]
    """Distinct names on the card, for the filter."""

    @property
    def last(self) -> Panel:
        return self.panels[-1]

    @property
    def f1(self) -> float:
        total = 2 * self.last.tp + self.last.errors
        return 2 * self.last.tp / total if total else 1.0

    @property
    def gain(self) -> int:
        """Errors fewer than before."""
        return self.panels[0].errors - self.last.errors


def rank_images(result: EvaluationResult, *, limit: int) -> list[int]:
    """Positions of the images, most errors first (ties: lower F1, then file order); `limit` 0: all."""
    errors = np.array([sum(counts.at(0.5)[1:]) for counts in result.det.per_image], dtype=np.int64)
    f1 = np.array([counts.f1(0.5) for counts in result.det.per_image], dtype=np.float64)
    order: list[int] = np.lexsort((f1, -errors)).tolist()
    return order[: limit or None]


def build_cards(runs: Sequence[tuple[str, EvaluationResult]], places: Sequence[int], *, root: Path, progress: Progress | None = None) -> list[Card]:
    """A card for each image position. `runs` are (name, result) on the same images, the run itself last.

    Raises:
        DataError: not one of the images can be read.
    """
    data = runs[-1][1].data
    readers = [_MarkReader(result) for _, result in runs]
    cards: list[Card] = []
    problem: DataError | None = None
    for place in (progress or NoProgress()).track(places, "embed images", total=len(places)):
        image = data.images[place]
        uri = None
        try:
            uri = embed_picture(open_image(root, image), side=IMAGE_SIDE)
        except DataError as error:
            problem = error
        panels = tuple(reader.panel(name, place) for (name, _), reader in zip(runs, readers, strict=True))
        labels = sorted({mark.label for panel in panels for mark in panel.marks})
        cards.append(Card(place, image, uri, panels, tuple(labels)))
    if problem is not None and all(card.uri is None for card in cards):
        raise DataError(f"no image can be read: {problem}", where=str(root), fix="give the folder that image paths count from with --root_image_dir")
    return cards


class _MarkReader:
    """Marks of one run, image by image."""

    def __init__(self, result: EvaluationResult) -> None:
        self._result = result
        num_images = len(result.data.images)
        self._gt_ranges: list[int] = result.data.gt.ranges(num_images).tolist()
        self._pred_ranges: list[int] = result.data.pred.ranges(num_images).tolist()
        self._gt_hit = _marked(len(result.data.gt), result.det.matches.gt.tolist())
        self._pred_hit = _marked(len(result.data.pred), result.det.matches.pred.tolist())
        self._iou = dict(zip(result.det.matches.pred.tolist(), result.det.matches.iou.tolist(), strict=True))

    def panel(self, name: str, place: int) -> Panel:
        tp, fp, fn = self._result.det.per_image[place].at(0.5)
        marks = (*self._side("gt", place), *self._side("pred", place))
        return Panel(name, marks, tp, fp, fn)

    def _side(self, side: str, place: int) -> Iterator[Mark]:
        data, is_gt = self._result.data, side == "gt"
        table, ranges, hits = (data.gt, self._gt_ranges, self._gt_hit) if is_gt else (data.pred, self._pred_ranges, self._pred_hit)
        for row in range(ranges[place], ranges[place + 1]):
            label = data.descs[int(table.desc[row])] or "(no name)"
            status = "hit" if hits[row] else "miss" if is_gt else "false"
            yield _mark(table, row, data.images[place], side=side, status=status, label=label, detail=self._detail(row, label, is_gt=is_gt, status=status))

    def _detail(self, row: int, label: str, *, is_gt: bool, status: str) -> str:
        if is_gt:
            return f"ground truth: {label} ({'found' if status == 'hit' else 'missed'})"
        score = float(self._result.data.pred.scores[row])
        confidence = "" if math.isnan(score) else f", score {score:.2f}"
        return f"prediction: {label}{confidence}" + (f", IoU {self._iou[row]:.2f}" if status == "hit" else ", no match at IoU 0.50")


def _mark(table: ObjectTable, row: int, image: ImageRow, *, side: str, status: str, label: str, detail: str) -> Mark:
    x1, y1, x2, y2 = table.boxes[row].tolist()
    ring = table.polygons.get(row)
    flat = [x1, y1, x2, y1, x2, y2, x1, y2] if ring is None else ring.tolist()
    points = " ".join(f"{x:g},{y:g}" for x, y in zip(flat[0::2], flat[1::2], strict=True))
    left, top, bottom = 100 * x1 / image.width, 100 * y1 / image.height, 100 * y2 / image.height
    return Mark(side, status, label, detail, points, round(left, 2), round(top, 2), round(bottom, 2))


def _marked(count: int, rows: Sequence[int]) -> Bools:
    marks = np.zeros(count, dtype=np.bool_)
    marks[list(rows)] = True
    return marks
