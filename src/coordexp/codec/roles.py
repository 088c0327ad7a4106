"""Roles of characters to roles of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from coordexp.codec.serialize import TextSpan
from coordexp.types.sequences import Role

_MARKERS = (Role.END, Role.CLOSE)
"""A token that holds one of these has its role, whatever else it holds: the place where the answer ends must be found."""


def token_roles(spans: Sequence[TextSpan], offsets: Sequence[tuple[int, int]]) -> tuple[Role, ...]:
    """The role of each token, from character spans that are contiguous and token offsets that never decrease; linear.

    A token that crosses spans gets the role of most of its characters (of the last ones on a tie), unless it holds the closing brace or the end.

    Example: `"]}}` as one token is CLOSE; `.",` is FORMAT although it holds the last character of a desc.
    """
    roles: list[Role] = []
    first = 0
    for start, end in offsets:
        while first + 1 < len(spans) and spans[first].end <= start:
            first += 1
        roles.append(spans[first].role if end <= spans[first].end else _role_of_mixed(spans, first, start, end))
    return tuple(roles)


def _role_of_mixed(spans: Sequence[TextSpan], first: int, start: int, end: int) -> Role:
    num_chars: dict[Role, int] = {}
    for span in takewhile(lambda span: span.start < end, (spans[number] for number in range(first, len(spans)))):
        # a role that comes again moves to the end, so that the last one wins a tie
        num_chars[span.role] = num_chars.pop(span.role, 0) + min(span.end, end) - max(span.start, start)
    for marker in _MARKERS:
        if marker in num_chars:
            return marker
    return max(reversed(num_chars), key=num_chars.__getitem__)
