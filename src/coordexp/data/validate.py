"""Validation of a record file: everything that is wrong, by line and object, with a summary by rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coordexp.data.chunks import Chunk, map_chunks
from coordexp.data.image_files import check_image_size
from coordexp.data.paths import resolve_image
from coordexp.data.rules import Notes, RecordReader, Rule, Violation
from coordexp.data.tally import add_counts
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, Record

_OBJECT = re.compile(r"objects\[(\d+)\]")


@dataclass(slots=True)
class ValidationReport:
    """What a validation found."""

    path: Path
    violations: list[Violation] = field(default_factory=list[Violation])
    """In the order of the file; the first ones, when a most was given."""
    by_rule: Counter[Rule] = field(default_factory=Counter[Rule])
    """All errors, by the rule that is broken."""
    num_records: int = 0
    """Lines that are not blank, broken ones included."""
    num_objects: int = 0
    """In records without an error."""
    num_empty: int = 0
    """Records without objects."""
    spaces: Counter[str] = field(default_factory=Counter[str])
    """Records without an error, by coordinate space."""
    notes: Notes = field(default_factory=Notes)

    @property
    def is_valid(self) -> bool:
        return not self.by_rule

    @property
    def num_errors(self) -> int:
        return self.by_rule.total()

    @property
    def counts(self) -> dict[str, int]:
        """Errors by rule, most frequent first."""
        return {rule.value: count for rule, count in self.by_rule.most_common()}

    def refuse(self, violations: Sequence[Violation], *, most: int | None = None) -> None:
        """Count errors; those beyond `most` are counted only."""
        self.by_rule.update(violation.rule for violation in violations)
        self._keep(violations, most)

    def add(self, other: ValidationReport, *, most: int | None = None) -> None:
        """Count what the next part of the file held."""
        add_counts(self, other)
        self._keep(other.violations, most)

    def _keep(self, violations: Sequence[Violation], most: int | None) -> None:
        self.violations += violations if most is None else violations[: max(0, most - len(self.violations))]

    def summary(self) -> str:
        """One sentence with numbers."""
        spaces = ", ".join(f"{count} in {space}" for space, count in sorted(self.spaces.items()))
        head = f"{self.path}: {self.num_records} records{f' ({spaces})' if spaces else ''}, {self.num_objects} objects, {self.num_empty} without objects"
        if self.is_valid:
            return f"{head}, no errors"
        return f"{head}, {self.num_errors} errors ({', '.join(f'{rule}: {count}' for rule, count in self.counts.items())})"

    def remarks(self) -> list[str]:
        """Sentences on what is allowed and still worth knowing."""
        remarks: list[str] = []
        if self.notes.num_beyond_border:
            remarks.append(f"{self.notes.num_beyond_border} values lie beyond the border of their image and will be clamped by conversion")
        if self.notes.ignored_keys:
            keys = ", ".join(f"{key} ({count})" for key, count in self.notes.ignored_keys.most_common())
            remarks.append(f"keys that are not part of the format are ignored: {keys}")
        if len(self.spaces.keys() - {"token"}) > 1:
            remarks.append("the file mixes pixel and norm1000 records")
        return remarks

    def to_json(self) -> dict[str, Any]:
        """Machine-readable form."""
        return {
            "path": str(self.path),
            "is_valid": self.is_valid,
            "num_records": self.num_records,
            "num_objects": self.num_objects,
            "num_empty": self.num_empty,
            "coord_spaces": dict(self.spaces),
            "num_beyond_border": self.notes.num_beyond_border,
            "ignored_keys": dict(self.notes.ignored_keys),
            "num_errors": self.num_errors,
            "errors_by_rule": self.counts,
            "errors": [_error_to_json(item) for item in self.violations],
        }


def _error_to_json(item: Violation) -> dict[str, Any]:
    index = _OBJECT.match(item.field)
    return {
        "line": item.line,
        "object": int(index[1]) if index else None,
        "field": item.field,
        "rule": item.rule.value,
        "what": item.what,
        "fix": item.fix,
    }


def validate_file(
    path: Path,
    *,
    coord_space: CoordSpace | None = None,
    check_images: bool = False,
    max_errors: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ValidationReport:
    """Check every line of a record file. Memory does not grow with the file, but for the errors that are kept.

    Args:
        path: a JSONL file.
        coord_space: space of records that do not name theirs.
        check_images: also open the header of every image: it exists inside the folder and has the record's size, EXIF rotation applied.
        max_errors: keep the first so many errors, and count the others; None keeps all.
        workers: processes, with the same report for every number; 0: one a processor. With more than one a script needs `if __name__ == "__main__":`.
        progress: shows the loop.

    Raises:
        DataError: the file cannot be opened.
        BackendError: a worker process was killed.
    """
    work = partial(_check_chunk, _Check(path, coord_space, check_images, max_errors))
    report = ValidationReport(path)
    with closing(map_chunks(work, path, workers=workers)) as parts:
        for part in (progress or NoProgress()).track(parts, "validate", count=lambda part: part.num_records):
            report.add(part, most=max_errors)
    if not report.num_records:
        report.refuse([Violation(1, "", Rule.NO_RECORDS, "the file holds no record")])
    return report


@dataclass(frozen=True, slots=True)
class _Check:
    path: Path
    coord_space: CoordSpace | None
    check_images: bool
    most: int | None


def _check_chunk(job: _Check, chunk: Chunk) -> ValidationReport:
    report = ValidationReport(job.path)
    reader = RecordReader(job.path.stem, coord_space=job.coord_space, notes=report.notes)
    for record in chunk.scan(reader):
        report.num_records += 1
        if record is None:
            report.refuse(reader.violations, most=job.most)
            continue
        report.num_objects += len(record.objects)
        report.num_empty += not record.objects
        report.spaces[record.coord_space] += 1
        if job.check_images:
            report.refuse(_check_image(job.path, record, line=reader.line), most=job.most)
    return report


def describe_violation(path: Path, violation: Violation) -> str:
    """Example: `train.jsonl:412: objects[3].bbox_2d: x2=120 < x1=180`"""
    where = f"{path}:{violation.line}" + (f": {violation.field}" if violation.field else "")
    return str(DataError(violation.what, where=where, fix=violation.fix))


def _check_image(path: Path, record: Record, *, line: int) -> list[Violation]:
    where = f"{path}:{line}"
    try:
        check_image_size(resolve_image(path.parent, record.image, where=where), width=record.width, height=record.height, where=where)
    except DataError as error:
        return [Violation(line, "images[0]", Rule.IMAGE_FILE, error.what, error.fix)]
    return []
