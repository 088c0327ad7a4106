"""Import of COCO instances: a pixel record file, with the images inside its folder.

Boxes x, y, width, height become corners; what reaches past the border is clamped and counted. Crowd regions are skipped and counted. Images without
annotations stay. An annotation that cannot be used is an error, or, when asked for, skipped and counted by reason: nothing disappears unseen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from coordexp.data.coco_file import CocoAnnotation, CocoFile, CocoImage, read_coco
from coordexp.data.image_files import check_image_files, place_images
from coordexp.data.jsonl import write_records
from coordexp.geometry.bins import clamp_to_image, count_beyond_border
from coordexp.geometry.boxes import xywh_to_xyxy
from coordexp.geometry.contours import mask_to_rings
from coordexp.geometry.masks import rle_to_mask
from coordexp.geometry.polygons import Ring, canonical_ring, ring_area, ring_to_box
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import DetObject, GeometryKind, Record


@dataclass(slots=True)
class CocoSummary:
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
    """Polygons: objects of several parts, of which the largest was taken."""
    num_with_holes: int = 0
    """Polygons: masks whose holes were filled."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Annotations that could not be used, by reason; only with `skip_invalid`."""
    num_linked: int = 0
    num_copied: int = 0
    """Images hard-linked or copied into the folder of the record file; neither when they lie there already."""

    def sentence(self) -> str:
        """The counts that are not zero, as one phrase."""
        counts = [
            (self.num_crowd, "crowd regions skipped"),
            (self.num_clamped, "clamped to the border"),
            (self.num_zero_area, "without area"),
            (self.num_multi_part, "of several parts, the largest taken"),
            (self.num_with_holes, "with holes, filled"),
            (self.num_linked, "images linked"),
            (self.num_copied, "images copied"),
            *((count, f"skipped as {reason}") for reason, count in sorted(self.skipped.items())),
        ]
        head = f"{self.num_images} images ({self.num_empty_images} without objects), {self.num_objects} objects"
        return ", ".join([head, *(f"{count} {what}" for count, what in counts if count)])


class _UnusableError(Exception):
    """An annotation that cannot become an object: a reason to count by, and the details for the error."""

    def __init__(self, reason: str, what: str) -> None:
        self.reason = reason
        self.what = what
        super().__init__(reason, what)


class _Shape(NamedTuple):
    points: tuple[float, ...]
    num_parts: int = 1
    num_holes: int = 0


def import_coco(
    annotations: Path, *, images: Path, output: Path, geometry: GeometryKind = "bbox_2d", skip_invalid: bool = False, progress: Progress | None = None
) -> CocoSummary:
    """Write the record file `output` from a COCO instances file.

    Images inside the folder of `output` are referred to where they are; others are hard-linked (copied where that is not possible) to
    `<folder of output>/images/<stem of output>/`.

    Args:
        annotations: the instances file.
        images: folder that its file names are relative to.
        output: the JSONL to write, in pixels.
        geometry: take boxes, or polygons (of a mask: its outline along pixel edges; of several parts the largest).
        skip_invalid: count annotations that cannot be used instead of raising.
        progress: shows the long loops.

    Raises:
        DataError: a broken instances file, a missing image, an image of another size, an annotation that cannot be used.
        OutputError: the output cannot be written.
    """
    progress = progress or NoProgress()
    coco = read_coco(annotations)
    summary = CocoSummary(num_images=len(coco.images))
    objects = _collect_objects(coco, geometry=geometry, skip_invalid=skip_invalid, summary=summary, progress=progress)
    sizes = {image.file_name: (image.width, image.height) for image in coco.images}
    check_image_files(images, sizes, where=str(annotations), progress=progress)
    placed = place_images(images, list(sizes), output=output, progress=progress)
    summary.num_linked, summary.num_copied = placed.num_linked, placed.num_copied
    summary.num_objects = sum(map(len, objects.values()))
    summary.num_empty_images = sum(not found for found in objects.values())
    write_records(output, (_to_record(image, placed.names[image.file_name], objects[image.id], coco) for image in coco.images))
    return summary


def _to_record(image: CocoImage, path: str, objects: list[DetObject], coco: CocoFile) -> Record:
    metadata = {"source": coco.path.name, "image_id": image.id}
    return Record(id="", image=path, width=image.width, height=image.height, objects=tuple(objects), coord_space="pixel", metadata=metadata)


def _collect_objects(
    coco: CocoFile, *, geometry: GeometryKind, skip_invalid: bool, summary: CocoSummary, progress: Progress
) -> dict[int | str, list[DetObject]]:
    images = {image.id: image for image in coco.images}
    objects: dict[int | str, list[DetObject]] = {image.id: [] for image in coco.images}
    rows = progress.track(enumerate(coco.annotations), "read annotations", total=len(coco.annotations))
    for position, annotation in rows:
        if annotation.iscrowd:
            summary.num_crowd += 1
            continue
        try:
            points = _to_points(annotation, images[annotation.image_id], geometry, summary)
        except _UnusableError as problem:
            if not skip_invalid:
                fix = "correct the annotation, or skip such ones with --skip-invalid"
                raise DataError(problem.what, where=coco.where(position), fix=fix) from problem
            summary.skipped[problem.reason] += 1
            continue
        objects[annotation.image_id].append(DetObject(coco.names[annotation.category_id], geometry, points))
    return objects


def _to_points(annotation: CocoAnnotation, image: CocoImage, geometry: GeometryKind, summary: CocoSummary) -> tuple[float, ...]:
    shape = _Shape(_read_box(annotation)) if geometry == "bbox_2d" else _read_polygon(annotation, image)
    x1, y1, x2, y2 = shape.points if geometry == "bbox_2d" else ring_to_box(shape.points)
    if x2 < 0 or y2 < 0 or x1 > image.width or y1 > image.height:
        raise _UnusableError("outside", f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) lies outside the image of {image.width}x{image.height}")
    summary.num_multi_part += shape.num_parts > 1
    summary.num_with_holes += shape.num_holes > 0
    summary.num_clamped += count_beyond_border(shape.points, width=image.width, height=image.height) > 0
    points = clamp_to_image(shape.points, width=image.width, height=image.height)
    if geometry == "poly":
        points = canonical_ring(points)
    x1, y1, x2, y2 = points if geometry == "bbox_2d" else ring_to_box(points)
    summary.num_zero_area += x1 == x2 or y1 == y2
    return points


def _read_box(annotation: CocoAnnotation) -> tuple[float, ...]:
    if annotation.bbox is None:
        raise _UnusableError("no_bbox", "no bbox")
    if annotation.bbox[2] < 0 or annotation.bbox[3] < 0:
        raise _UnusableError("negative_size", f"bbox {list(annotation.bbox)} has a negative width or height")
    return xywh_to_xyxy(annotation.bbox)


def _read_polygon(annotation: CocoAnnotation, image: CocoImage) -> _Shape:
    segmentation: Any = msgspec.json.decode(annotation.segmentation)
    if not segmentation:
        raise _UnusableError("no_segmentation", "polygons are asked for, but the annotation has no segmentation")
    if isinstance(segmentation, list):
        rings = [_read_ring(part) for part in segmentation]  # pyright: ignore[reportUnknownVariableType]
        return _Shape(max(rings, key=ring_area), num_parts=len(rings))
    return _read_rle(segmentation, image)


def _read_ring(part: Any) -> Ring:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or not all(type(value) in (int, float) for value in part):
        raise _UnusableError("bad_polygon", "a polygon of the segmentation is not a flat list of 3 or more x, y pairs")
    return tuple(float(value) for value in part)


def _read_rle(segmentation: Any, image: CocoImage) -> _Shape:
    if not isinstance(segmentation, dict) or segmentation.get("size") != [image.height, image.width] or not isinstance(segmentation.get("counts"), list | str):
        raise _UnusableError("bad_rle", f"the segmentation is not a mask {{size: [{image.height}, {image.width}], counts: ...}}")
    try:
        mask = rle_to_mask(segmentation)
    except ValueError as error:
        raise _UnusableError("bad_rle", f"the segmentation cannot be decoded ({error})") from error
    outer, holes = mask_to_rings(mask)
    if not outer:
        raise _UnusableError("empty_mask", "the mask of the segmentation has no pixel")
    return _Shape(outer[0], num_parts=len(outer), num_holes=len(holes))
