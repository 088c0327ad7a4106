"""What comes after a kept prefix: objects with the next free keys, the outermost brace. Prefix and continuation together are one line of valid JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from coordexp.codec.prompts import CoordMode, FieldOrder
from coordexp.codec.serialize import AssistantText, join_texts, plain_text, serialize_entries
from coordexp.types.records import DetObject
from coordexp.types.rollouts import ParsedRollout
from coordexp.types.sequences import Role


def allocate_indices(parsed: ParsedRollout, num_objects: int) -> tuple[int, ...]:
    """Keys for new objects: from the largest index of the prefix + 1, past any absurd key that stands in the prefix already.

    Example: after `object_1` and `object_7`, two objects become 8 and 9.
    """
    used = set(parsed.entry_indices)
    return tuple(islice((index for index in count(parsed.max_index + 1) if index not in used), num_objects))


def continuation(
    parsed: ParsedRollout, objects: Sequence[DetObject], *, field_order: FieldOrder = "desc_first", coord_mode: CoordMode = "coord"
) -> AssistantText:
    """The text behind the prefix, without the end token: a leading `, ` exactly when objects follow an object, the objects in the given order, `}`.

    `parsed.prefix_text + continuation(parsed, objects).text` is valid JSON. Spans count from the first character behind the prefix.

    Raises:
        ValueError: a coordinate is not an integer bin.
    """
    entries = serialize_entries(objects, field_order=field_order, coord_mode=coord_mode, indices=allocate_indices(parsed, len(objects)))
    separator = ", " if objects and parsed.prefix_ends_with_object else ""
    return join_texts(plain_text(separator, Role.FORMAT), entries, plain_text("}", Role.CLOSE))
