"""A generated part of a page, between two marks."""

from __future__ import annotations

from pathlib import Path

from coordexp.types.files import write_text


def marks(name: str) -> tuple[str, str]:
    """Example: `marks("figures")` is `<!-- figures: begin -->` and `<!-- figures: end -->`."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks.

    Raises:
        SystemExit: the page has no marks.
    """
    begin, end = marks(name)
    old = page.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"error: {page} has no {begin} … {end}")
    head, rest = old.split(begin, 1)
    write_text(page, f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")
