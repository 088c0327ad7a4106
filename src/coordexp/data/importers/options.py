"""What every importer can be asked for, and what every import counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from coordexp.data.plain_yaml import read_plain_yaml
from coordexp.types.errors import DataError
from coordexp.types.records import GeometryKind

Outline: TypeAlias = Literal["largest", "hull"]
OverLimit: TypeAlias = Literal["drop", "largest", "first"]
Part: TypeAlias = Literal["all", "train", "val"]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Example: `ImportOptions(geometry="poly", max_vertices=32, max_objects=60, over_limit="largest")`"""

    geometry: GeometryKind = "bbox_2d"
    outline: Outline = "largest"
    """Polygons of several parts: the largest, or the convex hull of all."""
    max_vertices: int | None = None
    """Of a polygon; one with more is simplified, and moves by at most `max_deviation`."""
    max_deviation: float = 2.0
    """Pixels of the source image."""
    labels: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """Label of the source → label to write; None leaves its objects out. Labels that are not named stay as they are."""
    only_mapped: bool = False
    """Leave out objects whose label is not in `labels`."""
    min_side: float = 0.0
    """Pixels; objects with a shorter side, within the image, are left out."""
    max_objects: int | None = None
    over_limit: OverLimit = "drop"
    """Of an image with more objects: leave the image out, keep its largest objects, or keep its first ones."""
    part: Part = "all"
    val_share: float = 0.05
    """Share of the images that belong to `val`, drawn by their names: the two parts of one source never share an image."""
    seed: int = 0
    skip_invalid: bool = False
    """Count annotations that cannot be used instead of raising."""
    skip_bad_images: bool = False
    """Count images that are missing, damaged or of another size instead of raising."""

    def __post_init__(self) -> None:
        """Raises DataError: values that contradict each other."""
        if self.max_vertices is not None and self.max_vertices < 3:
            raise DataError(f"{self.max_vertices} is fewer than 3 vertices", where="max_vertices", fix="give at least 3")
        if not 0 < self.val_share < 1:
            raise DataError(f"{self.val_share} is not between 0 and 1", where="val_share", fix="give a share such as 0.05")
        if self.max_objects is not None and self.max_objects < 1:
            raise DataError(f"{self.max_objects} is not a limit", where="max_objects", fix="give at least 1")
        if self.only_mapped and not self.labels:
            raise DataError("no label map is given, so that nothing would be left", where="only_mapped", fix="give a label map")

    def takes(self, name: str) -> bool:
        """Whether the image belongs to the part that is asked for."""
        if self.part == "all":
            return True
        digest = hashlib.blake2b(f"{self.seed}:{name}".encode(), digest_size=8).digest()
        is_val = int.from_bytes(digest, "big") < self.val_share * 2**64
        return is_val == (self.part == "val")


@dataclass(slots=True)
class ImportSummary:
    """What an import did, in counts."""

    num_images: int = 0
    num_empty_images: int = 0
    """Without any object; kept."""
    num_objects: int = 0
    num_crowd: int = 0
    """Crowd regions, skipped."""
    num_clamped: int = 0
    """Objects that reached past the border (COCO's x+w = W does) and were clamped to the last pixel."""
    num_zero_area: int = 0
    """Objects of no width or height; kept, and widened when they are quantized."""
    num_multi_part: int = 0
    """Polygons: objects of several parts."""
    num_with_holes: int = 0
    """Polygons: masks whose holes were filled."""
    num_simplified: int = 0
    """Polygons: with fewer vertices than their source."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Annotations that could not be used, by reason; only with `skip_invalid`."""
    skipped_images: Counter[str] = field(default_factory=Counter[str])
    """Images that could not be used, by reason; only with `skip_bad_images`."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """What an option left out, as phrases that follow a number."""
    notes: Counter[str] = field(default_factory=Counter[str])
    """What the reader found odd, as phrases that follow a number."""
    labels: Counter[str] = field(default_factory=Counter[str])
    """Objects by label."""
    num_linked: int = 0
    num_copied: int = 0
    num_written: int = 0
    """Images hard-linked, copied, or written into the folder of the record file; none when they lie there already."""

    def sentence(self) -> str:
        """The counts that are not zero, as one phrase."""
        counts = [
            (self.num_crowd, "crowd regions skipped"),
            (self.num_clamped, "clamped to the border"),
            (self.num_zero_area, "without area"),
            (self.num_multi_part, "of several parts"),
            (self.num_with_holes, "with holes, filled"),
            (self.num_simplified, "simplified"),
            *((count, what) for what, count in sorted(self.left_out.items())),
            *((count, what) for what, count in sorted(self.notes.items())),
            (self.num_linked, "images linked"),
            (self.num_copied, "images copied"),
            (self.num_written, "images written"),
            *((count, f"skipped as {reason}") for reason, count in sorted(self.skipped.items())),
            *((count, f"images skipped as {reason}") for reason, count in sorted(self.skipped_images.items())),
        ]
        head = f"{self.num_images} images ({self.num_empty_images} without objects), {self.num_objects} objects"
        return ", ".join([head, *(f"{count} {what}" for count, what in counts if count)])


def read_label_map(path: Path) -> dict[str, str | None]:
    """Labels from a YAML or JSON file `{old: new, unwanted: null}`.

    Raises:
        DataError: no such file, or not a mapping of texts.
    """
    try:
        tree, _ = read_plain_yaml(path)
    except OSError as error:
        raise DataError(f"the label map cannot be read ({error.strerror})", where=str(path), fix="check the path") from error
    except ValueError as error:
        raise DataError(f"not YAML or JSON in UTF-8 ({error})", where=str(path), fix="write one line `old label: new label` for each") from error
    if not isinstance(tree, dict):
        raise DataError("not a mapping of labels", where=str(path), fix="write one line `old label: new label` for each")
    for old, new in cast(dict[Any, Any], tree).items():
        if not isinstance(old, str) or not (new is None or (isinstance(new, str) and new.strip())):
            raise DataError(f"{old!r}: {new!r} is not a pair of texts", where=str(path), fix="put labels that look like numbers or truth values in quotes")
    return cast(dict[str, "str | None"], tree)
