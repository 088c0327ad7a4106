"""Strict parse of a response into objects, for training. Keeps every kept token id; drops are counted by reason, nothing is repaired.

The prefix is the longest beginning of the response that valid JSON can go on from: it ends behind the last complete entry of the top-level object, so
prefix + missed objects + `}` is valid JSON for every response. What stands behind the first error in the JSON is not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from coordexp.codec.append import largest_index
from coordexp.codec.coord_tokens import CoordVocabulary, parse_coord_token
from coordexp.codec.pieces import TextPieces, cut_pieces, decode_pieces
from coordexp.codec.scanner import Kind, Node, Scan, Stop, read_string, scan_value
from coordexp.codec.serialize import END_TEXT
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.types.records import GeometryKind
from coordexp.types.rollouts import DroppedObject, DropReason, ParsedEntry, ParsedObject, ParsedRollout

_KEY = re.compile(r"object_([1-9][0-9]{0,17})")
_OTHER_GEOMETRIES = frozenset(
    ("bbox", "box", "box_2d", "bbox_3d", "polygon", "line", "line_2d", "line_points", "point", "point_2d", "points", "segmentation", "mask", "keypoints")
)


def parse_rollout(
    response_ids: Sequence[int], *, tokenizer: AnyTokenizer, coord_vocab: CoordVocabulary, allow_poly: bool, forbidden_ids: Collection[int] = ()
) -> ParsedRollout:
    """Read a response token by token as it was generated; never fails on what a model wrote.

    Args:
        response_ids: without or with the stop token; what follows the first `<|im_end|>` is ignored.
        tokenizer: a `TextTokenizer` made once is fastest.
        coord_vocab: which ids are coordinates.
        allow_poly: False drops polygons as `poly_unsupported`.
        forbidden_ids: tokens that cannot stand in a training sequence (image placeholders); the response is read up to the first of them.
    """
    tokenizer = TextTokenizer.of(tokenizer)
    pieces = decode_pieces(_before_forbidden(response_ids, forbidden_ids), tokenizer=tokenizer)
    text = pieces.text.partition(END_TEXT)[0]
    scan = scan_value(text)
    if scan.root is None or scan.root.kind is not Kind.OBJECT:
        return _invalid(tokenizer, is_truncated="{" not in text)
    reader = _EntryReader(pieces, text, coord_vocab, allow_poly=allow_poly)
    complete = [entry for entry in scan.root.children if entry.is_closed]
    for entry in complete:
        reader.read(entry)
    for entry in scan.root.children[len(complete) :]:
        reader.drop_broken_off(entry, end=scan.position)
    if not complete and scan.stop is not Stop.COMPLETE:
        return _invalid(tokenizer, is_truncated=scan.stop is Stop.TRUNCATED, dropped=tuple(reader.dropped))
    return _kept(reader, scan, end=complete[-1].end if complete else scan.root.start + 1, num_entries=len(complete), tokenizer=tokenizer)


def _before_forbidden(response_ids: Sequence[int], forbidden_ids: Collection[int]) -> Sequence[int]:
    if not forbidden_ids:
        return response_ids
    return response_ids[: next((number for number, token_id in enumerate(response_ids) if token_id in forbidden_ids), len(response_ids))]


def _invalid(tokenizer: TextTokenizer, *, is_truncated: bool, dropped: tuple[DroppedObject, ...] = ()) -> ParsedRollout:
    return ParsedRollout(
        objects=(),
        dropped=dropped,
        num_ambiguous=0,
        prefix_ids=tokenizer.encode_bytes(b"{"),
        prefix_text="{",
        prefix_ends_with_object=False,
        max_index=0,
        is_truncated=is_truncated,
        is_invalid=True,
    )


def _kept(reader: _EntryReader, scan: Scan, *, end: int, num_entries: int, tokenizer: TextTokenizer) -> ParsedRollout:
    prefix_ids, num_retokenized = cut_pieces(reader.pieces, end, tokenizer=tokenizer)
    return ParsedRollout(
        objects=tuple(reader.objects),
        dropped=tuple(reader.dropped),
        num_ambiguous=reader.num_ambiguous,
        prefix_ids=prefix_ids,
        prefix_text=reader.text[:end],
        prefix_ends_with_object=num_entries > 0,
        max_index=largest_index([entry.index for entry in reader.entries if entry.index is not None], num_entries=num_entries),
        is_truncated=scan.stop is Stop.TRUNCATED,
        is_invalid=False,
        num_retokenized=num_retokenized,
        entries=tuple(reader.entries),
        num_duplicate_keys=num_entries - len(reader.keys),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """The members of one object, looked up once."""

    desc: Node | None
    geometry: Node | None
    kind: GeometryKind
    reason: DropReason | None
    """Why the object cannot be taken, as far as its field names and its desc say."""


@dataclass(slots=True)
class _EntryReader:
    """Turns entries of the top-level object into parsed or dropped objects, in order of appearance."""

    pieces: TextPieces
    text: str
    coord_vocab: CoordVocabulary
    allow_poly: bool = field(kw_only=True)
    objects: list[ParsedObject] = field(init=False, default_factory=list[ParsedObject])
    dropped: list[DroppedObject] = field(init=False, default_factory=list[DroppedObject])
    num_ambiguous: int = field(init=False, default=0)
    entries: list[ParsedEntry] = field(init=False, default_factory=list[ParsedEntry])
    keys: set[str] = field(init=False, default_factory=set[str])
    _coord_token_at: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        is_coord = self.coord_vocab.bin_of
        self._coord_token_at = {
            start: position
            for position, (token_id, start) in enumerate(zip(self.pieces.token_ids, self.pieces.starts, strict=True))
            if is_coord(token_id) is not None
        }

    def read(self, entry: Node) -> None:
        """Take or drop one complete entry."""
        key = self._key_of(entry)
        self.keys.add(key)
        found = _KEY.fullmatch(key)
        index = int(found[1]) if found else None
        num_before = len(self.objects)
        self._take_or_drop(entry, key, index)
        self.entries.append(self._note(entry, index, object_number=num_before if len(self.objects) > num_before else None))

    def _take_or_drop(self, entry: Node, key: str, index: int | None) -> None:
        if index is None or entry.kind is not Kind.OBJECT:
            self._drop(entry, key, index, DropReason.KEY_INVALID)
            return
        fields = _read_fields(self.text, entry, allow_poly=self.allow_poly)
        if fields.reason is not None or fields.desc is None or fields.geometry is None:
            self._drop(entry, key, index, fields.reason or DropReason.MISSING_GEOM)
            return
        self._read_geometry(entry, key, index, fields.desc, fields.geometry, fields.kind)

    def _note(self, entry: Node, index: int | None, *, object_number: int | None) -> ParsedEntry:
        assert entry.key is not None
        start, end = entry.key[0] + 1, entry.key[1] - 1
        if index is not None and self.text.endswith(f"_{index}", start, end):
            start = end - len(str(index))
        return ParsedEntry(index=index, chars=(entry.key[0], entry.end), digits=(start, end), object_number=object_number)

    def drop_broken_off(self, entry: Node, *, end: int) -> None:
        """Count the entry in which the text ended or stopped being JSON; it lies behind the cut."""
        key = self._key_of(entry)
        found = _KEY.fullmatch(key)
        chars = (entry.start, end)
        self.dropped.append(
            DroppedObject(
                key=key,
                index=int(found[1]) if found else None,
                reason=DropReason.KEY_INVALID,
                value_tokens=self.pieces.token_span(*chars),
                value_chars=chars,
                is_in_prefix=False,
            )
        )

    def _read_geometry(self, entry: Node, key: str, index: int, desc: Node, geometry: Node, kind: GeometryKind) -> None:
        leaves, is_shape_right = _leaves(geometry, kind)
        bins = [parse_coord_token(read_string(self.text, (leaf.start, leaf.end))) if leaf.kind is Kind.STRING else None for leaf in leaves]
        points = tuple(k for k in bins if k is not None)
        if len(points) != len(bins):
            self._drop(entry, key, index, DropReason.NON_COORD_TOKEN)
        elif not is_shape_right:
            self._drop(entry, key, index, DropReason.WRONG_ARITY)
        elif kind == "bbox_2d" and (points[2] < points[0] or points[3] < points[1]):
            self._drop(entry, key, index, DropReason.BBOX_INVALID)
        elif (positions := self._positions(leaves)) is None:
            self.num_ambiguous += 1
        else:
            parsed = ParsedObject(
                key=key,
                index=index,
                desc=read_string(self.text, (desc.start, desc.end)),
                desc_tokens=self.pieces.token_span(desc.start + 1, desc.end - 1),
                desc_chars=(desc.start + 1, desc.end - 1),
                kind=kind,
                coord_positions=positions,
                bins=points,
                value_tokens=self.pieces.token_span(entry.start, entry.end),
                value_chars=(entry.start, entry.end),
            )
            self.objects.append(parsed)

    def _positions(self, leaves: Sequence[Node]) -> tuple[int, ...] | None:
        """The token of each coordinate; None when one is spelled in any other way than by its own token between quotes."""
        positions: list[int] = []
        for leaf in leaves:
            position = self._coord_token_at.get(leaf.start + 1)
            if position is None or self.pieces.ends[position] != leaf.end - 1:
                return None
            positions.append(position)
        return tuple(positions)

    def _key_of(self, entry: Node) -> str:
        assert entry.key is not None
        return read_string(self.text, entry.key)

    def _drop(self, entry: Node, key: str, index: int | None, reason: DropReason) -> None:
        chars = (entry.start, entry.end)
        self.dropped.append(DroppedObject(key=key, index=index, reason=reason, value_tokens=self.pieces.token_span(*chars), value_chars=chars))


def _read_fields(text: str, entry: Node, *, allow_poly: bool) -> _Fields:
    """Look the fields up: one desc that says something, one geometry of a known kind, and nothing else."""
    members = {read_string(text, member.key): member for member in entry.children if member.key is not None}
    desc = members.get("desc")
    kind: GeometryKind = "bbox_2d" if "bbox_2d" in members else "poly"
    geometry = members.get(kind)
    reason: DropReason | None = None
    if desc is None or desc.kind is not Kind.STRING or not read_string(text, (desc.start, desc.end)).strip():
        reason = DropReason.MISSING_DESC
    elif geometry is None:
        reason = DropReason.UNKNOWN_GEOM if _OTHER_GEOMETRIES & members.keys() else DropReason.MISSING_GEOM
    elif len(members) != 2 or len(entry.children) != 2:
        reason = DropReason.KEY_INVALID
    elif kind == "poly" and not allow_poly:
        reason = DropReason.POLY_UNSUPPORTED
    return _Fields(desc=desc, geometry=geometry, kind=kind, reason=reason)


def _leaves(geometry: Node, kind: GeometryKind) -> tuple[Sequence[Node], bool]:
    """The coordinates in order of appearance, and whether they stand as they should: 4 in a row for a box, at least 3 pairs (or them flat) for a polygon."""
    values = geometry.children if geometry.kind is Kind.ARRAY else [geometry]
    is_paired = kind == "poly" and all(value.kind is Kind.ARRAY and len(value.children) == 2 for value in values)
    leaves = [node for node in geometry.walk() if node.kind is not Kind.ARRAY]
    is_flat = geometry.kind is Kind.ARRAY and len(leaves) == len(values)
    is_count_right = len(leaves) == 4 if kind == "bbox_2d" else len(leaves) >= 6 and len(leaves) % 2 == 0
    return leaves, is_count_right and (is_flat or is_paired)
