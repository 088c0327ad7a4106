"""What comes after a kept prefix: objects with the next free keys, the outermost brace. Prefix and continuation together are one line of valid JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from coordexp.codec.prompts import CoordMode, FieldOrder
from coordexp.codec.serialize import AssistantText, join_texts, plain_text, serialize_entries
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role

MAX_KEY_GAP = 100
"""An index of more than the number of entries plus this is absurd and says nothing about where to go on counting."""


def is_absurd(index: int, *, num_entries: int) -> bool:
    """Whether a key is too large to count from. Example: with 2 entries, `object_102` is taken at its word and `object_103` is not."""
    return index > num_entries + MAX_KEY_GAP


def largest_index(indices: Sequence[int], *, num_entries: int) -> int:
    """The largest N that is not absurd; 0 when there is none.

    Args:
        indices: N of every `object_N` before.
        num_entries: entries before, also those without an N.
    """
    return max((index for index in indices if not is_absurd(index, num_entries=num_entries)), default=0)


def allocate_indices(indices: Sequence[int], *, num_entries: int, num_objects: int) -> tuple[int, ...]:
    """Keys for new objects: from the largest index before + 1, past any absurd key that stands there already.

    Example: after `object_1` and `object_7`, two objects become 8 and 9.
    """
    used = set(indices)
    start = largest_index(indices, num_entries=num_entries) + 1
    return tuple(islice((index for index in count(start) if index not in used), num_objects))


def continuation(
    objects: Sequence[DetObject], *, indices: Sequence[int], follows_entry: bool, field_order: FieldOrder = "desc_first", coord_mode: CoordMode = "coord"
) -> AssistantText:
    """The text behind the prefix, without the end token: a leading `, ` exactly when objects follow an entry, the objects in the given order, `}`.

    Prefix and continuation are valid JSON. Spans count from the first character behind the prefix.

    Args:
        objects: hold bins.
        indices: the key N of each object.
        follows_entry: whether an entry stands before the cut.
        field_order: which field of an object comes first.
        coord_mode: coordinates as tokens or as digits.

    Raises:
        ValueError: a coordinate is not an integer bin.
    """
    entries = serialize_entries(objects, field_order=field_order, coord_mode=coord_mode, indices=indices)
    separator = ", " if objects and follows_entry else ""
    return join_texts(plain_text(separator, Role.FORMAT), entries, plain_text("}", Role.CLOSE))
