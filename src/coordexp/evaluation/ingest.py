"""Reads `gt_vs_pred.jsonl` into columns.

Ground truth and predictions of one line stay together; one bad value costs that object or that image, counted, never the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from coordexp.evaluation.clean_records import CleanRecord, SideBuffer, convert_clean, decode_clean
from coordexp.evaluation.collector import no_collection
from coordexp.evaluation.columns import COUNTERS, EvaluationSet, ImageRow, InvalidObject, TableBuilder
from coordexp.evaluation.lines import bad_line, decode_line, iter_raw_lines
from coordexp.evaluation.objects import COUNTER_OF, MAX_SIDE, Frame, Reason, flat_points, read_object
from coordexp.types.progress import NoProgress, Progress

PixelMode: TypeAlias = Literal["int", "exact"]
Broken: TypeAlias = tuple[tuple[str, int], ...]

_MAX_WARNINGS = 20
_BATCH = 2_000
"""Objects that become pixels together: enough for numpy, few enough for a core's cache."""


def ingest_file(path: Path, *, pixel_mode: PixelMode = "int", strict_parse: bool = False, progress: Progress | None = None) -> EvaluationSet:
    """Read an artifact of inference, line by line.

    Raises:
        DataError: the file cannot be read, or (`strict_parse`) a line is not a JSON object.
    """
    reader = RecordReader(pixel_mode=pixel_mode)
    with no_collection():
        for number, line in (progress or NoProgress()).track(iter_raw_lines(path), f"read {path.name}"):
            if not reader.add_line(line, number=number) and strict_parse:
                raise bad_line(path, number, line)
        return reader.build()


def ingest_records(records: Iterable[Mapping[str, Any]], *, pixel_mode: PixelMode = "int") -> EvaluationSet:
    """The same for records in memory, each with the keys of a line of the file."""
    reader = RecordReader(pixel_mode=pixel_mode)
    for record in records:
        reader.add(record)
    return reader.build()


@dataclass(slots=True)
class _Waiting:
    """A clean record whose objects wait for their pixels."""

    place: int
    source: bytes | Mapping[str, Any]


class RecordReader:
    """Takes records one by one, keeps columns.

    Clean records wait until there are many, and become pixels together. If one of their objects turns out to be unusable, its record is read piece by piece.
    """

    def __init__(self, *, pixel_mode: PixelMode) -> None:
        self._pixel_mode = pixel_mode
        self._num_read = 0
        self._images: list[ImageRow] = []
        self._gt = TableBuilder()
        self._pred = TableBuilder()
        self._descs: dict[str, int] = {}
        self._code_of: dict[str, int] = {}
        self._counters = Counter[str](dict.fromkeys(COUNTERS, 0))
        self._first_line: dict[str, int] = {}
        self._warnings: list[str] = []
        self._start_batch()

    def add_line(self, line: bytes, *, number: int) -> bool:
        """One line. False when it is not a JSON object; it is then counted and left out."""
        clean = decode_clean(line)
        if clean is not None:
            self._add_clean(clean, line, number=number)
            return True
        record = decode_line(line)
        if record is None:
            self._counters["invalid_json"] += 1
            return False
        self._add(record, number=number)
        return True

    def add(self, record: Mapping[str, Any]) -> None:
        """One record in memory."""
        clean = convert_clean(record)
        if clean is None:
            self._add(record, number=0)
        else:
            self._add_clean(clean, record, number=0)

    def build(self) -> EvaluationSet:
        self._finish_batch()
        return EvaluationSet(
            images=tuple(self._images),
            gt=self._gt.build(),
            pred=self._pred.build(),
            descs=tuple(self._descs),
            counters=dict(self._counters),
            warnings=tuple(self._warnings),
            pixel_mode=self._pixel_mode,
        )

    def _add(self, record: Mapping[str, Any], *, number: int) -> None:
        """Without a usable size the record is counted and left out, but keeps its image id."""
        size = _read_size(record)
        if size is None:
            self._num_read += 1
            self._counters["missing_size"] += 1
            return
        reason = record.get("finish_reason")
        self._add_image(
            name=self._read_name(record, line=number),
            size=size,
            line=number,
            errors=_read_errors(record),
            finish_reason=reason if isinstance(reason, str) else None,
            broken=_read_broken(record),
            has_predictions=bool(_first_list(record, "pred", "predictions")),
        )
        self._read_objects(record, len(self._images) - 1)

    def _add_clean(self, record: CleanRecord, source: bytes | Mapping[str, Any], *, number: int) -> None:
        place, is_bins = len(self._images), _is_bins(record.coord_mode, record.coord_space)
        self._batch_gt.add(record.gt, image=place, is_bins=is_bins)
        self._batch_pred.add(record.pred, image=place, is_bins=is_bins)
        self._add_image(
            name=self._known_name(record.image, line=number),
            size=(record.width, record.height),
            line=number,
            errors=tuple(record.errors or ()),
            finish_reason=record.finish_reason,
            broken=tuple((reason, count) for reason, count in (record.broken or {}).items() if count > 0),
            has_predictions=bool(record.pred),
        )
        self._batch.append(_Waiting(place, source))
        if len(self._batch_gt) + len(self._batch_pred) >= _BATCH:
            self._finish_batch()

    def _add_image(
        self, *, name: str, size: tuple[int, int], line: int, errors: tuple[str, ...], finish_reason: str | None, broken: Broken, has_predictions: bool
    ) -> None:
        self._counters["empty_pred"] += not has_predictions
        self._counters["size_mismatch"] += any(error.startswith("size_mismatch") for error in errors)
        self._images.append(ImageRow(self._num_read, name, *size, line, errors, finish_reason=finish_reason, broken=broken))
        self._num_read += 1

    def _start_batch(self) -> None:
        is_exact = self._pixel_mode == "exact"
        self._batch: list[_Waiting] = []
        self._batch_gt, self._batch_pred = SideBuffer(is_gt=True, is_exact=is_exact), SideBuffer(is_gt=False, is_exact=is_exact)

    def _finish_batch(self) -> None:
        """Clean records that wait become rows, or are read piece by piece."""
        first = self._batch[0].place if self._batch else 0
        sizes = np.array([(image.width, image.height) for image in self._images[first:]], dtype=np.int64).reshape(-1, 2)
        gt, bad_gt = self._batch_gt.pixels(sizes, first_image=first, desc_of=self._desc_of)
        pred, bad_pred = self._batch_pred.pixels(sizes, first_image=first, desc_of=self._desc_of)
        bad: set[int] = {*bad_gt.tolist(), *bad_pred.tolist()}
        for table, builder in ((gt, self._gt), (pred, self._pred)):
            builder.extend(table.take(np.flatnonzero(~np.isin(table.image, list(bad)))) if bad else table)
        for waiting in self._batch:
            if waiting.place in bad:
                record = decode_line(waiting.source) if isinstance(waiting.source, bytes) else waiting.source
                assert record is not None  # it was read before
                self._read_objects(record, waiting.place)
        self._start_batch()

    def _read_objects(self, record: Mapping[str, Any], place: int) -> None:
        """Piece by piece: usable objects become rows, the others are kept with the image."""
        image = self._images[place]
        is_bins = _is_bins(record.get("coord_mode"), record.get("coord_space"))
        frame = Frame(width=image.width, height=image.height, is_bins=is_bins, is_exact=self._pixel_mode == "exact")
        invalid_gt = tuple(self._read_side(_first_list(record, "gt", "objects"), frame, self._gt, place, is_gt=True))
        invalid_pred = tuple(self._read_side(_first_list(record, "pred", "predictions"), frame, self._pred, place, is_gt=False))
        if invalid_gt or invalid_pred:
            self._images[place] = replace(image, invalid_gt=invalid_gt, invalid_pred=invalid_pred)

    def _read_side(self, items: list[object], frame: Frame, table: TableBuilder, image: int, *, is_gt: bool) -> Iterator[InvalidObject]:
        """Adds the usable objects to the table and yields the others."""
        for index, raw in enumerate(items):
            found = read_object(raw, frame, is_gt=is_gt)
            if isinstance(found, Reason):
                self._counters[COUNTER_OF[found]] += 1
                yield InvalidObject(reason=str(found), raw=_raw_to_keep(raw, found, is_gt=is_gt))
            else:
                table.add(image=image, index=index, desc=self._desc_of(found.desc), box=found.box, score=found.score, ring=found.ring)

    def _desc_of(self, text: str) -> int:
        """The number of a text, stripped; each spelling is stripped once."""
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = self._descs.setdefault(text.strip(), len(self._descs))
        return code

    def _read_name(self, record: Mapping[str, Any], *, line: int) -> str:
        name = record.get("image")
        images = record.get("images")
        if isinstance(images, list) and images:
            paths = cast("list[object]", images)
            self._counters["multi_image_ignored"] += len(paths) > 1
            name = paths[0] if not isinstance(name, str) or not name else name
        if not isinstance(name, str) or not name:
            return f"image_{self._num_read}.jpg"
        return self._known_name(name, line=line)

    def _known_name(self, name: str, *, line: int) -> str:
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
        if not 1 <= side <= MAX_SIDE:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def _is_bins(mode: object, space: object) -> bool:
    """Whether plain numbers are bins 0..999: `coord_mode` says so, or `coord_space` where `coord_mode` says nothing."""
    return space in ("norm1000", "token") if mode is None else mode == "norm1000"


def _read_errors(record: Mapping[str, Any]) -> tuple[str, ...]:
    errors = record.get("errors")
    if not isinstance(errors, list):
        return ()
    return tuple(str(error) for error in cast("list[object]", errors))


def _read_broken(record: Mapping[str, Any]) -> Broken:
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
