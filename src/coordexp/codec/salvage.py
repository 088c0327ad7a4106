"""Salvage reader, for inference: whatever is complete in truncated or dirty JSON counts, in order of appearance; what is broken is counted by reason.

An object is the value of a key `object_N`, at any depth. After an error the reader goes on at the next such key or bracket behind it, so a bad object never
costs its neighbours. The first block that holds objects is the answer; objects after its end, or without such a key, are counted and not read. Linear.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from enum import StrEnum

from coordexp.codec.coord_tokens import parse_coord_token
from coordexp.codec.scanner import Kind, Node, Stop, read_string, scan_value
from coordexp.codec.serialize import END_TEXT
from coordexp.types.records import GeometryKind
from coordexp.types.rollouts import SalvagedObject, SalvagedText


class Broken(StrEnum):
    """Why an entry was not read."""

    INVALID_JSON = "invalid_json"
    """The text broke off in it, or it is not JSON."""
    NOT_AN_OBJECT = "not_an_object"
    NO_OBJECT_KEY = "no_object_key"
    """It looks like an object, but its key is not `object_N`."""
    AFTER_ANSWER = "after_answer"
    """It stands behind the end of the answer."""
    DESC_NOT_TEXT = "desc_not_text"
    GEOMETRY_KEYS = "geometry_keys"
    """No geometry, or more than one."""
    GEOMETRY_KIND = "geometry_kind"
    """A geometry that is no detection, for example `line`."""
    GEOMETRY_POINTS = "geometry_points"
    """No coordinates."""
    COORD_PARSE = "coord_parse"
    """A value that is neither a finite number nor a coordinate token."""


_KINDS: tuple[GeometryKind, ...] = ("bbox_2d", "poly")
_OTHER_GEOMETRIES = frozenset(("line", "line_points", "point", "points", "bbox", "polygon", "segmentation"))
_GEOMETRIES = _OTHER_GEOMETRIES.union(_KINDS)
_FIELDS = _GEOMETRIES | {"desc"}
_KEY = re.compile(r"object_[0-9]+")
_START = re.compile(r'(?<!\\)"object_[0-9]+"[ \t\n\r]*+:[ \t\n\r]*+|[{\[]')
_KEYED = re.compile(r'(?<!\\)"object_[0-9]+"[ \t\n\r]*+:')
_CLOSE = re.compile(r"[ \t\n\r]*+[}\]]")
_GOES_ON = re.compile(r'[ \t\n\r}\]]*+,[ \t\n\r]*+"object_[0-9]+"')
_LONGEST_KEY = 40
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def salvage_text(text: str) -> SalvagedText:
    """Read a model's text; never fails. What follows the first `<|im_end|>` is ignored.

    An object without a desc is read with the desc ''. The number of coordinates, their range and the order of corners are judged later, in pixels.
    """
    return _SalvageReader(text.partition(END_TEXT)[0]).read()


class _SalvageReader:
    """Reads one text: a scan from each place where a value may begin, each scan taking up where the one before gave up."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._objects: list[SalvagedObject] = []
        self._broken: Counter[Broken] = Counter()

    def read(self) -> SalvagedText:
        position, is_closed, has_failed = 0, True, False
        while (found := _START.search(self._text, position)) is not None:
            is_keyed = found[0].startswith('"')
            scan = scan_value(self._text, found.end() if is_keyed else found.start(), allow_trailing_commas=True)
            num_entries = self._read_entries(scan.root, is_keyed=is_keyed)
            position = self._key_before(scan.position, first=found.end()) if scan.stop is Stop.ERROR else scan.position
            has_failed = has_failed or scan.stop is Stop.ERROR
            is_closed = scan.stop is Stop.COMPLETE and not has_failed
            if scan.stop is Stop.COMPLETE and num_entries and self._is_answer_over(position, is_keyed=is_keyed):
                is_closed = True
                self._broken[Broken.AFTER_ANSWER] += sum(1 for _ in _KEYED.finditer(self._text, position))
                break
        broken = tuple((str(reason), self._broken[reason]) for reason in Broken if self._broken[reason])
        return SalvagedText(objects=tuple(self._objects), broken=broken, is_truncated=not is_closed and not (has_failed and _ends_closed(self._text)))

    def _key_before(self, position: int, *, first: int) -> int:
        """Where to go on after an error: at the key, when a list that was never closed took the key of the next object for its last element."""
        key = self._text.rfind('"object_', max(first, position - _LONGEST_KEY), position)
        found = _KEYED.match(self._text, key) if key >= 0 else None
        return key if found is not None and found.end() == position + 1 else position

    def _is_answer_over(self, position: int, *, is_keyed: bool) -> bool:
        """Whether the block that holds the objects ends here; a brace too many before the next object does not end it."""
        return (not is_keyed or _CLOSE.match(self._text, position) is not None) and _GOES_ON.match(self._text, position) is None

    def _read_entries(self, root: Node | None, *, is_keyed: bool) -> int:
        """Read or count every entry of one scan, in order of appearance; returns how many have a key `object_N`."""
        if root is None:
            self._broken[Broken.INVALID_JSON] += is_keyed
            return int(is_keyed)
        num_entries, entry_end = 0, 0.0
        for node in root.walk():
            if (node is root and is_keyed) or self._has_object_key(node):
                num_entries += 1
                entry_end = max(entry_end, node.end if node.is_closed else math.inf)
                self._read_entry(node)
            elif node.kind is Kind.OBJECT and node.start >= entry_end and not _FIELDS.isdisjoint(self._members(node)):
                self._broken[Broken.NO_OBJECT_KEY] += 1
        return num_entries

    def _read_entry(self, entry: Node) -> None:
        if not entry.is_closed:
            self._broken[Broken.INVALID_JSON] += 1
            return
        read = self._read_object(entry) if entry.kind is Kind.OBJECT else Broken.NOT_AN_OBJECT
        if isinstance(read, Broken):
            self._broken[read] += 1
        else:
            self._objects.append(read)

    def _read_object(self, entry: Node) -> SalvagedObject | Broken:
        members = self._members(entry)
        desc = members.get("desc")
        if desc is not None and desc.kind is not Kind.STRING:
            return Broken.DESC_NOT_TEXT
        geometries = [name for name in members if name in _GEOMETRIES]
        if len(geometries) != 1:
            return Broken.GEOMETRY_KEYS
        kind: GeometryKind | None = next((known for known in _KINDS if known == geometries[0]), None)
        if kind is None:
            return Broken.GEOMETRY_KIND
        geometry = members[kind]
        leaves = [node for node in geometry.walk() if node.kind is not Kind.ARRAY]
        if geometry.kind is not Kind.ARRAY or not leaves:
            return Broken.GEOMETRY_POINTS
        coords = [_read_coord(self._text, leaf) for leaf in leaves]
        values = [coord for coord in coords if coord is not None]
        if len(values) != len(leaves):
            return Broken.COORD_PARSE
        return SalvagedObject(
            desc=read_string(self._text, (desc.start, desc.end)) if desc is not None else "",
            kind=kind,
            values=tuple(value for value, _ in values),
            is_tokens=any(is_token for _, is_token in values),
            char_span=(entry.start, entry.end),
            desc_chars=_inner(desc) if desc is not None else (entry.start, entry.start),
            coord_chars=tuple(_inner(leaf) for leaf in leaves),
        )

    def _members(self, node: Node) -> dict[str, Node]:
        return {read_string(self._text, child.key): child for child in node.children if child.key is not None}

    def _has_object_key(self, node: Node) -> bool:
        return node.key is not None and _KEY.fullmatch(read_string(self._text, node.key)) is not None


def _inner(node: Node) -> tuple[int, int]:
    """The characters of a value without its quotes."""
    num_quotes = int(node.kind is Kind.STRING)
    return node.start + num_quotes, node.end - num_quotes


def _read_coord(text: str, leaf: Node) -> tuple[float, bool] | None:
    """The value as written and whether it is a coordinate token; numbers between quotes are read too."""
    spelled = text[slice(*_inner(leaf))]
    k = parse_coord_token(spelled) if leaf.kind is Kind.STRING else None
    if k is not None:
        return k, True
    value = float(spelled) if _NUMBER.fullmatch(spelled) else math.nan
    if not math.isfinite(value):
        return None
    return (int(value) if value.is_integer() else value), False


def _ends_closed(text: str) -> bool:
    """Whether a text that is not JSON ends as if it were complete: with two closing brackets, but for white space and a code fence."""
    last = text.rstrip("` \t\n\r")
    return last.endswith(("}", "]")) and last[:-1].rstrip().endswith(("}", "]"))
