r"""Objects to assistant text, with the role of every character. One line of JSON: one space after `:` and `,`, keys `object_N`, `{}` for no object.

Spans are contiguous: they cover the text from its first to its last character. The text never holds a special token that is not a coordinate or the end:
`<|` inside a desc is written `\u003c|`, which reads back as the same desc.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.codec.coord_tokens import coord_token
from coordexp.codec.prompts import CoordMode, FieldOrder, Ordering
from coordexp.geometry.bins import MAX_BIN
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role

END_TEXT = "<|im_end|>"
"""The stop token of the chat template; ends every assistant text."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TextSpan:
    """What the characters `text[start:end]` are."""

    start: int
    end: int
    role: Role
    object_index: int | None
    """Position in the list of objects; None for what belongs to no object (outer braces, separators, end)."""


@dataclass(frozen=True, slots=True)
class AssistantText:
    """Example: `serialize_objects(())` gives the text `{}` with the spans `{` FORMAT and `}` CLOSE."""

    text: str
    spans: tuple[TextSpan, ...]


def order_objects(objects: Sequence[DetObject], *, ordering: Ordering, seed: int = 0) -> tuple[DetObject, ...]:
    """Put objects in the order in which they are written.

    `sorted`: by y1, then x1 (of a polygon: its topmost, then leftmost vertex); ties by all points, then desc, so that the order of a file has no say.
    `random`: a shuffle that depends only on `seed` and the number of objects.
    """
    if ordering == "sorted":
        return tuple(sorted(objects, key=canonical_key))
    shuffled = list(objects)
    random.Random(seed).shuffle(shuffled)
    return tuple(shuffled)


def canonical_key(item: DetObject) -> tuple[tuple[float, float], tuple[float, ...], str]:
    """What `sorted` sorts by: y1, then x1 (of a polygon: its topmost, then leftmost vertex); all points; desc."""
    top_left = min(zip(item.points[1::2], item.points[0::2], strict=True))
    return top_left, item.points, item.desc


def serialize_objects(
    objects: Sequence[DetObject], *, field_order: FieldOrder = "desc_first", coord_mode: CoordMode = "coord", start_index: int = 1
) -> AssistantText:
    """The whole assistant text without its end token; objects hold bins and are written in the given order with keys from `start_index`.

    Raises:
        ValueError: a coordinate is not an integer bin.
    """
    entries = serialize_entries(objects, field_order=field_order, coord_mode=coord_mode, indices=range(start_index, start_index + len(objects)))
    return join_texts(plain_text("{", Role.FORMAT), entries, plain_text("}", Role.CLOSE))


def serialize_entries(
    objects: Sequence[DetObject], *, indices: Sequence[int], field_order: FieldOrder = "desc_first", coord_mode: CoordMode = "coord"
) -> AssistantText:
    """Only the entries `"object_N": {…}, …`, without the outer braces, with the key N of each object out of `indices`.

    Raises:
        ValueError: a coordinate is not an integer bin.
    """
    writer = _Writer()
    for position, (item, index) in enumerate(zip(objects, indices, strict=True)):
        if position:
            writer.add(", ", Role.FORMAT, None)
        writer.add('"object_', Role.FORMAT, position)
        writer.add(str(index), Role.KEY, position)
        writer.add('": {', Role.FORMAT, position)
        _write_fields(writer, item, position, field_order=field_order, coord_mode=coord_mode)
        writer.add("}", Role.FORMAT, position)
    return writer.finish()


def plain_text(text: str, role: Role) -> AssistantText:
    """Text that belongs to no object."""
    return AssistantText(text=text, spans=(TextSpan(0, len(text), role, None),) if text else ())


def join_texts(*texts: AssistantText) -> AssistantText:
    """Texts one after the other; object indices stay as they are."""
    spans: list[TextSpan] = []
    offset = 0
    for text in texts:
        spans.extend(TextSpan(span.start + offset, span.end + offset, span.role, span.object_index) for span in text.spans)
        offset += len(text.text)
    return AssistantText(text="".join(text.text for text in texts), spans=tuple(spans))


def with_end(text: AssistantText) -> AssistantText:
    """The text with the end token."""
    return join_texts(text, plain_text(END_TEXT, Role.END))


def escape_desc(desc: str) -> str:
    """The characters between the quotes of a desc value: JSON, non-ASCII as it is, nothing that a tokenizer could take for a special token."""
    escaped = json.dumps(desc, ensure_ascii=False)[1:-1].replace("<|", "\\u003c|")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


class _Writer:
    """Text under construction; neighbouring characters of one role and object become one span."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._spans: list[TextSpan] = []
        self._length = 0

    def add(self, part: str, role: Role, object_index: int | None) -> None:
        if not part:
            return
        start, self._length = self._length, self._length + len(part)
        self._parts.append(part)
        last = self._spans[-1] if self._spans else None
        if last is not None and (last.role, last.object_index) == (role, object_index):
            self._spans[-1] = TextSpan(last.start, self._length, role, object_index)
        else:
            self._spans.append(TextSpan(start, self._length, role, object_index))

    def finish(self) -> AssistantText:
        return AssistantText(text="".join(self._parts), spans=tuple(self._spans))


def _write_fields(writer: _Writer, item: DetObject, position: int, *, field_order: FieldOrder, coord_mode: CoordMode) -> None:
    if field_order == "geometry_first":
        _write_geometry(writer, item, position, coord_mode)
        writer.add(", ", Role.FORMAT, position)
    _write_desc(writer, item, position)
    if field_order == "desc_first":
        writer.add(", ", Role.FORMAT, position)
        _write_geometry(writer, item, position, coord_mode)


def _write_desc(writer: _Writer, item: DetObject, position: int) -> None:
    writer.add('"desc": "', Role.FORMAT, position)
    writer.add(escape_desc(item.desc), Role.DESC, position)
    writer.add('"', Role.FORMAT, position)


def _write_geometry(writer: _Writer, item: DetObject, position: int, coord_mode: CoordMode) -> None:
    quote = '"' if coord_mode == "coord" else ""
    writer.add(f'"{item.kind}": [', Role.FORMAT, position)
    for number, value in enumerate(item.points):
        is_x_of_pair = item.kind == "poly" and number % 2 == 0
        writer.add((", " if number else "") + ("[" if is_x_of_pair else "") + quote, Role.FORMAT, position)
        writer.add(_spell(value, item, coord_mode), Role.COORD, position)
        writer.add(quote + ("]" if item.kind == "poly" and number % 2 else ""), Role.FORMAT, position)
    writer.add("]", Role.FORMAT, position)


def _spell(value: float, item: DetObject, coord_mode: CoordMode) -> str:
    k = int(value)
    if k != value or not 0 <= k <= MAX_BIN:
        raise ValueError(f"object {item.desc!r}: coordinate {value} is not an integer bin 0..{MAX_BIN}")
    return coord_token(k) if coord_mode == "coord" else str(k)
