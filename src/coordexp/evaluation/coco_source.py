"""What a COCO file says about a data set beyond class, box and score, as columns. Only sets that were read from COCO files have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Rle: TypeAlias = dict[str, Any]
"""A pixel mask `{"size": [height, width], "counts": …}` with COCO's compressed run lengths."""


@dataclass(frozen=True, slots=True)
class CocoObjects:
    """Annotations, or results, in image order. Crowd regions and what counting ignores are among them."""

    image: npt.NDArray[np.int64]
    """[N] position in `EvaluationSet.images`, non-decreasing."""
    index: npt.NDArray[np.int64]
    """[N] position in the list of the file; of a set from records: row of the `ObjectTable`."""
    ids: npt.NDArray[np.int64]
    """[N] of annotations: in the file, else from 1; of results: from 1."""
    category: npt.NDArray[np.int64]
    """[N] position in `CocoSource.category_ids`, from 1."""
    xywh: npt.NDArray[np.float64]
    """[N, 4] as written."""
    area: npt.NDArray[np.float64]
    """[N] as written; of a result: of its box, or of its mask when it has no box."""
    scores: npt.NDArray[np.float64]
    """[N]; NaN for annotations."""
    is_crowd: npt.NDArray[np.bool_]
    """[N]"""
    is_ignored: npt.NDArray[np.bool_]
    """[N] the key `ignore`. LVIS heeds it; COCO does not."""
    masks: Mapping[int, Rle] = field(default_factory=dict[int, Rle])
    """Row → mask; read only when results have masks."""

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def take(self, rows: npt.NDArray[np.int64]) -> CocoObjects:
        """The rows [M], rising."""
        new_of: dict[int, int] = {row: new for new, row in enumerate(rows.tolist())} if self.masks else {}
        return CocoObjects(
            image=self.image[rows],
            index=self.index[rows],
            ids=self.ids[rows],
            category=self.category[rows],
            xywh=self.xywh[rows],
            area=self.area[rows],
            scores=self.scores[rows],
            is_crowd=self.is_crowd[rows],
            is_ignored=self.is_ignored[rows],
            masks={new_of[row]: mask for row, mask in self.masks.items() if row in new_of},
        )


@dataclass(frozen=True, slots=True)
class Federation:
    """LVIS: an image is annotated for some categories only. Categories are positions from 1, as in `CocoObjects`."""

    negative: tuple[tuple[int, ...], ...]
    """For each image: categories that are verified to be absent."""
    not_exhaustive: tuple[tuple[int, ...], ...]
    """For each image: categories of which not every object is annotated."""
    frequency: tuple[str, ...]
    """For each category: `r` (rare), `c` (common) or `f` (frequent)."""


@dataclass(frozen=True, slots=True)
class CocoSource:
    """Example: `CocoSource(category_ids=(1, 18), gt=…, pred=…, federation=None, counted=array([0, 1, 3]))`"""

    category_ids: tuple[int, ...]
    """As in the file, rising. Their names are `EvaluationSet.descs`, in the same order."""
    gt: CocoObjects
    """Every annotation; `EvaluationSet.gt` holds those that are no crowd and not ignored."""
    pred: CocoObjects
    """Every result."""
    counted: npt.NDArray[np.int64]
    """[P] row in `pred` of each row of `EvaluationSet.pred`: what counting ignores is in no later stage but average precision."""
    federation: Federation | None = None
    """None: every image is annotated for every category."""
