"""Filter a record file: images with too many or too few objects, of another geometry, of one label only, or that another image resembles.

What is kept keeps its order. Every record that goes is written, with its reason, to `<output>.dropped.jsonl` beside the output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec

from coordexp.data.convert import split_suffix
from coordexp.data.importers.build import keep_largest
from coordexp.data.importers.options import OverLimit
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.near_duplicates import MAX_DISTANCE, Fingerprint, NearDuplicates, fingerprint
from coordexp.data.parallel import choose_workers, map_in_order
from coordexp.data.paths import refuse_other_folder, refuse_replacing, resolve_image
from coordexp.types.errors import DataError
from coordexp.types.files import atomic_writer
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, GeometryKind, Record


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """Example: `FilterSettings(kind="bbox_2d", max_objects=60).suffix == ".bbox_only.max60"`"""

    kind: GeometryKind | None = None
    """Drop images that hold another geometry."""
    min_objects: int = 0
    max_objects: int | None = None
    over_limit: OverLimit = "drop"
    """Of an image with more: drop it, keep its largest objects, or its first ones."""
    max_label_share: float | None = None
    """Drop images whose most frequent label has a larger share of the objects: little can be learned from the ninth tenth of one crowd."""
    share_from: int = 10
    """Fewest objects of an image for that rule."""
    duplicates: int | None = None
    """Drop images that resemble an earlier one: most different bits of the perceptual hash. 0 finds copies, 4 also recompressed and resized ones."""
    against: tuple[Path, ...] = ()
    """Record files whose images count as earlier: the validation set, so that training never sees it."""

    def __post_init__(self) -> None:
        """Raises DataError: a value that filters nothing or everything."""
        if self.duplicates is not None and not 0 <= self.duplicates <= MAX_DISTANCE:
            raise DataError(f"{self.duplicates} is not within 0..{MAX_DISTANCE}", where="duplicates", fix="use 0 for copies, 4 for near duplicates")
        if self.max_label_share is not None and not 0 < self.max_label_share < 1:
            raise DataError(f"{self.max_label_share} is not between 0 and 1", where="max_label_share", fix="give a share such as 0.9")
        if self.against and self.duplicates is None:
            raise DataError("other files are given, but duplicates are not looked for", where="against", fix="give duplicates too")
        if not self.suffix:
            raise DataError("nothing is to be filtered", where="filter", fix="give at least one rule")

    @property
    def suffix(self) -> str:
        """Of the output's name."""
        parts = [
            "" if self.kind is None else {"bbox_2d": "bbox_only", "poly": "poly_only"}[self.kind],
            f"min{self.min_objects}" if self.min_objects else "",
            "" if self.max_objects is None else f"max{self.max_objects}",
            "" if self.max_label_share is None else "diverse",
            "" if self.duplicates is None else "unique",
        ]
        return "".join(f".{part}" for part in parts if part)


@dataclass(slots=True)
class FilterSummary:
    """What a filter did, in counts."""

    output: Path
    num_records: int = 0
    """Kept."""
    num_objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Records by reason."""
    num_cut: int = 0
    """Records that lost objects to the limit."""
    num_cut_objects: int = 0
    """The objects that they lost."""

    def sentence(self) -> str:
        """The counts as one phrase."""
        gone = [f"{count} dropped as {reason}" for reason, count in sorted(self.dropped.items())]
        cut = [f"{self.num_cut} cut to the limit of objects ({self.num_cut_objects} objects left out)"] if self.num_cut else []
        return ", ".join([f"{self.num_records} records kept, {self.num_objects} objects", *gone, *cut])


def filtered_path(source: Path, settings: FilterSettings) -> Path:
    """Example: `val.coord.jsonl` becomes `val.bbox_only.max60.coord.jsonl`."""
    stem, suffix = split_suffix(source)
    return source.with_name(f"{stem}{settings.suffix}{suffix}.jsonl")


def dropped_path(output: Path) -> Path:
    """The list of what went."""
    return output.with_suffix(".dropped.jsonl")


def filter_file(
    source: Path,
    settings: FilterSettings,
    *,
    output: Path | None = None,
    coord_space: CoordSpace | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> FilterSummary:
    """Write the records of `source` that pass, to a file in the same folder, since image paths are relative to it.

    Args:
        source: a record file.
        settings: the rules.
        output: file to write; `filtered_path` by default.
        coord_space: space of records that do not name theirs.
        workers: processes that look at images for duplicates; 0: one a processor.
        progress: shows the loops.

    Raises:
        DataError: a broken record, a missing image, an output elsewhere or on top of the source, nothing left.
        OutputError: the output cannot be written.
    """
    target = output or filtered_path(source, settings)
    refuse_other_folder(source, target)
    refuse_replacing(target, settings.against)
    progress = progress or NoProgress()
    summary = FilterSummary(target)
    index = None if settings.duplicates is None else NearDuplicates(distance=settings.duplicates)
    for path in settings.against:
        assert index is not None
        for record, mark in _with_marks(path, coord_space, workers, progress):
            index.add(mark, f"{path.name}: {record.image}")
    rows = (
        ((record, None) for record in iter_records(source, coord_space=coord_space)) if index is None else _with_marks(source, coord_space, workers, progress)
    )
    with atomic_writer(dropped_path(target)) as stream:
        write_records(target, _kept(progress.track(rows, "filter"), settings, index, summary, stream))
    return summary


def _kept(
    rows: Iterator[tuple[Record, Fingerprint | None]], settings: FilterSettings, index: NearDuplicates | None, summary: FilterSummary, dropped: IO[str]
) -> Iterator[Record]:
    for record, mark in rows:
        problem = _judge(record, settings) or (_twin(mark, index) if index is not None and mark is not None else None)
        if problem is not None:
            reason, what = problem
            summary.dropped[reason] += 1
            dropped.write(msgspec.json.encode({"record": record.id, "images": [record.image], "reason": reason, "what": what}).decode() + "\n")
            continue
        if index is not None and mark is not None:
            index.add(mark, record.image)
        kept = _cut(record, settings)
        summary.num_cut += kept is not record
        summary.num_cut_objects += len(record.objects) - len(kept.objects)
        summary.num_records += 1
        summary.num_objects += len(kept.objects)
        yield kept
    if not summary.num_records:
        raise DataError(f"no record is left: {summary.sentence()}", where=str(summary.output), fix="loosen the rules")


def _judge(record: Record, settings: FilterSettings) -> tuple[str, str] | None:
    """A reason to count by and its details; None: the record passes."""
    num = len(record.objects)
    odd = next((item.kind for item in record.objects if settings.kind is not None and item.kind != settings.kind), None)
    if odd is not None:
        return "another geometry", f"holds a {odd}"
    if num < settings.min_objects:
        return "too few objects", f"{num} objects"
    if settings.max_objects is not None and num > settings.max_objects and settings.over_limit == "drop":
        return "too many objects", f"{num} objects"
    if settings.max_label_share is not None and num >= settings.share_from:
        label, count = Counter(item.desc for item in record.objects).most_common(1)[0]
        if count / num > settings.max_label_share:
            return "low diversity", f"{count} of {num} objects are {label!r}"
    return None


def _twin(mark: Fingerprint, index: NearDuplicates) -> tuple[str, str] | None:
    found = index.find(mark)
    return None if found is None else ("near duplicate", f"resembles {found}")


def _cut(record: Record, settings: FilterSettings) -> Record:
    limit = settings.max_objects
    if limit is None or len(record.objects) <= limit:
        return record
    return replace(record, objects=record.objects[:limit] if settings.over_limit == "first" else keep_largest(record.objects, limit))


def _with_marks(path: Path, coord_space: CoordSpace | None, workers: int, progress: Progress) -> Iterator[tuple[Record, Fingerprint]]:
    """Records with the fingerprint of their image."""
    num = sum(1 for _ in iter_records(path, coord_space=coord_space))
    files = (resolve_image(path.parent, record.image, where=f"{path}:{record.id.rpartition(':')[2]}") for record in iter_records(path, coord_space=coord_space))
    marks = map_in_order(fingerprint, files, workers=choose_workers(workers, num_items=num))
    return zip(iter_records(path, coord_space=coord_space), progress.track(marks, f"look at {path.name}", total=num), strict=True)
