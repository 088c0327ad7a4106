"""Reads `gt_vs_pred.jsonl` into columns.

Ground truth and predictions of one line stay together; one bad value costs that object or that image, counted, never the run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from coordexp.evaluation.columns import COUNTERS, EvaluationSet, ImageRow, InvalidObject, TableBuilder
from coordexp.evaluation.lines import iter_lines
from coordexp.evaluation.objects import COUNTER_OF, Frame, Reason, flat_points, read_object
from coordexp.types.progress import NoProgress, Progress

PixelMode: TypeAlias = Literal["int", "exact"]

_MAX_WARNINGS = 20


def ingest_file(path: Path, *, pixel_mode: PixelMode = "int", strict_parse: bool = False, progress: Progress | None = None) -> EvaluationSet:
    """Read an artifact of inference, line by line.

    Raises:
        DataError: the file cannot be read, or (`strict_parse`) a line is not a JSON object.
    """
    reader = RecordReader(pixel_mode=pixel_mode)
    lines = iter_lines(path, on_bad=None if strict_parse else reader.count_bad_line)
    for number, record in (progress or NoProgress()).track(lines, f"read {path.name}"):
        reader.add(record, line=number)
    return reader.build()


def ingest_records(records: Iterable[Mapping[str, Any]], *, pixel_mode: PixelMode = "int") -> EvaluationSet:
    """The same for records in memory, each with the keys of a line of the file."""
    reader = RecordReader(pixel_mode=pixel_mode)
    for record in records:
        reader.add(record, line=0)
    return reader.build()


class RecordReader:
    """Takes records one by one, keeps columns."""

    def __init__(self, *, pixel_mode: PixelMode) -> None:
        self._pixel_mode = pixel_mode
        self._num_read = 0
        self._images: list[ImageRow] = []
        self._gt = TableBuilder()
        self._pred = TableBuilder()
        self._descs: dict[str, int] = {}
        self._counters = Counter[str](dict.fromkeys(COUNTERS, 0))
        self._first_line: dict[str, int] = {}
        self._warnings: list[str] = []

    def count_bad_line(self, number: int) -> None:
        self._counters["invalid_json"] += 1

    def add(self, record: Mapping[str, Any], *, line: int) -> None:
        """One record. Without a usable size it is counted and left out, but keeps its image id."""
        image_id = self._num_read
        self._num_read += 1
        size = _read_size(record)
        if size is None:
            self._counters["missing_size"] += 1
            return
        width, height = size
        frame = Frame(width=width, height=height, is_bins=_is_bins(record), is_exact=self._pixel_mode == "exact")
        predictions = _first_list(record, "pred", "predictions")
        self._counters["empty_pred"] += not predictions
        errors = _read_errors(record)
        self._counters["size_mismatch"] += any(error.startswith("size_mismatch") for error in errors)
        name = self._read_name(record, image_id=image_id, line=line)
        invalid_gt = tuple(self._read_side(_first_list(record, "gt", "objects"), frame, self._gt, is_gt=True))
        invalid_pred = tuple(self._read_side(predictions, frame, self._pred, is_gt=False))
        reason = record.get("finish_reason")
        self._images.append(
            ImageRow(image_id, name, width, height, line, errors, invalid_gt, invalid_pred, reason if isinstance(reason, str) else None, _read_broken(record))
        )

    def build(self) -> EvaluationSet:
        return EvaluationSet(
            images=tuple(self._images),
            gt=self._gt.build(),
            pred=self._pred.build(),
            descs=tuple(self._descs),
            counters=dict(self._counters),
            warnings=tuple(self._warnings),
            pixel_mode=self._pixel_mode,
        )

    def _read_side(self, items: list[object], frame: Frame, table: TableBuilder, *, is_gt: bool) -> Iterator[InvalidObject]:
        """Adds the usable objects to the table and yields the others."""
        image, descs = len(self._images), self._descs
        for index, raw in enumerate(items):
            found = read_object(raw, frame, is_gt=is_gt)
            if isinstance(found, Reason):
                self._counters[COUNTER_OF[found]] += 1
                yield InvalidObject(reason=str(found), raw=_raw_to_keep(raw, found, is_gt=is_gt))
            else:
                desc = descs.setdefault(found.desc, len(descs))
                table.add(image=image, index=index, desc=desc, box=found.box, score=found.score, ring=found.ring)

    def _read_name(self, record: Mapping[str, Any], *, image_id: int, line: int) -> str:
        name = record.get("image")
        images = record.get("images")
        if isinstance(images, list) and images:
            paths = cast("list[object]", images)
            self._counters["multi_image_ignored"] += len(paths) > 1
            name = paths[0] if not isinstance(name, str) or not name else name
        if not isinstance(name, str) or not name:
            return f"image_{image_id}.jpg"
        first = self._first_line.setdefault(name, line)
        if first != line and len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(f"image {name!r} stands in line {first} and again in line {line}; both count")
        return name


def _first_list(record: Mapping[str, Any], *names: str) -> list[object]:
    """The first of the names that holds something; a value that is not a list becomes one unusable object."""
    for name in names:
        value = record.get(name)
        if value:
            return cast("list[object]", value) if isinstance(value, list) else [None]
    return []


def _read_size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    sides: list[int] = []
    for name in ("width", "height"):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            side = float(value)
        except (ValueError, OverflowError):
            return None
        if not math.isfinite(side) or side < 1:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def _is_bins(record: Mapping[str, Any]) -> bool:
    """Whether plain numbers are bins 0..999: `coord_mode` says so, or `coord_space` where `coord_mode` says nothing."""
    mode = record.get("coord_mode")
    if mode is None:
        return record.get("coord_space") in ("norm1000", "token")
    return mode == "norm1000"


def _read_errors(record: Mapping[str, Any]) -> tuple[str, ...]:
    errors = record.get("errors")
    if not isinstance(errors, list):
        return ()
    return tuple(str(error) for error in cast("list[object]", errors))


def _read_broken(record: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    broken = record.get("broken")
    if not isinstance(broken, dict):
        return ()
    return tuple((reason, number) for reason, number in cast("dict[str, object]", broken).items() if type(number) is int and number > 0)


def _raw_to_keep(raw: object, reason: Reason, *, is_gt: bool) -> object:
    """The object as the file has it; a degenerate ground truth in its short form, as the established evaluator reports it."""
    geometry = flat_points(raw) if is_gt and reason is Reason.DEGENERATE else None
    if geometry is None:
        return raw
    return {geometry[0]: geometry[1], "desc": cast("dict[str, object]", raw).get("desc", "")}
