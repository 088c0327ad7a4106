"""Grounding data as ms-swift takes it: a JSON object a line, with `images` and `objects` beside the conversation.

`objects` is `{"ref": […], "bbox": […], "bbox_type": "real" | "norm1"}`, or, as in earlier releases, a list of `{"caption", "bbox", "bbox_type", "image"}`
(possibly inside a text). Where there are more boxes than names, `<ref-object>` and `<bbox>` in the messages say which belongs to which.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject, Unit
from coordexp.data.jsonl import is_blank, open_records
from coordexp.types.errors import DataError
from coordexp.types.lines import iter_file_lines
from coordexp.types.progress import Progress

_UNITS: dict[str, Unit] = {"real": "pixel", "norm1": "fraction", "norm_1": "fraction", "norm1000": "thousandth", "norm_1000": "thousandth"}
_SLOT = re.compile(r"<ref-object>|<bbox>")


def import_swift(
    rows: Path,
    *,
    images: Path,
    output: Path,
    merge_rows: bool = False,
    options: ImportOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ImportSummary:
    """Write the record file `output` from a grounding file (`import_source` tells the errors). There are boxes only.

    Args:
        rows: the JSONL file.
        images: folder that relative image paths are relative to, and that absolute ones lie in.
        output: the JSONL to write, in pixels.
        merge_rows: make one record of all rows about an image; otherwise each row is a record.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    return import_source(
        open_swift(rows, images=images, merge_rows=merge_rows), output=output, options=options or ImportOptions(), workers=workers, progress=progress
    )


def open_swift(rows: Path, *, images: Path, merge_rows: bool = False) -> Source:
    """The images of a grounding file, in the order of their first row. One row is in memory at a time.

    Raises:
        DataError: no such file.
    """
    open_records(rows).close()

    def iterate() -> Iterator[SourceImage]:
        if merge_rows:
            yield from _merged(rows, images)
            return
        yield from (image for _, image in _iter_rows(rows, images))

    return Source(str(rows), images, iterate, inputs=(rows,))


def _iter_rows(path: Path, root: Path) -> Iterator[tuple[int, SourceImage]]:
    """Each row with its place in the file, in bytes."""
    start = 0
    with open_records(path) as stream:
        for number, line in enumerate(iter_file_lines(stream, path), start=1):
            if not is_blank(line, number=number):
                yield start, _read_row(line, root, f"{path}:{number}", source=path.name)
            start += len(line)


def _merged(path: Path, root: Path) -> Iterator[SourceImage]:
    places: dict[str, array[int]] = {}
    for number, (start, image) in enumerate(_iter_rows(path, root)):
        places.setdefault(image.name, array("q")).extend((start, number))
    with open_records(path) as stream:
        for own in places.values():
            parts: list[SourceImage] = []
            for start, number in zip(own[0::2], own[1::2], strict=True):
                stream.seek(start)
                parts.append(_read_row(stream.readline(), root, f"{path}: row {number + 1}", source=path.name))
            first = parts[0]
            odd = next((part for part in parts if part.unit != first.unit), None)
            if odd is not None:
                raise DataError(f"bbox_type differs from that of {first.where}", where=odd.where, fix="write the boxes of an image in one unit")
            yield replace(first, objects=[item for part in parts for item in part.objects])


def _read_row(line: bytes, root: Path, where: str, *, source: str) -> SourceImage:
    try:
        row: Any = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the line is not JSON in UTF-8 ({error})", where=where, fix="write one JSON object a line") from error
    if not isinstance(row, dict):
        raise DataError("the line is not a JSON object", where=where, fix="write one JSON object a line")
    fields = cast(dict[str, Any], row)
    entries, unit = _read_objects(fields, where)
    objects = [_to_object(entry, f"{where}: objects[{index}]") for index, entry in enumerate(entries)]
    size = fields.get("width"), fields.get("height")
    width, height = size if all(type(side) is int and side > 0 for side in size) else (None, None)
    return SourceImage(_image_name(fields, root, where), where, objects, width, height, unit=unit, metadata={"source": source})


@dataclass(frozen=True, slots=True)
class _Entry:
    label: Any
    bbox: Any


def _read_objects(fields: dict[str, Any], where: str) -> tuple[list[_Entry], Unit]:
    objects = fields.get("objects")
    if isinstance(objects, str):
        try:
            objects = msgspec.json.decode(objects)
        except msgspec.DecodeError as error:
            raise DataError(f"the text in it is not JSON ({error})", where=f"{where}: objects", fix="write objects as JSON") from error
    if objects is None:
        return [], "pixel"
    if isinstance(objects, dict):
        return _read_columns(cast(dict[str, Any], objects), fields, where)
    if not isinstance(objects, list):
        raise DataError("objects is neither an object nor a list", where=where, fix='write {"ref": […], "bbox": […]}')
    items = cast(list[Any], objects)
    if not all(isinstance(item, dict) for item in items):
        raise DataError("objects holds something that is not an object", where=where, fix='write {"ref": […], "bbox": […]}')
    kinds = {str(item.get("bbox_type", "real")) for item in items} or {"real"}
    if len(kinds) > 1:
        raise DataError(f"bbox_type is {' and '.join(sorted(kinds))}", where=where, fix="write the boxes of an image in one unit")
    labels = [item.get("caption", item.get("ref")) for item in items]
    return [entry for label, item in zip(labels, items, strict=True) for entry in _spread(label, item.get("bbox"))], _unit(kinds.pop(), where)


def _read_columns(objects: dict[str, Any], fields: dict[str, Any], where: str) -> tuple[list[_Entry], Unit]:
    labels, boxes = objects.get("ref", []), objects.get("bbox", [])
    if not isinstance(labels, list) or not isinstance(boxes, list):
        raise DataError("ref and bbox are not two lists", where=f"{where}: objects", fix='write {"ref": […], "bbox": […]}')
    if len(cast(list[Any], labels)) != len(cast(list[Any], boxes)):
        labels = _join_labels(cast(list[Any], labels), len(cast(list[Any], boxes)), fields, where)
    unit = _unit(str(objects.get("bbox_type", "real")), where)
    return [_Entry(label, box) for label, box in zip(cast(list[Any], labels), cast(list[Any], boxes), strict=True)], unit


def _join_labels(labels: list[Any], num_boxes: int, fields: dict[str, Any], where: str) -> list[Any]:
    """The label of each box: the only one, or that of the last `<ref-object>` before its `<bbox>`."""
    if len(labels) == 1:
        return labels * num_boxes
    messages = fields.get("messages")
    rows = cast(list[Any], messages) if isinstance(messages, list) else []
    text = "".join(str(row.get("content", "")) for row in rows if isinstance(row, dict))
    joined: list[Any] = []
    current = -1
    for slot in _SLOT.findall(text):
        if slot == "<ref-object>":
            current += 1
        elif 0 <= current < len(labels):
            joined.append(labels[current])
    if len(joined) != num_boxes:
        what = f"{len(labels)} names in ref for {num_boxes} boxes, and the messages do not say which box belongs to which"
        raise DataError(what, where=f"{where}: objects", fix="write a name for each box")
    return joined


def _spread(label: Any, bbox: Any) -> list[_Entry]:
    """One entry a box, where one caption has a list of them."""
    if isinstance(bbox, list) and bbox and isinstance(bbox[0], list):
        return [_Entry(label, box) for box in cast(list[Any], bbox)]
    return [_Entry(label, bbox)]


def _unit(kind: str, where: str) -> Unit:
    if kind not in _UNITS:
        raise DataError(f"bbox_type {kind!r} is not known", where=f"{where}: objects", fix=f"write one of: {', '.join(_UNITS)}")
    return _UNITS[kind]


def _to_object(entry: _Entry, where: str) -> SourceObject:
    label, box = entry.label, entry.bbox
    if not isinstance(label, str):
        return SourceObject("", where, problem=Problem("no_label", f"{label!r} is not the name of an object"))
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return SourceObject(label, where, problem=Problem("bad_bbox", f"{str(box)[:60]} is not a box x1, y1, x2, y2"))
    return SourceObject(label, where, box=tuple(box))


def _image_name(fields: dict[str, Any], root: Path, where: str) -> str:
    images = fields.get("images", fields.get("image"))
    found = cast(list[Any], images) if isinstance(images, list) else [] if images is None else [images]
    if len(found) != 1:
        raise DataError(f"{len(found)} images", where=f"{where}: images", fix="a record has one image: take such rows out")
    name = found[0].get("path") if isinstance(found[0], dict) else found[0]
    if not isinstance(name, str) or not name or "://" in name or name.startswith("data:"):
        raise DataError(f"{str(name)[:60]!r} is not a path", where=f"{where}: images", fix="save the image to a file")
    if name.startswith("/"):
        if not Path(name).is_relative_to(root.absolute()):
            raise DataError(f"{name} does not lie in {root}", where=f"{where}: images", fix="give a folder above it with --images")
        return Path(name).relative_to(root.absolute()).as_posix()
    return name
