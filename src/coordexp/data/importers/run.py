"""An opened source to a pixel record file, image by image: memory does not grow with the number of images. On an error nothing is left behind."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.data.image_files import ImageStore, no_empty_folders, open_image_store, refuse_other_size
from coordexp.data.images import read_image_size
from coordexp.data.importers.build import build_objects, limit_objects
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.source import Source, SourceImage
from coordexp.data.jsonl import encode_record, write_lines
from coordexp.data.parallel import choose_workers, in_batches, map_in_order
from coordexp.data.paths import refuse_replacing
from coordexp.data.tally import add_counts
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import Record

_AGAIN = "records about an image that an earlier record is about"
_FIND_IMAGES = "check that this is the folder that the file names are relative to, or leave such images out with --skip-bad-images"

_BATCH = 16
"""Images that a process is given at once: enough that handing them over costs little, few enough that the masks and pictures among them do not fill memory."""
_MANY = 1 << 30
"""Of a source that does not know how many images it has."""


class _BadImageError(Exception):
    """An image that cannot be used: a word to count by, and the error to raise."""

    def __init__(self, reason: str, error: DataError) -> None:
        self.reason = reason
        self.error = error
        super().__init__(reason, error)


class _MissingImageError(Exception):
    """There is no such file. How many more are missing is counted where the whole source is at hand."""

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.where = where
        super().__init__(name, where)


def import_source(source: Source, *, output: Path, options: ImportOptions, workers: int = 1, progress: Progress | None = None) -> ImportSummary:
    """Write the record file `output`, in pixels of the upright images.

    Args:
        source: what a reader opened.
        output: the JSONL to write; images from elsewhere go to `images/<stem>/` beside it.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor. With more than one a script needs `if __name__ == "__main__":`.
        progress: shows the loop.

    Raises:
        DataError: broken annotations, an image that is missing or of another size, an annotation that cannot be used, nothing left.
        OutputError: the output cannot be written.
        BackendError: a worker process was killed.
    """
    refuse_replacing(output, source.inputs)
    workers = choose_workers(workers, num_items=_MANY if source.num_images is None else source.num_images // _BATCH)
    summary = ImportSummary()
    with no_empty_folders(output.parent / "images"), closing(_lines(source, output, options, workers, summary, progress or NoProgress())) as lines:
        write_lines(output, lines)
    return summary


def _lines(source: Source, output: Path, options: ImportOptions, workers: int, summary: ImportSummary, progress: Progress) -> Generator[bytes]:
    """The images are in their place when the last line has been taken, and so before the record file is."""
    names = array("q")
    """Hashes of them, which take less memory."""
    with open_image_store(source.image_root, output) as store:
        with closing(_import_all(source, store, options, workers)) as parts:
            for part in progress.track(parts, "import", total=source.num_images, count=lambda part: part.num_read):
                add_counts(summary, part.summary)
                names.extend([hash(name) for name in part.names])
                yield part.lines
        summary.notes[_AGAIN] += len(names) - len(np.unique(np.array(names, dtype=np.int64)))
        summary.notes.update(source.notes)
        if not summary.num_images:
            raise DataError(f"no image is left: {summary.sentence()}", where=source.title, fix="check the path and the options")


@dataclass(frozen=True, slots=True)
class _Job:
    read: Callable[[Any], SourceImage]
    store: ImageStore
    """Its counts stay zero."""
    options: ImportOptions


@dataclass(slots=True)
class _Part:
    """What became of some images of the source."""

    num_read: int
    summary: ImportSummary
    lines: bytes
    names: list[str]
    """Of the images of the records."""


def _import_all(source: Source, store: ImageStore, options: ImportOptions, workers: int) -> Generator[_Part]:
    work = partial(_import_batch, _Job(source.read, store, options))
    try:
        with closing(map_in_order(work, in_batches(source.items(), size=_BATCH if workers > 1 else 1), workers=workers)) as parts:
            yield from parts
    except _MissingImageError as missing:
        raise _missing_images(missing, source, store) from missing


def _import_batch(job: _Job, items: Sequence[Any]) -> _Part:
    summary, store = ImportSummary(), copy(job.store)
    lines, names = list[bytes](), list[str]()
    for image in map(job.read, items):
        record = _to_record(image, store, job.options, summary) if job.options.takes(image.name) else None
        if record is not None:
            summary.num_images += 1
            summary.num_objects += len(record.objects)
            summary.num_empty_images += not record.objects
            summary.labels.update(item.desc for item in record.objects)
            lines.append(encode_record(record))
            names.append(record.image)
    summary.num_linked, summary.num_copied, summary.num_written = store.num_linked, store.num_copied, store.num_written
    return _Part(len(items), summary, b"".join(lines), names)


def _to_record(image: SourceImage, store: ImageStore, options: ImportOptions, summary: ImportSummary) -> Record | None:
    """None: the image is left out, and counted."""
    try:
        path, (width, height) = _find_image(image, store)
    except _BadImageError as bad:
        if not options.skip_bad_images:
            raise bad.error from bad
        summary.skipped_images[bad.reason] += 1
        return None
    except _MissingImageError:
        if not options.skip_bad_images:
            raise
        summary.skipped_images["missing"] += 1
        return None
    found = build_objects(image, width=width, height=height, options=options, summary=summary)
    objects = limit_objects(found, options, summary)
    if objects is None:
        if image.content is not None:
            store.discard(path)
        return None
    name = store.place(image.name, path)
    return Record("", name, width, height, objects, "pixel", metadata=image.metadata)


def _find_image(image: SourceImage, store: ImageStore) -> tuple[Path, tuple[int, int]]:
    """The file and its size (width, height)."""
    if any(character < " " for character in image.name):
        what = f"{image.name!r} holds a control character"
        raise _BadImageError("bad name", DataError(what, where=image.where, fix="correct the name of the image"))
    if image.content is not None:
        path = store.write(image.name, image.content, where=image.where)
    else:
        found = store.find(image.name, where=image.where)
        if found is None:
            raise _MissingImageError(image.name, image.where)
        path = found
    try:
        size = read_image_size(path, where=image.where)
    except DataError as error:
        raise _BadImageError("unreadable", error) from error
    if image.width is not None and image.height is not None:
        try:
            refuse_other_size(path, size, (image.width, image.height), where=image.where)
        except DataError as error:
            raise _BadImageError("another size", error) from error
    return path, size


def _missing_images(missing: _MissingImageError, source: Source, store: ImageStore) -> DataError:
    """Says how many there are: one is a gap, all of them are the wrong folder."""
    names = [other.name for other in source.images()]
    num_missing = sum(store.find(name, where=missing.where) is None for name in names)
    what = f"{num_missing} of {len(names)} images are missing in {source.image_root}, first {missing.name}"
    return DataError(what, where=missing.where, fix=_FIND_IMAGES)
