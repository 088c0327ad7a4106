"""Several record files to one. Images that lie in the folder of the new file stay there; others are linked into it, so that every path leads somewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordexp.data.image_files import ImageStore, no_empty_folders, open_image_store
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.paths import refuse_replacing
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, Record


@dataclass(slots=True)
class MergeSummary:
    """What a merge did, in counts."""

    records: Counter[str] = field(default_factory=Counter[str])
    """By data set."""
    num_objects: int = 0
    spaces: Counter[str] = field(default_factory=Counter[str])
    """Records by coordinate space."""
    num_linked: int = 0
    num_copied: int = 0

    def sentence(self) -> str:
        """The counts as one phrase."""
        parts = " + ".join(f"{count} {name}" for name, count in self.records.items())
        extras = [(self.num_linked, "images linked"), (self.num_copied, "images copied")]
        return ", ".join([f"{self.records.total()} records ({parts}), {self.num_objects} objects", *(f"{count} {what}" for count, what in extras if count)])


def merge_files(sources: Mapping[str, Path], output: Path, *, coord_space: CoordSpace | None = None, progress: Progress | None = None) -> MergeSummary:
    """Write all records of `sources`, one file after the other; the metadata of each says its data set (`dataset`), unless it says so already.

    Args:
        sources: name of a data set → its record file.
        output: the record file to write; images from elsewhere go to `images/<stem>/<name>/` beside it.
        coord_space: space of records that do not name theirs.
        progress: shows the loop.

    Raises:
        DataError: a broken record, a missing image, files in pixels and in bins, which no training would take together.
        OutputError: the output cannot be written.
    """
    refuse_replacing(output, sources.values())
    for name in sources:
        if not name or "/" in name or name in (".", ".."):
            raise DataError(f"{name!r} cannot be the name of a folder", where="merge", fix="write NAME=FILE")
    summary = MergeSummary()
    with (
        no_empty_folders(output.parent / "images" / output.stem),
        closing(_records(sources, output, coord_space, summary, progress or NoProgress())) as records,
    ):
        write_records(output, records)
    return summary


def _records(sources: Mapping[str, Path], output: Path, coord_space: CoordSpace | None, summary: MergeSummary, progress: Progress) -> Generator[Record]:
    with ExitStack() as stack:
        stores = {name: stack.enter_context(open_image_store(source.parent, output, below=name)) for name, source in sources.items()}
        for name, source in sources.items():
            for record in progress.track(iter_records(source, coord_space=coord_space), f"merge {name}"):
                yield _adopt(record, stores[name], name, source, summary)
        summary.num_linked = sum(store.num_linked for store in stores.values())
        summary.num_copied = sum(store.num_copied for store in stores.values())


def _adopt(record: Record, store: ImageStore, name: str, source: Path, summary: MergeSummary) -> Record:
    where = f"{source}:{record.id.rpartition(':')[2]}"
    path = store.find(record.image, where=where)
    if path is None:
        raise DataError(f"the image {source.parent / record.image} does not exist", where=where, fix="check that the images lie there")
    summary.spaces["pixel" if record.coord_space == "pixel" else "bins"] += 1
    if len(summary.spaces) > 1:
        what = "records in pixels and records in bins would be in one file"
        raise DataError(what, where=where, fix="convert one of the files with 'coordexp data coord'")
    summary.records[name] += 1
    summary.num_objects += len(record.objects)
    return replace(record, image=store.place(record.image, path), metadata={"dataset": name, **record.metadata})
