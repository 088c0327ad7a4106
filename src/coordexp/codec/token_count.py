"""How many tokens an answer has, without making it: for lengths of whole data sets.

A coordinate token is an added token, at which every tokenizer splits the text before it does anything else. What stands between two coordinates therefore
has a number of tokens of its own, which is counted once for each (number of the object, desc, kind) and remembered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.prompts import CoordMode, FieldOrder
from coordexp.codec.serialize import serialize_entries, serialize_objects, with_end
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.records import DetObject

_COORD = re.compile(r"<\|coord_[0-9]+\|>")
_MOST_REMEMBERED = 1_000_000

_Key: TypeAlias = tuple[Any, ...]


class AnswerLengths:
    """Counts tokens of assistant texts with their end token. Safe to call from several threads: a race can only count the same text twice.

    Example: `AnswerLengths(tokenizer, coord_vocab=vocab).count((DetObject("cat", "bbox_2d", (1, 2, 3, 4)),)) == 14`
    """

    def __init__(
        self, tokenizer: TextTokenizer, *, coord_vocab: CoordVocabulary | None, field_order: FieldOrder = "desc_first", coord_mode: CoordMode = "coord"
    ) -> None:
        self._tokenizer = tokenizer
        self._field_order: FieldOrder = field_order
        self._coord_mode: CoordMode = coord_mode
        self._is_split = coord_mode == "coord" and coord_vocab is not None and tokenizer.splits_at(coord_vocab.ids)
        self._known: dict[_Key, int] = {}

    def count(self, objects: Sequence[DetObject]) -> int:
        """`len(ground_truth_target(objects, …).token_ids)`; the values of coordinates are not looked at."""
        if not self._is_split or not objects:
            return self._tokens(with_end(serialize_objects(objects, field_order=self._field_order, coord_mode=self._coord_mode)).text)
        total, before = 0, None
        for number, item in enumerate(objects, start=1):
            total += self._to_last_coordinate(number, item, before)
            before = item
        return total + self._to_end(objects[-1])

    def _to_last_coordinate(self, number: int, item: DetObject, before: DetObject | None) -> int:
        """Tokens after the last coordinate of the object before (or from the beginning) to the last one of `item`."""
        key = (number, item.kind, item.desc, len(item.points), before and self._ending(before))
        known = self._known.get(key)
        if known is None:
            known = self._remember(key, self._count_to_last_coordinate(number, item, before))
        return known

    def _count_to_last_coordinate(self, number: int, item: DetObject, before: DetObject | None) -> int:
        if before is None:
            pieces = _COORD.split(serialize_objects((item,), field_order=self._field_order).text)
        else:
            text = serialize_entries((before, item), indices=(number - 1, number), field_order=self._field_order).text
            pieces = _COORD.split(text)[len(before.points) :]
        return len(item.points) + sum(self._tokens(piece) for piece in pieces[:-1])

    def _to_end(self, item: DetObject) -> int:
        """Tokens after the last coordinate of the last object."""
        key = ("end", self._ending(item))
        known = self._known.get(key)
        if known is None:
            text = with_end(serialize_objects((item,), field_order=self._field_order)).text
            known = self._remember(key, self._tokens(_COORD.split(text)[-1]))
        return known

    def _ending(self, item: DetObject) -> _Key:
        """What the text after the last coordinate of an object depends on."""
        return (item.kind, item.desc if self._field_order == "geometry_first" else None)

    def _remember(self, key: _Key, count: int) -> int:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = count
        return count

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)
