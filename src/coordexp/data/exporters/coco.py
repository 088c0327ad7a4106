"""Record file to COCO instances: an import of what is written gives the same records, up to the rounding of x + (x2 - x) (below 1e-9 pixels)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from coordexp.data.convert import to_pixels
from coordexp.data.jsonl import iter_records
from coordexp.data.paths import refuse_replacing
from coordexp.geometry.polygons import ring_area, ring_to_box
from coordexp.types.errors import DataError
from coordexp.types.files import atomic_writer
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, DetObject, Record

_FEDERATED = {"neg_category_ids": "neg_categories", "not_exhaustive_category_ids": "not_exhaustive_categories"}
"""Field of LVIS → the key of metadata that holds the names."""


@dataclass(slots=True)
class ExportSummary:
    """What an export did, in counts."""

    num_images: int = 0
    num_objects: int = 0
    labels: Counter[str] = field(default_factory=Counter[str])
    """Objects by label; labels without any are those that metadata names as absent."""

    def sentence(self) -> str:
        """The counts as one phrase."""
        return f"{self.num_images} images, {self.num_objects} objects of {len(self.labels)} categories"


def export_coco(source: Path, output: Path, *, coord_space: CoordSpace | None = None, progress: Progress | None = None) -> ExportSummary:
    """Write a COCO instances file; its file names are relative to the folder of `source`.

    Categories are the labels in alphabetical order, from 1. An image keeps the id in its metadata (`image_id`) when every record has one of its own, else
    images are counted from 1. What LVIS says about absent and incomplete categories is written with the new ids. Bins become pixels, unrounded.

    Args:
        source: a record file.
        output: the instances file to write.
        coord_space: space of records that do not name theirs.
        progress: shows the loops.

    Raises:
        DataError: a broken record, or an output on top of the source.
        OutputError: the file cannot be written.
    """
    refuse_replacing(output, [source])
    progress = progress or NoProgress()
    summary, ids = _survey(iter_records(source, coord_space=coord_space), source)
    numbers = {label: number for number, label in enumerate(sorted(summary.labels), start=1)}
    records = progress.track(iter_records(source, coord_space=coord_space), "export", total=summary.num_images)
    encode = msgspec.json.Encoder().encode
    with atomic_writer(output) as stream:
        stream.write('{"info":{},"licenses":[],"categories":')
        stream.write(encode([{"id": number, "name": label} for label, number in numbers.items()]).decode())
        stream.write(',"annotations":[')
        images = _write_annotations(records, stream, numbers, ids)
        stream.write('],"images":[')
        stream.write(",".join(encode(image).decode() for image in images))
        stream.write("]}\n")
    return summary


def _survey(records: Iterator[Record], source: Path) -> tuple[ExportSummary, list[int] | None]:
    """Counts, and the ids of the images when their metadata says so."""
    summary, ids = ExportSummary(), list[int]()
    for record in records:
        summary.num_images += 1
        summary.num_objects += len(record.objects)
        summary.labels.update(item.desc for item in record.objects)
        summary.labels.update(dict.fromkeys((name for key in _FEDERATED.values() for name in _names(record, key)), 0))
        number = record.metadata.get("image_id")
        if type(number) is int:
            ids.append(number)
    if not summary.num_images:
        raise DataError("there are no records", where=str(source), fix="check the file")
    return summary, ids if len(set(ids)) == summary.num_images else None


def _write_annotations(records: Iterator[Record], stream: IO[str], numbers: dict[str, int], ids: list[int] | None) -> list[dict[str, Any]]:
    """Write them; the images, which a file of the format needs in a list of their own."""
    encode = msgspec.json.Encoder().encode
    images: list[dict[str, Any]] = []
    num_written = 0
    for place, record in enumerate(records):
        image_id = place + 1 if ids is None else ids[place]
        images.append({"id": image_id, "file_name": record.image, "width": record.width, "height": record.height, **_federated(record, numbers)})
        for item in to_pixels(record).objects:
            num_written += 1
            row = {"id": num_written, "image_id": image_id, "category_id": numbers[item.desc], "iscrowd": 0, **_geometry(item)}
            stream.write("," if num_written > 1 else "")
            stream.write(encode(row).decode())
    return images


def _geometry(item: DetObject) -> dict[str, Any]:
    x1, y1, x2, y2 = item.points if item.kind == "bbox_2d" else ring_to_box(item.points)
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    if item.kind == "bbox_2d":
        return {**box, "area": (x2 - x1) * (y2 - y1)}
    return {**box, "area": ring_area(item.points), "segmentation": [list(item.points)]}


def _federated(record: Record, numbers: dict[str, int]) -> dict[str, list[int]]:
    return {key: [numbers[name] for name in _names(record, source)] for key, source in _FEDERATED.items() if source in record.metadata}


def _names(record: Record, key: str) -> list[str]:
    names = record.metadata.get(key)
    return [name for name in cast(list[Any], names) if isinstance(name, str)] if isinstance(names, list) else []
