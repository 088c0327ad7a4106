"""What the report's gallery is drawn from: every image with what was found, missed and invented, for one run or for two, as compact JSON.

The page builds only the images that are on the screen, so this is data, not markup. Rows of the JSON, all numbers in pixels of the record:

- image: `[file, width, height, ground truths, [predictions of a run, …], picture]`; picture 0: none, 1: embedded, 2: a file
- ground truth: `[name, flags, coordinates…]`; bit r of the flags: found by run r; bit `MISSED_BIT`: of the error type `missed`
- prediction: `[name, score, state, coordinates…]`; no score is null; state > 0: hit, its IoU in hundredths; state < 0: error type, -1 the first of `ErrorType`

Four coordinates are a box, more are a ring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, ObjectTable
from coordexp.evaluation.error_types import ErrorType
from coordexp.evaluation.result import EvaluationResult
from coordexp.viz.images import frame_size
from coordexp.viz.script_data import script_json
from coordexp.viz.thumbnails import Thumbnails

MISSED_BIT = 4
"""Value in the flags of a ground truth; runs take 1 and 2."""

Row: TypeAlias = list[float | None]

_NO_PICTURE, _EMBEDDED, _FILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Gallery:
    """`data` and `pictures` are JSON that may stand in a script element."""

    num_images: int
    num_embedded: int
    num_filed: int
    unreadable: tuple[str, ...]
    has_scores: bool
    data: str
    pictures: str
    """Row of an image → `data:` URI."""


def rank_images(result: EvaluationResult) -> list[int]:
    """Positions of the images, most errors at IoU 0.50 first (ties: lower F1, then file order)."""
    errors = np.array([sum(counts.at(0.5)[1:]) for counts in result.det.per_image], dtype=np.int64)
    f1 = np.array([counts.f1(0.5) for counts in result.det.per_image], dtype=np.float64)
    order: list[int] = np.lexsort((f1, -errors)).tolist()
    return order


def build_gallery(
    runs: Sequence[tuple[str, EvaluationResult]], thumbnails: Thumbnails, *, folder: str = "", places: Sequence[int] | None = None, with_changes: bool = False
) -> Gallery:
    """`runs` are (name, result) on the same images, the run itself last; `folder` is where the page looks for the files.

    `places`: the images that are shown, in this order; None: all. `with_changes`: cards name the objects that only one of two runs finds.
    """
    last = runs[-1][1]
    names: dict[str, int] = {}
    num_images = len(last.data.images)
    shown = range(num_images) if places is None else places
    gt = _by_image(last.data.gt, _ground_truths([result for _, result in runs], names), num_images)
    preds = [_by_image(result.data.pred, _predictions(result, names), num_images) for _, result in runs]
    images: list[list[object]] = [
        [image.file_name, *frame_size(last.data, place), gt[place], [pred[place] for pred in preds], _picture_state(thumbnails, place)]
        for place, image in ((place, last.data.images[place]) for place in shown)
    ]
    data = {
        "runs": [name for name, _ in runs],
        "names": list(names),
        "types": list(ErrorType),
        "folder": folder,
        "changes": with_changes,
        "images": images,
    }
    return Gallery(
        num_images=len(images),
        num_embedded=len(thumbnails.embedded),
        num_filed=len(thumbnails.filed),
        unreadable=thumbnails.unreadable,
        has_scores=bool(np.isfinite(last.data.pred.scores).any()),
        data=script_json(data),
        pictures=script_json({str(row): thumbnails.embedded[place] for row, place in enumerate(shown) if place in thumbnails.embedded}),
    )


def _ground_truths(results: Sequence[EvaluationResult], names: dict[str, int]) -> list[Row]:
    """The same for all runs, with what each of them found."""
    last = results[-1]
    flags = MISSED_BIT * last.analysis.errors.is_missed.astype(np.int64)
    for number, result in enumerate(results):
        flags[result.det.matches.gt] += 1 << number
    columns = zip(_names(last.data, last.data.gt, names), flags.tolist(), _coordinates(last.data.gt), strict=True)
    return [[name, flag, *points] for name, flag, points in columns]


def _predictions(result: EvaluationResult, names: dict[str, int]) -> list[Row]:
    table, matches = result.data.pred, result.det.matches
    state = -1 - result.analysis.errors.type_of_pred
    state[matches.pred] = np.rint(matches.iou * 100)
    scores = [None if math.isnan(score) else round(score, 3) for score in table.scores.tolist()]
    columns = zip(_names(result.data, table, names), scores, state.tolist(), _coordinates(table), strict=True)
    return [[name, score, code, *points] for name, score, code, points in columns]


def _names(data: EvaluationSet, table: ObjectTable, names: dict[str, int]) -> list[int]:
    """[N] numbers of the objects' texts; `names` numbers the texts of all runs."""
    number_of_desc = [names.setdefault(desc, len(names)) for desc in data.descs]
    return [number_of_desc[desc] for desc in table.desc.tolist()]


def _coordinates(table: ObjectTable) -> list[list[float]]:
    """[N] box or ring of each object: whole numbers as such, others to a tenth of a pixel."""
    shapes: list[list[float]] = table.boxes.tolist()
    for row, ring in table.polygons.items():
        shapes[row] = ring.tolist()
    return [[int(value) if value.is_integer() else round(value, 1) for value in shape] for shape in shapes]


def _by_image(table: ObjectTable, rows: list[Row], num_images: int) -> list[list[Row]]:
    return [rows[first:last] for first, last in pairwise(table.ranges(num_images).tolist())]


def _picture_state(thumbnails: Thumbnails, place: int) -> int:
    return _EMBEDDED if place in thumbnails.embedded else _FILED if place in thumbnails.filed else _NO_PICTURE
