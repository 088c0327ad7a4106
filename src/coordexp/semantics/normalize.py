"""When two labels are the same text. Lower-cased, `_ / ( )` read as spaces, white space folded; nothing is translated or stemmed."""

from __future__ import annotations

_SEPARATORS = str.maketrans("_/()", "    ")


def normalize_label(text: str) -> str:
    """Example: `normalize_label(" Wineglass_(stem)/cup ") == "wineglass stem cup"`."""
    return " ".join(text.lower().translate(_SEPARATORS).split())
