"""Coordinate conversion of records and files: pixel ↔ norm1000 ↔ token. `token` and `norm1000` hold the same bins and differ only in spelling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from coordexp.data.chunks import Chunk, map_chunks
from coordexp.data.jsonl import as_error, encode_record, write_lines
from coordexp.data.paths import refuse_other_folder
from coordexp.data.rules import Notes, RecordReader
from coordexp.data.tally import add_counts
from coordexp.geometry.bins import Rounding, bins_to_pixels, count_beyond_border, pixels_to_bins
from coordexp.geometry.polygons import canonical_ring
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, DetObject, Record

_SUFFIXES: dict[CoordSpace, str] = {"token": ".coord", "norm1000": ".norm1000", "pixel": ".pixel"}


@dataclass(slots=True)
class ConvertSummary:
    """What a conversion did, in counts."""

    output: Path
    num_records: int = 0
    num_objects: int = 0
    num_clamped: int = 0
    """Values beyond the border, clamped to it."""
    num_reordered: int = 0
    """Records whose polygons were put in canonical order, when that was asked for."""
    notes: Notes = field(default_factory=Notes)

    def sentence(self) -> str:
        """The counts as one phrase."""
        counts = [(self.num_clamped, "values clamped to the border"), (self.num_reordered, "records with polygons put in canonical order")]
        ignored = [(count, f"times the key {key} was not carried over") for key, count in self.notes.ignored_keys.most_common()]
        return ", ".join([f"{self.num_records} records, {self.num_objects} objects", *(f"{count} {what}" for count, what in counts + ignored if count)])


def to_norm1000(record: Record, *, rounding: Rounding = "nearest") -> Record:
    """The record in bins. Values beyond the border are clamped (`count_clamped`); polygons are put in canonical order again, which rounding can disturb."""
    if record.coord_space != "pixel":
        return replace(record, coord_space="norm1000")
    objects = tuple([_quantize(item, width=record.width, height=record.height, rounding=rounding) for item in record.objects])
    return replace(record, objects=objects, coord_space="norm1000")


def to_tokens(record: Record, *, rounding: Rounding = "nearest") -> Record:
    """As `to_norm1000`, spelled as coordinate tokens in a file."""
    return replace(to_norm1000(record, rounding=rounding), coord_space="token")


def to_pixels(record: Record) -> Record:
    """The record in unrounded pixels of its own width and height."""
    if record.coord_space == "pixel":
        return record
    objects = tuple([replace(item, points=bins_to_pixels(item.points, width=record.width, height=record.height)) for item in record.objects])
    return replace(record, objects=objects, coord_space="pixel")


def to_space(record: Record, space: CoordSpace, *, rounding: Rounding = "nearest") -> Record:
    """The record in the given space."""
    if space == "pixel":
        return to_pixels(record)
    return replace(to_norm1000(record, rounding=rounding), coord_space=space)


def converted_path(source: Path, space: CoordSpace) -> Path:
    """Example: `converted_path(Path("a/train.jsonl"), "token") == Path("a/train.coord.jsonl")`"""
    return source.with_name(f"{split_suffix(source)[0]}{_SUFFIXES[space]}.jsonl")


def split_suffix(path: Path) -> tuple[str, str]:
    """Example: `split_suffix(Path("a/val.max60.coord.jsonl")) == ("val.max60", ".coord")`"""
    stem = path.stem
    suffix = next((suffix for suffix in _SUFFIXES.values() if stem.endswith(suffix)), "")
    return stem.removesuffix(suffix), suffix


def convert_file(
    source: Path,
    *,
    to: CoordSpace,
    output: Path | None = None,
    rounding: Rounding = "nearest",
    coord_space: CoordSpace | None = None,
    reorder: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Write the records of `source` in another space, to a file in the same folder, since image paths are relative to it.

    Args:
        source: a record file.
        to: the space to write.
        output: file to write; `converted_path` by default.
        rounding: of pixels to bins.
        coord_space: space of records that do not name theirs.
        reorder: put polygons in canonical order instead of refusing those that are not.
        workers: processes, with the same bytes for every number; 0: one a processor. With more than one a script needs `if __name__ == "__main__":`.
        progress: shows the loop.

    Raises:
        DataError: a broken record, or an output elsewhere or on top of the source.
        OutputError: the output cannot be written.
        BackendError: a worker process was killed.
    """
    target = output or converted_path(source, to)
    refuse_other_folder(source, target)
    work = partial(_convert_chunk, _Conversion(source, to, rounding, coord_space, reorder))
    summary = ConvertSummary(target)
    with closing(map_chunks(work, source, workers=workers)) as results:
        tracked = (progress or NoProgress()).track(results, "convert", count=lambda result: result[0].num_records)
        write_lines(target, _take_lines(tracked, summary))
    return summary


def _take_lines(results: Iterable[tuple[ConvertSummary, bytes]], summary: ConvertSummary) -> Iterator[bytes]:
    for part, lines in results:
        add_counts(summary, part)
        yield lines


@dataclass(frozen=True, slots=True)
class _Conversion:
    source: Path
    to: CoordSpace
    rounding: Rounding
    coord_space: CoordSpace | None
    reorder: bool


def _convert_chunk(job: _Conversion, chunk: Chunk) -> tuple[ConvertSummary, bytes]:
    summary = ConvertSummary(job.source)
    reader = RecordReader(job.source.stem, coord_space=job.coord_space, canonical_polygons=not job.reorder, notes=summary.notes)
    lines: list[bytes] = []
    for record in chunk.scan(reader):
        if record is None:
            raise as_error(job.source, reader.violations[0])
        ordered = reorder_polygons(record) if job.reorder else record
        summary.num_reordered += ordered is not record
        summary.num_records += 1
        summary.num_objects += len(record.objects)
        summary.num_clamped += 0 if job.to == "pixel" else count_clamped(record)
        lines.append(encode_record(to_space(ordered, job.to, rounding=job.rounding)))
    return summary, b"".join(lines)


def reorder_polygons(record: Record) -> Record:
    """The record with every polygon in canonical order; itself when all are."""
    objects = tuple([replace(item, points=canonical_ring(item.points)) if item.kind == "poly" else item for item in record.objects])
    return record if objects == record.objects else replace(record, objects=objects)


def count_clamped(record: Record) -> int:
    """Values of a pixel record that quantization clamps to the border."""
    if record.coord_space != "pixel":
        return 0
    return sum(count_beyond_border(item.points, width=record.width, height=record.height) for item in record.objects)


def _quantize(item: DetObject, *, width: int, height: int, rounding: Rounding) -> DetObject:
    bins = pixels_to_bins(item.points, kind=item.kind, width=width, height=height, rounding=rounding)
    return replace(item, points=canonical_ring(bins) if item.kind == "poly" else bins)
