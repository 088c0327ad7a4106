"""What a reader of an annotation format yields: images with objects, in the reader's own unit, not checked and not clamped yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.geometry.polygons import Ring

Unit: TypeAlias = Literal["pixel", "fraction", "thousandth"]
"""Of geometry: pixels of the upright image; 0..1 of its width and height; 0..1000 of them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an annotation cannot become an object. Example: `Problem("negative_size", "bbox [5, 5, -3, 2] has a negative width or height")`"""

    reason: str
    """A word to count by."""
    what: str
    """For the error."""


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One annotation. A box, rings, a mask, or a box beside one of the others."""

    label: str
    where: str
    """Names the annotation in an error: file, line, id."""
    box: tuple[float, ...] | None = None
    """xyxy."""
    rings: tuple[Ring, ...] = ()
    """Its parts."""
    mask: npt.NDArray[np.bool_] | None = None
    """[height, width]"""
    is_crowd: bool = False
    problem: Problem | None = None
    """What the reader found wrong with it."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image with its annotations."""

    name: str
    """Path relative to the image folder of the source."""
    where: str
    """Names the image in an error."""
    objects: Sequence[SourceObject]
    width: int | None = None
    height: int | None = None
    """What the annotations were made for; None: the format does not say."""
    unit: Unit = "pixel"
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    content: bytes | None = None
    """The encoded picture, where it lies in the source itself."""


def _as_it_is(item: SourceImage) -> SourceImage:
    return item


@dataclass(frozen=True, slots=True)
class Source:
    """Annotations that were opened."""

    title: str
    """For errors and cards: the annotation file or folder."""
    image_root: Path | None
    """Folder that names are relative to; None: every image has its content."""
    items: Callable[[], Iterator[Any]]
    """What `read` takes, from the beginning each time; picklable."""
    inputs: tuple[Path, ...] = ()
    """Annotation files, for cards."""
    num_images: int | None = None
    notes: Counter[str] = field(default_factory=Counter[str])
    """What the reader found odd and passed on, as phrases that follow a number: `"images without a label file"`."""
    read: Callable[[Any], SourceImage] = _as_it_is
    """Makes the image of an item, in any process; where the items are images already, there is nothing left to do."""

    def images(self) -> Iterator[SourceImage]:
        """All of them, in order."""
        return map(self.read, self.items())
