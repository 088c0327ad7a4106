"""Schema of `coordexp data prepare`: which annotations become which splits of a data set, at which size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from coordexp.config.sections import FilePath, FileSection, KeyProblem, Positive, Section, Switch, Text


class SplitSource(Section):
    """Annotations of one split as they are found."""

    kind: Literal["coco"] = "coco"
    """Format of the annotations."""
    instances: FilePath
    """The instances file. No default."""
    images: FilePath
    """Folder that the file names in it are relative to. No default."""
    geometry: Literal["bbox_2d", "poly"] = "bbox_2d"
    """Take boxes or polygons."""
    skip_invalid: Switch = False
    """Count annotations that cannot be used instead of stopping."""


class Splits(Section):
    """At least one of them."""

    train: SplitSource | None = None
    val: SplitSource | None = None


class PrepareConfig(FileSection):
    """The chain import → rescale → coordinate tokens → validate for each split."""

    output: FilePath
    """Folder of the data set; the result is `<output>/<preset>/<split>.coord.jsonl`. No default."""
    preset: Text
    """`rescale_<multiple>_<max blocks>`, for example rescale_32_768_bbox_max60: it decides what the model sees. No default."""
    min_blocks: Positive | None = None
    """Least area in squares of `multiple` pixels; absent: 64, or the preset's maximum when that is less."""
    box_rounding: Literal["nearest", "outward"] = "nearest"
    """How pixels become bins; outward: boxes never shrink."""
    splits: Splits

    def problems(self) -> Iterator[KeyProblem]:
        if self.splits.train is None and self.splits.val is None:
            yield KeyProblem("splits", "names no split", "give splits.train, splits.val, or both, each with instances and images")
