"""Record files to a YOLO folder: `data.yaml`, `images/<split>/`, `labels/<split>/`. Fractions have eight decimals: below 0.0001 pixels for sides to 6,000."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from coordexp.data.convert import to_pixels
from coordexp.data.exporters.coco import ExportSummary
from coordexp.data.image_files import link_or_copy
from coordexp.data.importers.yolo import label_path
from coordexp.data.jsonl import iter_records
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError, OutputError
from coordexp.types.files import replace_owned
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, DetObject, Record

_MARKER = ".exported"
"""Says that images, labels and data.yaml beside it were written by an export and may be replaced."""
_PARTS = ("images", "labels", "data.yaml")
_OWNED = frozenset({*_PARTS, "data.card.md", _MARKER})


@dataclass(slots=True)
class _Writer:
    root: Path
    split: str
    source: Path
    numbers: Mapping[str, int]
    taken: set[Path]
    """Label files, which two images of one stem would share."""


def export_yolo(sources: Mapping[str, Path], folder: Path, *, coord_space: CoordSpace | None = None, progress: Progress | None = None) -> ExportSummary:
    """Write the splits of a YOLO data set; images are hard-linked, or copied where the file system cannot.

    Boxes become `class cx cy w h`, polygons `class x1 y1 x2 y2 …`. Classes are the labels of all splits in alphabetical order, from 0.

    Args:
        sources: name of the split (train, val, test) → record file.
        folder: the data set; an earlier export there is replaced.
        coord_space: space of records that do not name theirs.
        progress: shows the loops.

    Raises:
        DataError: a broken record, a missing image, two records about one image.
        OutputError: the folder cannot be written, or holds images, labels or a data.yaml of somebody else.
    """
    _refuse_foreign(folder, sources)
    progress = progress or NoProgress()
    summary = ExportSummary()
    for source in sources.values():
        for record in iter_records(source, coord_space=coord_space):
            summary.num_images += 1
            summary.num_objects += len(record.objects)
            summary.labels.update(item.desc for item in record.objects)
    names = sorted(summary.labels)
    with replace_owned(folder, is_owned=_OWNED.__contains__) as new:
        for split, source in sources.items():
            writer = _Writer(new, split, source, {name: number for number, name in enumerate(names)}, set())
            for record in progress.track(iter_records(source, coord_space=coord_space), f"export {split}"):
                _write_record(record, writer)
        tree = {"path": ".", **{split: f"images/{split}" for split in sources}, "names": dict(enumerate(names))}
        (new / _MARKER).write_text("coordexp data export yolo\n", encoding="utf-8")
        (new / "data.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return summary


def _refuse_foreign(folder: Path, sources: Mapping[str, Path]) -> None:
    """Nothing is replaced that an export did not write, least of all the images that are exported."""
    for source in sources.values():
        if source.parent.resolve() == folder.resolve():
            raise OutputError(f"is the folder of {source.name} and its images", where=str(folder), fix="choose another output folder")
    found = [name for name in _PARTS if (folder / name).exists()]
    if found and not (folder / _MARKER).is_file():
        raise OutputError(f"holds {' and '.join(found)}, which no export wrote", where=str(folder), fix="choose another output folder")


def _write_record(record: Record, writer: _Writer) -> None:
    where = f"{writer.source}:{record.id.rpartition(':')[2]}"
    source = resolve_image(writer.source.parent, record.image, where=where)
    if not source.is_file():
        raise DataError(f"the image {source} does not exist", where=where, fix="check that the images lie where the record file says")
    image = writer.root / _image_name(record.image, writer.split)
    if image.exists():
        raise DataError(f"an earlier record is about {record.image} too", where=where, fix="make one record of all objects of an image")
    while label_path(image) in writer.taken:  # a.jpg beside a.png
        image = image.with_stem(f"{image.stem}_")
    labels = label_path(image)
    writer.taken.add(labels)
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source.resolve(), image)
    lines = [_to_line(item, writer.numbers[item.desc], record.width, record.height) for item in to_pixels(record).objects]
    labels.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _image_name(name: str, split: str) -> str:
    """Example: `_image_name("images/train/deep/a.png", "train") == "images/train/deep/a.png"`"""
    parts = list(PurePosixPath(name).parts)
    for known in ("images", split):
        if len(parts) > 1 and parts[0] == known:
            parts = parts[1:]
    # a folder called images would lead the readers of the format to other labels
    return str(PurePosixPath("images", split, *("images_" if part == "images" else part for part in parts)))


def _to_line(item: DetObject, number: int, width: int, height: int) -> str:
    points = item.points
    if item.kind == "bbox_2d":
        x1, y1, x2, y2 = points
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    else:
        values = [value / (height if position % 2 else width) for position, value in enumerate(points)]
    return " ".join([str(number), *(f"{value:.8f}" for value in values)])
