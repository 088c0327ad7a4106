"""COCO instances (also Objects365, Open Images and others in COCO's form): x, y, width, height; polygons or run-length masks; crowd regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from coordexp.data.coco_file import CocoAnnotation, CocoFile, CocoImage, decode_annotation, decode_image, place_of, read_coco
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject
from coordexp.data.row_index import DocumentRow
from coordexp.geometry.boxes import xywh_to_xyxy
from coordexp.geometry.masks import rle_to_mask
from coordexp.geometry.polygons import Ring
from coordexp.types.errors import DataError
from coordexp.types.progress import Progress

_BAD_POLYGON = Problem("bad_polygon", "a polygon of the segmentation is not a flat list of 3 or more x, y pairs")


def import_coco(
    annotations: Path,
    *,
    images: Path,
    output: Path,
    strip_components: int = 0,
    options: ImportOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ImportSummary:
    """Write the record file `output` from a COCO instances file (`import_source` tells the errors).

    Args:
        annotations: the instances file.
        images: folder that its file names are relative to.
        output: the JSONL to write, in pixels.
        strip_components: leading folders of the file names to leave out (Objects365 names `images/v1/patch8/…`).
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    options = options or ImportOptions()
    source = open_coco(annotations, images=images, with_outlines=options.geometry == "poly", strip_components=strip_components)
    return import_source(source, output=output, options=options, workers=workers, progress=progress)


def open_coco(annotations: Path, *, images: Path, with_outlines: bool, strip_components: int = 0) -> Source:
    """The images of a COCO instances file, in its order.

    Raises:
        DataError: a broken file.
    """
    coco = read_coco(annotations)
    return coco_source(coco, images=images, with_outlines=with_outlines, name_of=partial(_file_name, strip_components))


def _file_name(strip_components: int, image: CocoImage, where: str) -> str:
    if not image.file_name:
        raise DataError("no file_name", where=where, fix="a file of LVIS is imported by 'coordexp data import lvis'")
    return strip_folders(image.file_name, strip_components, where=where)


def _no_metadata(_: CocoImage) -> dict[str, Any]:
    return {}


def coco_source(
    coco: CocoFile,
    *,
    images: Path,
    with_outlines: bool,
    name_of: Callable[[CocoImage, str], str],
    metadata_of: Callable[[CocoImage], dict[str, Any]] = _no_metadata,
) -> Source:
    """The images of a file that was read; `name_of` takes an image and the place for an error, `metadata_of` says what its record carries further; both
    are picklable.
    """
    read = partial(_read_row, _Reader(coco.path, coco.names, with_outlines, name_of, metadata_of))
    return Source(str(coco.path), images, coco.rows, inputs=(coco.path,), num_images=coco.num_images, read=read)


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    names: dict[int, str]
    with_outlines: bool
    name_of: Callable[[CocoImage, str], str]
    metadata_of: Callable[[CocoImage], dict[str, Any]]


def _read_row(reader: _Reader, row: DocumentRow) -> SourceImage:
    image = decode_image(row.image)
    where = f"{reader.path}: images[{row.position}] (id {image.id})"
    objects = [_read_object(reader, number, decode_annotation(content), image) for number, content in row.annotations]
    metadata = {"source": reader.path.name, "image_id": image.id, **reader.metadata_of(image)}
    return SourceImage(reader.name_of(image, where), where, objects, width=image.width, height=image.height, metadata=metadata)


def _read_object(reader: _Reader, number: int, annotation: CocoAnnotation, image: CocoImage) -> SourceObject:
    label, where = reader.names[annotation.category_id], place_of(reader.path, number, annotation)
    if annotation.iscrowd:
        return SourceObject(label, where, is_crowd=True)
    found = _read_outline(annotation, image) if reader.with_outlines else _read_box(annotation)
    if isinstance(found, Problem):
        return SourceObject(label, where, problem=found)
    return SourceObject(label, where, **found)


def strip_folders(name: str, count: int, *, where: str) -> str:
    """Example: `strip_folders("images/v1/patch8/a.jpg", 2, where="…") == "patch8/a.jpg"`. Backslashes of Windows become slashes.

    Raises:
        DataError: the name has fewer folders.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if len(parts) <= count:
        raise DataError(f"{name!r} has no {count} leading folders", where=where, fix="lower --strip-components")
    return str(PurePosixPath(*parts[count:])) if count or "\\" in name else name


def _read_box(annotation: CocoAnnotation) -> dict[str, Any] | Problem:
    if annotation.bbox is None:
        return Problem("no_bbox", "no bbox")
    if annotation.bbox[2] < 0 or annotation.bbox[3] < 0:
        return Problem("negative_size", f"bbox {list(annotation.bbox)} has a negative width or height")
    return {"box": xywh_to_xyxy(annotation.bbox)}


def _read_outline(annotation: CocoAnnotation, image: CocoImage) -> dict[str, Any] | Problem:
    try:
        segmentation: Any = msgspec.json.decode(annotation.segmentation)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:  # numbers beyond every range: JSON that was skipped when the file was read
        return Problem("bad_polygon", f"the segmentation cannot be read ({error})")
    if not segmentation:
        return {}
    if isinstance(segmentation, list):
        rings = [_read_ring(part) for part in segmentation]  # pyright: ignore[reportUnknownVariableType]
        return _BAD_POLYGON if None in rings else {"rings": tuple(rings)}
    return _read_rle(segmentation, image)


def _read_ring(part: Any) -> Ring | None:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or not all(type(value) in (int, float) for value in part):
        return None
    return tuple(float(value) for value in part)


def _read_rle(segmentation: Any, image: CocoImage) -> dict[str, Any] | Problem:
    if not isinstance(segmentation, dict) or segmentation.get("size") != [image.height, image.width] or not isinstance(segmentation.get("counts"), list | str):
        return Problem("bad_rle", f"the segmentation is not a mask {{size: [{image.height}, {image.width}], counts: ...}}")
    try:
        return {"mask": rle_to_mask(segmentation)}
    except (ValueError, TypeError) as error:
        return Problem("bad_rle", f"the segmentation cannot be decoded ({error})")
