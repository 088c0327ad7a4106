"""Data for the scripts of a page."""

from __future__ import annotations

import msgspec

_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def script_json(value: object) -> str:
    """JSON that may stand inside a `<script>` element: no text in it can close the element or open a comment."""
    return msgspec.json.encode(value).decode().translate(_ESCAPED)
