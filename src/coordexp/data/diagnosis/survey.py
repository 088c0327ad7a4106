"""One pass over a record file for the doctor: boxes as columns, also those that break a rule, since how they break it is the evidence."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from coordexp.data.diagnosis.findings import MAX_PLACES
from coordexp.data.jsonl import is_blank, open_records, strip_mark
from coordexp.data.rules import COORD_SPACES, RecordReader, Rule, Violation
from coordexp.geometry.bins import MAX_BIN
from coordexp.types.lines import iter_file_lines
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, Record

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_decode = msgspec.json.Decoder().decode
_BINS = {f"<|coord_{k}|>": k for k in range(MAX_BIN + 1)}
_FARTHEST = 1e9
UNKNOWN = -1
"""Space of records whose plain integers could be either."""


@dataclass(frozen=True, slots=True)
class SurveyRecord:
    """One record of the file; an image as far as the file says."""

    line: int
    image: str
    width: int
    height: int
    space: int
    """Position in `COORD_SPACES`, or `UNKNOWN`."""
    first: int
    """Its boxes are rows `first` to `end` of the columns."""
    end: int
    is_valid: bool
    """It breaks no rule."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects as columns; of a polygon its box."""

    values: FloatArray
    """[n, 4] as written: pixels or bins."""
    record: IntArray
    """[n] position in `Survey.records`."""
    index: IntArray
    """[n] position in the record."""
    label: IntArray
    """[n] position in `Survey.labels`."""
    is_box: BoolArray
    """[n] a bbox_2d, not the box of a polygon."""
    width: FloatArray
    """[n] of the image."""
    height: FloatArray
    space: IntArray
    """[n] see `SurveyRecord.space`."""

    def __len__(self) -> int:
        return len(self.record)

    @property
    def is_pixel(self) -> BoolArray:
        return self.space == COORD_SPACES.index("pixel")

    @property
    def is_bins(self) -> BoolArray:
        return self.space > COORD_SPACES.index("pixel")

    def normalized(self) -> FloatArray:
        """[n, 4] in shares of the image, whatever the space; meaningless where it is unknown."""
        return self.normalized_rows(slice(None))

    def normalized_rows(self, rows: slice | IntArray) -> FloatArray:
        """`normalized` of some rows."""
        width, height, values = self.width[rows], self.height[rows], self.values[rows]
        spans = np.maximum(1, np.stack([width, height, width, height], axis=1) - 1)
        return np.where((self.space[rows] == COORD_SPACES.index("pixel"))[:, None], values / spans, values / MAX_BIN)

    def take(self, mask: BoolArray) -> Boxes:
        """The rows of a mask."""
        return Boxes(*(getattr(self, name)[mask] for name in self.__slots__))


@dataclass(slots=True)
class Survey:
    """What a file holds."""

    path: Path
    records: list[SurveyRecord] = field(default_factory=list[SurveyRecord])
    labels: list[str] = field(default_factory=list[str])
    boxes: Boxes = field(init=False)
    violations: dict[Rule, list[Violation]] = field(default_factory=dict[Rule, list[Violation]])
    """The first few of each rule."""
    num_violations: Counter[Rule] = field(default_factory=Counter[Rule])

    def line(self, row: int) -> int:
        """Line of a box."""
        return self.records[int(self.boxes.record[row])].line


def survey_file(path: Path, *, coord_space: CoordSpace | None = None, progress: Progress | None = None) -> Survey:
    """Read all of a record file; lines that break rules are counted and looked at as far as they can be.

    Raises:
        DataError: the file cannot be opened, or a line is too long for a record.
    """
    reader = _SurveyReader(path, coord_space)
    with open_records(path) as stream:
        for number, line in enumerate((progress or NoProgress()).track(iter_file_lines(stream, path), "read records"), start=1):
            if not is_blank(line, number=number):
                reader.read(strip_mark(line, number=number), number)
    return reader.finish()


class _SurveyReader:
    def __init__(self, path: Path, coord_space: CoordSpace | None) -> None:
        self._survey = Survey(path)
        self._given: CoordSpace | None = coord_space
        self._rules = RecordReader(path.stem, coord_space=coord_space)
        self._label_ids: dict[str, int] = {}
        self._values = array("d")
        self._columns: dict[str, array[int]] = {name: array("q") for name in ("record", "index", "label", "is_box")}

    def read(self, line: bytes, number: int) -> None:
        try:
            raw = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._rules.refuse_json(number, "the line is not JSON in UTF-8")
            self._note_violations()
            return
        record = self._rules.read(raw, line=number)
        if record is None:
            self._note_violations()
        if not isinstance(raw, dict):
            return
        first, fields = len(self._columns["record"]), cast("dict[str, Any]", raw)
        width, height = fields.get("width"), fields.get("height")
        if type(width) is not int or type(height) is not int or min(width, height) < 1:
            return
        space = self._space_of(record, fields)
        if record is not None:
            self._add_objects(record)
        else:
            self._add_raw(fields.get("objects"))
        images = fields.get("images")
        image = images[0] if isinstance(images, list) and images and isinstance(images[0], str) else ""
        end = len(self._columns["record"])
        self._survey.records.append(SurveyRecord(number, image, width, height, space, first, end, record is not None))

    def finish(self) -> Survey:
        survey, columns = self._survey, {name: np.array(column, dtype=np.int64) for name, column in self._columns.items()}
        survey.labels = list(self._label_ids)
        sides = np.array([(record.width, record.height, record.space) for record in survey.records], dtype=np.int64).reshape(-1, 3)[columns["record"]]
        survey.boxes = Boxes(
            values=np.array(self._values, dtype=np.float64).reshape(-1, 4),
            record=columns["record"],
            index=columns["index"],
            label=columns["label"],
            is_box=columns["is_box"].astype(bool),
            width=sides[:, 0].astype(np.float64),
            height=sides[:, 1].astype(np.float64),
            space=sides[:, 2],
        )
        return survey

    def _note_violations(self) -> None:
        for violation in self._rules.violations:
            self._survey.num_violations[violation.rule] += 1
            kept = self._survey.violations.setdefault(violation.rule, [])
            if len(kept) < MAX_PLACES:
                kept.append(violation)

    def _space_of(self, record: Record | None, fields: dict[str, Any]) -> int:
        given = record.coord_space if record is not None else fields.get("coord_space") or self._given
        return COORD_SPACES.index(given) if given in COORD_SPACES else UNKNOWN

    def _add_objects(self, record: Record) -> None:
        for index, item in enumerate(record.objects):
            self._add(index, item.desc, item.points, is_box=item.kind == "bbox_2d")

    def _add_raw(self, objects: object) -> None:
        """What can be made out of objects of a record that breaks rules."""
        for index, item in enumerate(objects if isinstance(objects, list) else ()):
            if isinstance(item, dict):
                kind = "bbox_2d" if "bbox_2d" in item else "poly"
                points = _as_numbers(item.get(kind))
                if points and (len(points) == 4 if kind == "bbox_2d" else len(points) >= 6 and len(points) % 2 == 0):
                    desc = item.get("desc")
                    self._add(index, desc if isinstance(desc, str) else "", points, is_box=kind == "bbox_2d")

    def _add(self, index: int, desc: str, points: Sequence[float], *, is_box: bool) -> None:
        xs, ys = points[0::2], points[1::2]
        self._values.extend(points if is_box else (min(xs), min(ys), max(xs), max(ys)))
        columns = self._columns
        columns["record"].append(len(self._survey.records))
        columns["index"].append(index)
        columns["label"].append(self._label_ids.setdefault(desc, len(self._label_ids)))
        columns["is_box"].append(is_box)


def _as_numbers(values: object) -> list[float] | None:
    """Pixels or bins as numbers; None when one of them is neither."""
    found: list[float] = []
    for value in cast("list[Any]", values) if isinstance(values, list) else ():
        number: Any = _BINS.get(value) if isinstance(value, str) else value
        if type(number) not in (int, float) or abs(number) > _FARTHEST:
            return None
        found.append(number)
    return found
