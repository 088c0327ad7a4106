"""The text of a rollout target: entries of the model's own answer, missed objects, closure; what each character is, and whether the model or we wrote it.

Own text is taken over to the last character. Only separators change, where an entry gets another neighbour, and keys when they are renumbered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from coordexp.codec.append import allocate_indices, continuation
from coordexp.codec.pieces import TextPieces
from coordexp.codec.prompts import FieldOrder
from coordexp.codec.serialize import AssistantText, TextSpan, canonical_key, plain_text, serialize_entries, with_end
from coordexp.targets.prefix import KeptEntries
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, ParsedEntry, ParsedObject, ParsedRollout
from coordexp.types.sequences import Provenance, Role

MissedPosition: TypeAlias = Literal["tail", "sorted"]
"""Where missed objects stand: behind the own ones in the order of the ground truth, or each before the first own one that the sorted order puts after it."""

UNTAUGHT = (Provenance.UNMATCHED, Provenance.DROPPED)


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the target, or its closure."""

    provenance: Provenance
    prediction: ParsedObject | None = None
    """What the model's own entry says; None for missed objects, unreadable entries and the closure."""
    gt: int | None = None
    """The annotated object that it stands for."""
    is_key_out_of_turn: bool = False
    """A missed object between the model's own, whose key is a free one and not the one after its neighbour's."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A stretch of the target's text with one author."""

    text: str
    source: int | None
    """First character in the prefix text; None for text of ours."""
    starts_token: bool = False
    """Text of ours that shares no token with what stands before it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole target as text, with the end token."""

    whole: AssistantText
    """Contiguous roles; `object_index` is the item. The first brace and each separator belong to the entry behind them, or to the closure."""
    fragments: tuple[Fragment, ...]
    """Together they are the text; neighbours are never one stretch of the prefix."""
    items: tuple[Item, ...]
    """In the order of the text; the last one is the closure."""


def lay_out(
    parsed: ParsedRollout,
    kept: KeptEntries,
    match: Match,
    objects: Sequence[DetObject],
    *,
    pieces: TextPieces,
    missed_position: MissedPosition = "tail",
    renumber_keys: bool = False,
    field_order: FieldOrder = "desc_first",
) -> Layout:
    """The text of the target.

    Args:
        parsed: the answer.
        kept: the entries that stay.
        match: of `kept.objects` and `objects`.
        objects: the ground truth, in bins.
        pieces: the tokens of the prefix.
        missed_position: where missed objects are written.
        renumber_keys: count all keys from 1; else own keys stay, and missed objects take the next free ones.
        field_order: which field of a missed object comes first.
    """
    own = tuple(_own_items(parsed, kept, match))
    steps, tail = (own, match.missed) if missed_position == "tail" else _sort_in(own, match, objects, is_key_out_of_turn=not renumber_keys)
    indices = _indices(parsed, [number for _, number in steps], num_tail=len(tail), renumber_keys=renumber_keys)
    writer = _Writer(parsed, pieces)
    for (item, number), index in zip(steps, indices, strict=False):
        if number is not None:
            writer.add_own(item, number, index=index if renumber_keys else None)
        elif item.gt is not None:
            writer.add_missed(item, serialize_entries([objects[item.gt]], indices=[index], field_order=field_order))
    behind = continuation([objects[gt] for gt in tail], indices=indices[len(steps) :], follows_entry=bool(steps), field_order=field_order)
    writer.add_tail([Item(Provenance.APPENDED, gt=gt) for gt in tail], with_end(behind))
    return writer.finish()


_Step: TypeAlias = tuple[Item, int | None]
"""An item, and which own entry it is; None for a missed object."""


def _own_items(parsed: ParsedRollout, kept: KeptEntries, match: Match) -> Iterator[_Step]:
    gt_of = {pair.pred: pair.gt for pair in match.pairs}
    pred = 0
    for number in kept.numbers:
        if parsed.entries[number].object_number is None:
            yield Item(Provenance.DROPPED), number
            continue
        gt = gt_of.get(pred)
        yield Item(Provenance.UNMATCHED if gt is None else Provenance.MATCHED, prediction=kept.objects[pred], gt=gt), number
        pred += 1


def _sort_in(own: Sequence[_Step], match: Match, objects: Sequence[DetObject], *, is_key_out_of_turn: bool) -> tuple[tuple[_Step, ...], tuple[int, ...]]:
    """Each missed object before the first own one that comes after it (a matched one stands where its annotation would), and the missed objects behind all."""
    waiting = sorted(match.missed, key=lambda gt: canonical_key(objects[gt]))
    steps: list[_Step] = []
    num_placed = 0
    for item, number in own:
        if item.prediction is not None:
            own_key = canonical_key(item.prediction.to_object() if item.gt is None else objects[item.gt])
            while num_placed < len(waiting) and canonical_key(objects[waiting[num_placed]]) < own_key:
                steps.append((Item(Provenance.APPENDED, gt=waiting[num_placed], is_key_out_of_turn=is_key_out_of_turn), None))
                num_placed += 1
        steps.append((item, number))
    return tuple(steps), tuple(waiting[num_placed:])


def _indices(parsed: ParsedRollout, numbers: Sequence[int | None], *, num_tail: int, renumber_keys: bool) -> tuple[int, ...]:
    """N of each step and of each object of the tail; 0 for own entries that keep theirs."""
    if renumber_keys:
        return tuple(range(1, len(numbers) + num_tail + 1))
    own = [parsed.entries[number].index for number in numbers if number is not None]
    num_missed = len(numbers) - len(own) + num_tail
    free = iter(allocate_indices([index for index in own if index is not None], num_entries=len(own), num_objects=num_missed))
    return (*(next(free) if number is None else 0 for number in numbers), *free)


class _Writer:
    """Text under construction, with its authors and roles."""

    def __init__(self, parsed: ParsedRollout, pieces: TextPieces) -> None:
        self._entries = parsed.entries
        self._prefix = parsed.prefix_text
        self._pieces = pieces
        self._fragments: list[Fragment] = []
        self._own_start = self._own_end = -1
        self._spans: list[TextSpan] = []
        self._items: list[Item] = []
        self._body_start = 0
        if parsed.is_invalid:
            self._add_ours(plain_text("{", Role.FORMAT))
        else:
            self._body_start = parsed.prefix_text.index("{") + 1
            self._add_prefix(0, self._body_start)

    def add_own(self, item: Item, number: int, *, index: int | None) -> None:
        """The entry with its separator; `index`: its new key."""
        entry = self._entries[number]
        before = self._entries[number - 1].chars[1] if number else self._body_start
        if bool(self._items) == bool(number):
            self._add_prefix(before, entry.chars[0])
        elif self._items:
            self._add_ours(plain_text(", ", Role.FORMAT))
        self._add_entry(entry, item.prediction, index)
        self._items.append(item)

    def add_missed(self, item: Item, entry: AssistantText) -> None:
        """A missed object with its separator."""
        if self._items:
            self._add_ours(plain_text(", ", Role.FORMAT))
        self._add_ours(entry)
        self._items.append(item)

    def add_tail(self, items: Sequence[Item], text: AssistantText) -> None:
        """The missed objects behind everything, and the closure; `text` has their separators."""
        first = following = len(self._items)
        closure = first + len(items)
        self._start_ours(text.text)
        for span in text.spans:
            if span.object_index is not None:
                number = first + span.object_index
                following = number + 1
            else:
                number = following if span.role is Role.FORMAT else closure
            self._mark(span.end - span.start, span.role, number)
        self._items.extend((*items, Item(Provenance.CLOSURE)))

    def finish(self) -> Layout:
        """The target's text; nothing may be added afterwards."""
        text = "".join(fragment.text for fragment in self._fragments)
        whole = AssistantText(text=text, spans=tuple(self._spans))
        return Layout(whole=whole, fragments=tuple(self._fragments), items=tuple(self._items))

    def _add_entry(self, entry: ParsedEntry, prediction: ParsedObject | None, index: int | None) -> None:
        position, end = entry.chars
        for start, stop, role in self._marks(entry, prediction):
            self._add_prefix(position, start)
            is_new_key = role is Role.KEY and index is not None and entry.index not in (None, index)
            if is_new_key:
                is_number = self._prefix[start:stop] == str(entry.index)
                self._add_ours(plain_text(f"{index}" if is_number else f"object_{index}", Role.KEY))
            else:
                self._add_prefix(start, stop, role=role)
            position = stop
        self._add_prefix(position, end)

    def _marks(self, entry: ParsedEntry, prediction: ParsedObject | None) -> list[tuple[int, int, Role]]:
        """What is no structure, in order of appearance."""
        marks = [(*entry.digits, Role.KEY)]
        if prediction is not None:
            marks.append((*prediction.desc_chars, Role.DESC))
            marks.extend((self._pieces.starts[position], self._pieces.ends[position], Role.COORD) for position in prediction.coord_positions)
        return sorted(marks)

    def _add_prefix(self, start: int, end: int, *, role: Role = Role.FORMAT) -> None:
        if start == end:
            return
        if self._own_end == start:
            self._own_end = end
        else:
            self._finish_own()
            self._own_start, self._own_end = start, end
        self._mark(end - start, role, len(self._items))

    def _add_ours(self, text: AssistantText) -> None:
        self._start_ours(text.text)
        for span in text.spans:
            self._mark(span.end - span.start, span.role, len(self._items))

    def _start_ours(self, text: str) -> None:
        """A fragment of ours; behind an entry that is not taught it starts a token, so that going on or closing there can be taught."""
        follows_untaught = bool(self._items) and self._items[-1].provenance in UNTAUGHT and self._spans[-1].object_index == len(self._items) - 1
        self._finish_own()
        self._fragments.append(Fragment(text, None, starts_token=follows_untaught))

    def _finish_own(self) -> None:
        if self._own_end >= 0:
            self._fragments.append(Fragment(self._prefix[self._own_start : self._own_end], self._own_start))
        self._own_start = self._own_end = -1

    def _mark(self, length: int, role: Role, number: int) -> None:
        last = self._spans[-1] if self._spans else None
        start = last.end if last is not None else 0
        if last is not None and (last.role, last.object_index) == (role, number):
            self._spans[-1] = TextSpan(last.start, start + length, role, number)
        else:
            self._spans.append(TextSpan(start, start + length, role, number))
