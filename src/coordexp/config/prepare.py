"""Schema of `coordexp data prepare`: which annotations become which splits of a data set, at which size, and what is filtered out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AllowInfNan, Field, Strict

from coordexp.config.sections import Count, FilePath, FileSection, KeyProblem, NonNegative, Positive, Section, Switch, Text, Whole

_OpenShare = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0, lt=1)]
_HashBits = Annotated[int, Strict(), Field(ge=0, le=8)]


class HfColumnsSection(Section):
    """Columns of a data set of the library datasets."""

    box_format: Literal["xywh", "xyxy", "cxcywh"]
    """What the four numbers of a box are. No default: the numbers do not say it."""
    image: Text = "image"
    """The picture."""
    bbox: Text = "objects.bbox"
    """The boxes; dots lead into structs and lists of structs."""
    label: Text = "objects.category"
    """The labels."""
    segmentation: Text | None = None
    """The polygons of each object, when polygons are wanted."""
    unit: Literal["pixel", "fraction", "thousandth"] = "pixel"
    """Of the numbers: pixels, 0..1, or 0..1000."""
    config: Text | None = None
    """Configuration of a data set that has several."""


class SplitSource(Section):
    """Annotations of one split as they are found."""

    kind: Literal["coco", "lvis", "visual_genome", "yolo", "voc", "swift", "hf"] = "coco"
    """Format of the annotations."""
    instances: FilePath
    """The annotations: the instances file (coco, lvis), objects.json (visual_genome), data.yaml (yolo), the folder with Annotations/ (voc), the JSONL file
    (swift), a saved data set, Parquet file or name on the hub (hf). No default."""
    images: FilePath | None = None
    """Folder that file names are relative to. Required by coco, lvis, visual_genome and swift; voc: absent for JPEGImages/; yolo and hf know it."""
    split: Text | None = None
    """yolo: train, val or test of data.yaml, absent: the name of this split; voc: a list of ImageSets/Main, absent: every XML file; hf: absent: the name of
    this split."""
    geometry: Literal["bbox_2d", "poly"] = "bbox_2d"
    """Take boxes or polygons."""
    outline: Literal["largest", "hull"] = "largest"
    """Polygons of several parts: the largest of them, or the convex hull of all."""
    max_vertices: Annotated[int, Strict(), Field(ge=3)] | None = None
    """Simplify polygons with more vertices; absent: never."""
    max_deviation: NonNegative = 2.0
    """Pixels that simplifying may move an outline; one that would move farther is an annotation that cannot be used."""
    labels: FilePath | None = None
    """Label map, YAML or JSON: `old: new`; `old: null` leaves its objects out."""
    only_mapped: Switch = False
    """Leave out objects whose label is not in the label map."""
    min_side: NonNegative = 0.0
    """Leave out objects with a shorter side, in pixels of the source image."""
    max_objects: Positive | None = None
    """Limit of an image; absent: that of the preset's name, if it has one."""
    over_limit: Literal["drop", "largest", "first"] = "drop"
    """Of an image with more objects: drop it, keep its largest objects, or its first ones."""
    part: Literal["all", "train", "val"] = "all"
    """Of a source without splits of its own: the part to take. Parts are drawn by the names of images and share none."""
    val_share: _OpenShare = 0.05
    """Share of the images that `part: val` takes and `part: train` leaves."""
    seed: Whole = 0
    """Of the two parts."""
    skip_invalid: Switch = False
    """Count annotations that cannot be used instead of stopping."""
    skip_bad_images: Switch = False
    """Count images that are missing, damaged or of another size instead of stopping."""
    strip_components: Count = 0
    """coco: leading folders of file names to leave out (Objects365: 2)."""
    first_pixel: Literal[0, 1] = 1
    """voc: what the first pixel of a row is called; some tools count from 0."""
    skip_difficult: Switch = False
    """voc: leave out objects that are marked as difficult."""
    merge_rows: Switch = False
    """swift: one record of all rows about an image."""
    columns: HfColumnsSection | None = None
    """hf: where a row keeps what is needed. Required by it."""


class Splits(Section):
    """At least one of them."""

    train: SplitSource | None = None
    val: SplitSource | None = None


class FilterSection(Section):
    """What is dropped after rescaling; every drop is listed with its reason beside the result."""

    min_objects: Count = 0
    """Drop images with fewer objects."""
    max_label_share: _OpenShare | None = None
    """Drop images in which one label has a larger share of the objects; absent: no such rule."""
    share_from: Annotated[int, Strict(), Field(ge=2)] = 10
    """Fewest objects of an image for that rule."""
    duplicates: _HashBits | None = None
    """Drop images that resemble an earlier one, by so many differing bits of a hash of 64: 0 finds copies, 4 recompressed and resized ones; absent: none."""
    against_val: Switch = True
    """With duplicates: images of train that resemble one of val are dropped too."""


class PrepareConfig(FileSection):
    """The chain import → rescale → filter → coordinate tokens → validate for each split."""

    output: FilePath
    """Folder of the data set; the result is `<output>/<preset>/<split>[.<filters>].coord.jsonl`. No default."""
    preset: Text
    """`rescale_<multiple>_<max blocks>`, for example rescale_32_768_bbox_max60: it decides what the model sees. No default."""
    min_blocks: Positive | None = None
    """Least area in squares of `multiple` pixels; absent: 64, or the preset's maximum when that is less."""
    box_rounding: Literal["nearest", "outward"] = "nearest"
    """How pixels become bins; outward: boxes never shrink."""
    workers: Count = 1
    """Processes that share the work of every step; 0: one a processor, as far as there is enough work for them."""
    filter: FilterSection | None = None
    """absent: nothing is dropped."""
    splits: Splits

    def problems(self) -> Iterator[KeyProblem]:
        if self.splits.train is None and self.splits.val is None:
            yield KeyProblem("splits", "names no split", "give splits.train, splits.val, or both, each with instances and images")
        for name, source in (("train", self.splits.train), ("val", self.splits.val)):
            if source is not None:
                yield from _source_problems(f"splits.{name}", source)


def _source_problems(key: str, source: SplitSource) -> Iterator[KeyProblem]:
    if source.images is None and source.kind in ("coco", "lvis", "visual_genome", "swift"):
        yield KeyProblem(f"{key}.images", "is required", "give the folder that the file names of the images are relative to")
    if source.columns is None and source.kind == "hf":
        yield KeyProblem(f"{key}.columns", "is required", "give at least columns.box_format")
    if source.only_mapped and source.labels is None:
        yield KeyProblem(f"{key}.only_mapped", "needs a label map", "give labels too")
