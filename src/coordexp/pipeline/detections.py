"""What a detector says about one picture, for code that goes on with it: arrays, and the forms of other tools. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coordexp.geometry.masks import ring_to_mask
from coordexp.geometry.polygons import box_to_ring
from coordexp.pipeline.artifacts import result_to_json
from coordexp.types.errors import BackendError
from coordexp.types.predictions import Detection, SampleResult

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects of one picture, in its own pixels, in the order in which the model wrote them.

    Example: `detections.boxes[detections.scores > 0.5]`; `len(detections)`; `detections.errors` is empty when all went well.
    """

    result: SampleResult
    """Everything that is known, as in a line of `gt_vs_pred.jsonl`."""

    def __len__(self) -> int:
        return len(self.result.pred)

    @property
    def image(self) -> str:
        """The path as it was given; empty for a picture that was not a file."""
        return self.result.image

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels, upright; None when the picture could not be read."""
        width, height = self.result.width, self.result.height
        return None if width is None or height is None else (width, height)

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """[N, 4] x1, y1, x2, y2 in pixels, unrounded; of a polygon the box around it."""
        return np.array([_box(item) for item in self.result.pred], dtype=np.float64).reshape(-1, 4)

    @property
    def polygons(self) -> list[npt.NDArray[np.float64] | None]:
        """For each object its ring [K, 2] in pixels; None for a box."""
        return [None if item.kind == "bbox_2d" else np.array(_exact(item), dtype=np.float64).reshape(-1, 2) for item in self.result.pred]

    @property
    def labels(self) -> list[str]:
        return [item.desc for item in self.result.pred]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """[N] in [0, 1]."""
        return np.array([1.0 if item.score is None else item.score for item in self.result.pred], dtype=np.float64)

    @property
    def raw_output(self) -> str:
        """The model's text."""
        return self.result.raw_output

    @property
    def errors(self) -> tuple[str, ...]:
        """Codes, as in `gt_vs_pred.jsonl`; `message` says more where a picture failed as a whole."""
        return self.result.errors

    @property
    def message(self) -> str | None:
        said = self.result.extras.get("message")
        return said if isinstance(said, str) else None

    @property
    def is_failed(self) -> bool:
        """Whether the picture could not be read or answered."""
        return self.result.finish_reason is None

    def at_least(self, score: float) -> Detections:
        """Those with this score or more."""
        return Detections(replace(self.result, pred=tuple(item for item in self.result.pred if item.score is None or item.score >= score)))

    def to_json(self) -> dict[str, Any]:
        """A line of `gt_vs_pred.jsonl` without ground truth, as a dictionary."""
        return result_to_json(self.result)

    def to_supervision(self, classes: Sequence[str] | None = None) -> sv.Detections:
        """For the tools of supervision; with masks when one of the objects is a polygon.

        Args:
            classes: names in the order of `class_id`; others follow in order of first sight. `data["class_name"]` names each object in any case.

        Raises:
            BackendError: supervision is not installed.
        """
        try:
            import supervision as sv
        except ModuleNotFoundError as error:
            fix = "pip install 'coordexp[supervision]'"
            raise BackendError("this needs the library supervision, which is not installed", where="to_supervision", fix=fix) from error
        number_of = {name: number for number, name in enumerate(dict.fromkeys((*(classes or ()), *self.labels)))}
        masks = None
        if self.size is not None and any(item.kind == "poly" for item in self.result.pred):
            width, height = self.size
            rings = [_exact(item) if item.kind == "poly" else box_to_ring(_exact(item)) for item in self.result.pred]
            masks = np.stack([ring_to_mask(ring, width=width, height=height) for ring in rings])
        return sv.Detections(
            xyxy=self.boxes,
            mask=masks,
            confidence=self.scores,
            class_id=np.array([number_of[name] for name in self.labels], dtype=np.int64),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )


def _exact(item: Detection) -> tuple[float, ...]:
    return item.points if item.points_exact is None else item.points_exact


def _box(item: Detection) -> tuple[float, float, float, float]:
    values = _exact(item)
    return min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
