"""The rules of one record: a decoded JSON line in, a `Record` or the list of everything that is wrong with it out.

Nothing is repaired here: a geometry is taken as it stands or refused with a sentence that names line, object and field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, cast

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.data.paths import describe_bad_path
from coordexp.geometry.bins import MAX_BIN, count_beyond_border
from coordexp.geometry.polygons import is_canonical
from coordexp.types.records import CoordSpace, DetObject, GeometryKind, Record

COORD_SPACES: tuple[CoordSpace, ...] = ("pixel", "norm1000", "token")

_BINS = {token: k for k, token in enumerate(coord_tokens())}
_NUMBERS, _WHOLE_NUMBERS = frozenset({int, float}), frozenset({int})
_RECORD_KEYS = frozenset({"images", "objects", "width", "height", "summary", "coord_space", "metadata"})
_OBJECT_KEYS = frozenset({"desc", "bbox_2d", "poly", "poly_points"})
MAX_PIXEL = 1e9
"""Pixels: no image reaches so far, and what is much larger cannot be computed with."""
_BOX_FIX = "write a box as bbox_2d: [x1, y1, x2, y2]"
_POLY_FIX = "write a polygon as poly: [x1, y1, x2, y2, ...], one flat list"
REJECTED_KEYS = {
    "bbox": f"{_BOX_FIX} (COCO's bbox is x, y, width, height: run 'coordexp data import coco')",
    "box": _BOX_FIX,
    "bboxes": _BOX_FIX,
    "polygon": _POLY_FIX,
    "points": _POLY_FIX,
    "segmentation": f"{_POLY_FIX} (for COCO files run 'coordexp data import coco --geometry poly')",
    "line": f"lines are not supported; {_POLY_FIX} or {_BOX_FIX}",
    "line_points": f"lines are not supported; {_POLY_FIX} or {_BOX_FIX}",
}
"""Object keys that look like a geometry and are not one, with what to do."""


class Rule(StrEnum):
    """What a record can break. The values are public: the keys of the summary of `coordexp data validate`."""

    JSON = "json"
    IMAGES = "images"
    SIZE = "size"
    OBJECTS = "objects"
    TEXT = "text"
    COORD_SPACE = "coord_space"
    DESC = "desc"
    GEOMETRY = "geometry"
    REJECTED_KEY = "rejected_key"
    ARITY = "arity"
    VALUE = "value"
    TOKEN = "token"
    BOX_ORDER = "box_order"
    POLY_ORDER = "poly_order"
    POLY_POINTS = "poly_points"
    IMAGE_FILE = "image_file"
    NO_RECORDS = "no_records"


@dataclass(frozen=True, slots=True)
class Violation:
    """Example: `Violation(line=412, field="objects[3].bbox_2d", rule=Rule.BOX_ORDER, what="x2=120 < x1=180")`"""

    line: int
    """From 1."""
    field: str
    rule: Rule
    what: str
    fix: str | None = None


@dataclass(slots=True)
class Notes:
    """What is allowed and still worth knowing, counted while records are read."""

    num_beyond_border: int = 0
    """Pixel values outside [0, W-1] × [0, H-1]; quantization clamps them."""
    ignored_keys: Counter[str] = field(default_factory=Counter[str])
    """Keys that are not part of the format, as `score` or `objects[].score`; they are not carried on."""


class RecordReader:
    """Reads the decoded lines of one file; `violations` holds what is wrong with the line read last.

    Args:
        stem: file name without its suffix; begins the ids of the records.
        coord_space: space of records that do not name theirs; None refuses plain integers, since pixels and norm1000 look the same.
        dataset: name of the data set, carried by every record.
        canonical_polygons: refuse polygons whose vertices are not in canonical order.
        notes: receives what is allowed and still worth knowing.
    """

    def __init__(
        self, stem: str, *, coord_space: CoordSpace | None = None, dataset: str = "", canonical_polygons: bool = True, notes: Notes | None = None
    ) -> None:
        self._stem = stem
        self._coord_space: CoordSpace | None = coord_space
        self._dataset = dataset
        self._canonical_polygons = canonical_polygons
        self.line = 0
        """Number of the line read last."""
        self.violations: list[Violation] = []
        self._notes = notes

    def read(self, raw: object, *, line: int) -> Record | None:
        """The record, or None when `violations` is not empty."""
        self.line = line
        self.violations = []
        if not isinstance(raw, dict):
            self._refuse("", Rule.JSON, "the line is not a JSON object {...}")
            return None
        fields = cast(dict[str, Any], raw)
        if self._notes is not None:
            self._notes.ignored_keys.update(fields.keys() - _RECORD_KEYS)
        image = self._read_image(fields.get("images"))
        width, height = self._read_side(fields, "width"), self._read_side(fields, "height")
        summary, metadata = self._read_text(fields.get("summary")), self._read_metadata(fields.get("metadata"))
        items = self._read_objects(fields)
        space = self._read_space(fields, items)
        objects = tuple([self._build(i, item, space) for i, item in enumerate(items) if item is not None]) if space is not None else ()
        if self.violations:
            return None
        assert space is not None
        if self._notes is not None and space == "pixel":
            self._notes.num_beyond_border += sum(count_beyond_border(item.points, width=width, height=height) for item in objects)
        return Record(
            id=f"{self._stem}:{line}",
            image=image,
            width=width,
            height=height,
            objects=objects,
            coord_space=space,
            dataset=self._dataset,
            summary=summary,
            metadata=metadata,
        )

    def refuse_json(self, line: int, what: str) -> None:
        """The line could not be decoded."""
        self.line = line
        self.violations = [Violation(line, "", Rule.JSON, what)]

    def _refuse(self, place: str, rule: Rule, what: str, fix: str | None = None) -> None:
        self.violations.append(Violation(self.line, place, rule, what, fix))

    def _read_image(self, images: object) -> str:
        if not isinstance(images, list) or not images:
            self._refuse("images", Rule.IMAGES, "missing" if images is None else "not a list with one path", 'write "images": ["path/of/the/image.png"]')
            return ""
        paths = cast(list[Any], images)
        if len(paths) > 1:
            self._refuse("images", Rule.IMAGES, f"{len(paths)} images in one record", "write one record for each image")
            return ""
        path = paths[0]
        problem = describe_bad_path(path) if isinstance(path, str) else f"{_show(path)} is not a path"
        if problem is not None:
            self._refuse("images[0]", Rule.IMAGES, problem, "write image paths relative to the folder of the data file and keep the images inside it")
        return path

    def _read_side(self, fields: dict[str, Any], name: str) -> int:
        value = fields.get(name)
        if type(value) is int and value > 0:
            return value
        what = "missing" if name not in fields else f"{_show(value)} is not a whole number above 0"
        self._refuse(name, Rule.SIZE, what, f"write the {name} of the image in pixels")
        return 1

    def _read_text(self, summary: object) -> str | None:
        if summary is None or isinstance(summary, str):
            return summary
        self._refuse("summary", Rule.TEXT, f"{_show(summary)} is not a text")
        return None

    def _read_metadata(self, metadata: object) -> dict[str, Any]:
        if metadata is None:
            return {}
        if isinstance(metadata, dict):
            return cast(dict[str, Any], metadata)
        self._refuse("metadata", Rule.TEXT, f"{_show(metadata)} is not a JSON object {{...}}")
        return {}

    def _read_objects(self, fields: dict[str, Any]) -> list[_Item | None]:
        objects = fields.get("objects")
        if not isinstance(objects, list):
            what = "missing" if "objects" not in fields else f"{_show(objects)} is not a list"
            self._refuse("objects", Rule.OBJECTS, what, 'write "objects": [] for an image without objects')
            return []
        return [self._read_object(i, raw) for i, raw in enumerate(cast(list[Any], objects))]

    def _read_object(self, index: int, raw: object) -> _Item | None:
        if type(raw) is dict and len(raw) == 2:  # the usual object, first: files hold millions
            desc, values = raw.get("desc"), raw.get("bbox_2d")
            if type(values) is list and len(values) == 4 and type(desc) is str and desc and not desc.isspace():
                return _Item(desc, "bbox_2d", values)
        if not isinstance(raw, dict):
            self._refuse(f"objects[{index}]", Rule.OBJECTS, f"{_show(raw)} is not a JSON object {{...}}")
            return None
        fields = cast(dict[str, Any], raw)
        desc = fields.get("desc")
        if not isinstance(desc, str) or not desc.strip():
            what = "missing" if "desc" not in fields else "empty" if desc == "" else f"{_show(desc)} is not a text with visible characters"
            self._refuse(f"objects[{index}].desc", Rule.DESC, what, "write the name of the object")
        has_box, has_poly = "bbox_2d" in fields, "poly" in fields
        if len(fields) > 2 or not (has_box or has_poly):
            self._check_keys(index, fields)
        if has_box == has_poly:
            what = "both bbox_2d and poly" if has_box else "neither bbox_2d nor poly"
            # a rejected geometry key has said already what is wrong
            if has_box or not REJECTED_KEYS.keys() & fields.keys():
                self._refuse(f"objects[{index}]", Rule.GEOMETRY, what, "give each object exactly one geometry")
            return None
        kind: GeometryKind = "bbox_2d" if has_box else "poly"
        values = fields[kind]
        if not self._has_arity(index, kind, values, fields.get("poly_points")):
            return None
        return _Item(str(desc), kind, values)

    def _check_keys(self, index: int, fields: dict[str, Any]) -> None:
        for key in fields:
            if key in REJECTED_KEYS:
                self._refuse(f"objects[{index}].{key}", Rule.REJECTED_KEY, "this key is not a geometry of the format", REJECTED_KEYS[key])
            elif self._notes is not None and key not in _OBJECT_KEYS:
                self._notes.ignored_keys[f"objects[].{key}"] += 1
        if "poly_points" in fields and "poly" not in fields:
            self._refuse(f"objects[{index}].poly_points", Rule.POLY_POINTS, "given without a poly", "take the key out")

    def _has_arity(self, index: int, kind: GeometryKind, values: object, poly_points: object) -> bool:
        place = f"objects[{index}].{kind}"
        if not isinstance(values, list):
            self._refuse(place, Rule.ARITY, f"{_show(values)} is not a list", _BOX_FIX if kind == "bbox_2d" else _POLY_FIX)
            return False
        num = len(cast(list[Any], values))
        if kind == "bbox_2d":
            if num != 4:
                self._refuse(place, Rule.ARITY, f"{num} values instead of 4", _BOX_FIX)
            return num == 4
        if num % 2 or num < 6:
            what = f"{num} values, an odd number" if num % 2 else f"{num} values, fewer than 3 vertices"
            self._refuse(place, Rule.ARITY, what, _POLY_FIX)
            return False
        if poly_points is not None and (type(poly_points) is not int or poly_points != num // 2):
            self._refuse(
                f"objects[{index}].poly_points", Rule.POLY_POINTS, f"{_show(poly_points)} for {num // 2} vertices", "correct the number or leave it out"
            )
        return True

    def _read_space(self, fields: dict[str, Any], items: Sequence[_Item | None]) -> CoordSpace | None:
        given = fields.get("coord_space")
        if given is not None:
            if given not in COORD_SPACES:
                self._refuse("coord_space", Rule.COORD_SPACE, f"{_show(given)} is not a coordinate space", "write pixel, norm1000 or token")
                return None
            if self._coord_space is not None and (given == "pixel") != (self._coord_space == "pixel"):
                what = f"the record says {given!r}, but {self._coord_space!r} was asked for"
                self._refuse("coord_space", Rule.COORD_SPACE, what, "do not set the coordinate space of a file that names it itself")
                return None
            return cast(CoordSpace, given)
        kinds = {type(value) for item in items if item is not None for value in item.values}
        if str in kinds:
            return "token"
        if self._coord_space is not None:
            return self._coord_space
        if kinds == {int}:
            what = "missing, and plain integers can be pixels or norm1000"
            fix = "say which with data.coord_space (on the command line --coord-space), or write the key into the file"
            self._refuse("coord_space", Rule.COORD_SPACE, what, fix)
            return None
        return "pixel"

    def _build(self, index: int, item: _Item, space: CoordSpace) -> DetObject:
        known = len(self.violations)
        points = self._read_tokens(index, item) if space == "token" else self._read_numbers(index, item, space)
        if len(self.violations) == known:
            self._check_order(index, item.kind, points)
        return DetObject(item.desc, item.kind, points)

    def _read_tokens(self, index: int, item: _Item) -> tuple[int, ...]:
        try:
            return tuple([_BINS[value] for value in item.values])
        except (KeyError, TypeError):
            self._refuse_tokens(f"objects[{index}].{item.kind}", item.values)
            return ()

    def _refuse_tokens(self, place: str, values: list[Any]) -> None:
        for position, value in enumerate(values):
            if not isinstance(value, str):
                self._refuse(f"{place}[{position}]", Rule.TOKEN, f"{_show(value)} among coordinate tokens", "write all values of a record in one form")
            elif value not in _BINS:
                what = f"{_show(value)} is out of range" if value.startswith("<|coord_") else f"{_show(value)} is not a coordinate token"
                self._refuse(f"{place}[{position}]", Rule.TOKEN, what, f"use <|coord_0|> to <|coord_{MAX_BIN}|>")

    def _read_numbers(self, index: int, item: _Item, space: CoordSpace) -> tuple[float, ...]:
        values = tuple(item.values)
        types = set(map(type, values))
        is_pixel = space == "pixel"
        if not types <= (_NUMBERS if is_pixel else _WHOLE_NUMBERS):
            allowed, name = (_NUMBERS, "number") if is_pixel else (_WHOLE_NUMBERS, "whole number")
            for position, value in enumerate(values):
                if type(value) not in allowed:
                    what = f"{_show(value)} is not a {name}, as coord_space {space!r} asks for"
                    self._refuse(f"objects[{index}].{item.kind}[{position}]", Rule.VALUE, what)
        elif is_pixel and not (min(values) >= -MAX_PIXEL and max(values) <= MAX_PIXEL):
            for position, value in enumerate(values):
                if not -MAX_PIXEL <= value <= MAX_PIXEL:
                    self._refuse(f"objects[{index}].{item.kind}[{position}]", Rule.VALUE, f"{_show(value)} lies in no image")
        elif not is_pixel and not (min(values) >= 0 and max(values) <= MAX_BIN):
            for position, value in enumerate(values):
                if not 0 <= value <= MAX_BIN:
                    fix = "if the values are pixels, the coordinate space is pixel"
                    self._refuse(f"objects[{index}].{item.kind}[{position}]", Rule.VALUE, f"{value} is outside 0..{MAX_BIN}", fix)
        return values

    def _check_order(self, index: int, kind: GeometryKind, points: tuple[float, ...]) -> None:
        if kind == "poly":
            if self._canonical_polygons and not is_canonical(points):
                what = "the vertices are not in canonical order (no repeated closing vertex, clockwise, from the top-most then left-most vertex)"
                self._refuse(f"objects[{index}].poly", Rule.POLY_ORDER, what, "run 'coordexp data coord --reorder-polygons' on the file")
            return
        x1, y1, x2, y2 = points
        if x2 < x1:
            self._refuse(f"objects[{index}].bbox_2d", Rule.BOX_ORDER, f"x2={x2} < x1={x1}")
        if y2 < y1:
            self._refuse(f"objects[{index}].bbox_2d", Rule.BOX_ORDER, f"y2={y2} < y1={y1}")


class _Item(NamedTuple):
    """An object whose keys and arity are right and whose values are not read yet."""

    desc: str
    kind: GeometryKind
    values: list[Any]


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
