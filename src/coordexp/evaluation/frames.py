"""Results as pandas tables. pandas is no dependency of the core: it is loaded when a table is asked for."""
# pandas comes without complete types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.evaluation.f1_det import DetCounts
from coordexp.types.errors import BackendError

if TYPE_CHECKING:
    import pandas as pd

    from coordexp.evaluation.result import EvaluationResult


_IMAGE = ("image_id", "file_name", "width", "height")
_INVALID = ("num_invalid_gt", "num_invalid_pred")
_RATES = ("num_gt", "num_pred", "tp", "fp", "fn", "f1_det@0.50", "f1_det_miou", "precision@0.50", "recall@0.50", "mean_matched_iou")


@dataclass(frozen=True, slots=True)
class ResultFrames:
    """Example: `frames.per_class.sort_values("f1_det@0.50")`, `frames.per_image.query("fn > 0").file_name`"""

    per_class: pd.DataFrame
    """One row a class, also those that only predictions have: category, AP (NaN where undefined), counts and rates."""
    per_image: pd.DataFrame
    """One row an image, in the order of the file: image_id, file_name, size, counts at IoU 0.50 and rates."""


def to_frames(result: EvaluationResult) -> ResultFrames:
    """The tables of a result.

    Raises:
        BackendError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise BackendError("tables need pandas, which is not installed", where="to_pandas", fix="pip install 'coordexp[pandas]'") from error
    return ResultFrames(
        per_class=pd.DataFrame(list(_class_rows(result)), columns=["category", "AP", *_RATES]),
        per_image=pd.DataFrame(list(_image_rows(result)), columns=[*_IMAGE, *_RATES, *_INVALID]),
    )


def _class_rows(result: EvaluationResult) -> Iterator[tuple[object, ...]]:
    for row in result.per_class:
        yield (row.name, _number(row.ap), *_rates(row.counts))


def _image_rows(result: EvaluationResult) -> Iterator[tuple[object, ...]]:
    for image, counts in zip(result.data.images, result.det.per_image, strict=True):
        yield (image.image_id, image.file_name, image.width, image.height, *_rates(counts), len(image.invalid_gt), len(image.invalid_pred))


def _rates(counts: DetCounts) -> tuple[float, ...]:
    """In the order of `_RATES`."""
    rates = (counts.f1(0.5), counts.f1_miou, counts.precision(0.5), counts.recall(0.5), _number(counts.mean_iou))
    return (counts.num_gt, counts.num_pred, *counts.at(0.5), *rates)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
