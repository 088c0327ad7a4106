"""How much a YAML file may hold: through anchors that name anchors, a few hundred bytes can stand for a billion values.

Works on the nodes of a composed document, before anything is made of them; needs no YAML library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

MAX_BYTES: Final = 2 << 20
"""Of a file; more is data, not settings or names, and would take minutes to read."""
MAX_VALUES: Final = 250_000
"""Keys and values of a document, with what every alias stands for counted each time."""


def describe_excess(node: Any, *, most: int = MAX_VALUES) -> str | None:
    """Why the document below `node` is not made into values; None when it can be.

    Example: nine lines of nine aliases each: `"its anchors and aliases stand for more than 250000 values"`
    """
    return f"its anchors and aliases stand for more than {most} values" if _count(node, {}, most) > most else None


def _count(node: Any, known: dict[int, int], most: int) -> int:
    """Values below a node and the node itself; counted once for each node, so that a bomb costs as much as its text."""
    number = id(node)
    if number not in known:
        known[number] = 0  # an anchor that contains itself is said elsewhere
        known[number] = min(1 + sum(_count(inner, known, most) for inner in _inner(node)), most + 1)
    return known[number]


def _inner(node: Any) -> Iterator[Any]:
    value: Any = node.value
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from item if isinstance(item, tuple) else (item,)
