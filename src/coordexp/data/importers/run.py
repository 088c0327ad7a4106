"""An opened source to a pixel record file, image by image: memory does not grow with the number of images. On an error nothing is left behind."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from coordexp.data.image_files import ImageStore, no_empty_folders, open_image_store, refuse_other_size
from coordexp.data.images import read_image_size
from coordexp.data.importers.build import build_objects, limit_objects
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.source import Source, SourceImage
from coordexp.data.jsonl import write_records
from coordexp.data.paths import refuse_replacing
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import Record

_AGAIN = "records about an image that an earlier record is about"
_FIND_IMAGES = "check that this is the folder that the file names are relative to, or leave such images out with --skip-bad-images"


class _BadImageError(Exception):
    """An image that cannot be used: a word to count by, and the error to raise; None: it is missing."""

    def __init__(self, reason: str, error: DataError | None = None) -> None:
        self.reason = reason
        self.error = error
        super().__init__(reason, error)


def import_source(source: Source, *, output: Path, options: ImportOptions, progress: Progress | None = None) -> ImportSummary:
    """Write the record file `output`, in pixels of the upright images.

    Args:
        source: what a reader opened.
        output: the JSONL to write; images from elsewhere go to `images/<stem>/` beside it.
        options: what to take.
        progress: shows the loop.

    Raises:
        DataError: broken annotations, an image that is missing or of another size, an annotation that cannot be used, nothing left.
        OutputError: the output cannot be written.
    """
    refuse_replacing(output, source.inputs)
    summary = ImportSummary()
    with no_empty_folders(output.parent / "images"), closing(_records(source, output, options, summary, progress or NoProgress())) as records:
        write_records(output, records)
    return summary


def _records(source: Source, output: Path, options: ImportOptions, summary: ImportSummary, progress: Progress) -> Generator[Record]:
    """The images are in their place when the last record has been taken, and so before the record file is."""
    seen: set[int] = set()
    """Hashes of names, which take less memory than the names."""
    with open_image_store(source.image_root, output) as store:
        for image in progress.track(source.images(), "import", total=source.num_images):
            if not options.takes(image.name):
                continue
            record = _to_record(image, source, store, options, summary)
            if record is not None:
                summary.num_images += 1
                summary.num_objects += len(record.objects)
                summary.num_empty_images += not record.objects
                summary.labels.update(item.desc for item in record.objects)
                summary.notes[_AGAIN] += hash(record.image) in seen
                seen.add(hash(record.image))
                yield record
        summary.num_linked, summary.num_copied, summary.num_written = store.num_linked, store.num_copied, store.num_written
        summary.notes.update(source.notes)
        if not summary.num_images:
            raise DataError(f"no image is left: {summary.sentence()}", where=source.title, fix="check the path and the options")


def _to_record(image: SourceImage, source: Source, store: ImageStore, options: ImportOptions, summary: ImportSummary) -> Record | None:
    """None: the image is left out, and counted."""
    try:
        path, (width, height) = _find_image(image, store)
    except _BadImageError as bad:
        if not options.skip_bad_images:
            raise (bad.error or _missing_images(image, source, store)) from bad
        summary.skipped_images[bad.reason] += 1
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
            raise _BadImageError("missing")
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


def _missing_images(image: SourceImage, source: Source, store: ImageStore) -> DataError:
    """Says how many there are: one is a gap, all of them are the wrong folder."""
    names = [other.name for other in source.images()]
    num_missing = sum(store.find(name, where=image.where) is None for name in names)
    what = f"{num_missing} of {len(names)} images are missing in {source.image_root}, first {image.name}"
    return DataError(what, where=image.where, fix=_FIND_IMAGES)
