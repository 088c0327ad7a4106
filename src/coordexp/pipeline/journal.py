"""What an unfinished inference run knows of itself: `<gt_vs_pred>.progress`, append-only, one line for each window that is written.

A window's results go to the partial file first, its line to the journal after that. A run that is killed at any moment leaves at most one window that the
journal does not know (cut off on resume) and at most one torn line of the journal (cut off too): what remains is exactly the windows that are whole.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.types.errors import OutputError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class WindowMark:
    """One written window."""

    lines: tuple[tuple[int, str], ...]
    """Line number and content hash of each input record, in order."""
    end: int
    """Bytes of the partial file when the window had been written."""
    crc: int
    """CRC-32 of all those bytes."""
    counts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the run up to here (`RunCounts.snapshot`)."""
    seconds: float = 0.0
    """Of work up to here, over all starts of the run."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Example: `read_journal(path).marks[-1].end`"""

    fingerprint: str
    marks: tuple[WindowMark, ...]
    num_bytes: int
    """Of the journal itself, without what is torn."""

    @property
    def lines(self) -> list[tuple[int, str]]:
        """Input records whose results are written."""
        return [line for mark in self.marks for line in mark.lines]

    @property
    def last(self) -> WindowMark:
        return self.marks[-1] if self.marks else WindowMark(lines=(), end=0, crc=0)


def read_journal(path: Path) -> Journal | None:
    """None: there is none, or not even its first line is whole.

    Raises:
        OutputError: it was written by another version of this format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    whole = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    head = _decode(whole[0]) if whole else None
    if head is None:
        return None
    if head.get("format") != _FORMAT:
        raise OutputError("an unfinished run of another version lies here", where=str(path), fix="finish it with that version, or start again with --overwrite")
    marks: list[WindowMark] = []
    num_bytes = len(whole[0])
    for line in whole[1:]:
        entry = _decode(line)
        if entry is None:
            break
        marks.append(_mark_of(entry))
        num_bytes += len(line)
    return Journal(fingerprint=str(head["fingerprint"]), marks=tuple(marks), num_bytes=num_bytes)


def start_line(fingerprint: str) -> bytes:
    """The first line of a journal."""
    return _encode({"format": _FORMAT, "fingerprint": fingerprint})


def mark_line(mark: WindowMark) -> bytes:
    """The line of one window."""
    return _encode({"lines": [list(line) for line in mark.lines], "end": mark.end, "crc": mark.crc, "seconds": round(mark.seconds, 3), "counts": mark.counts})


def check_bytes(path: Path, journal: Journal) -> None:
    """That the partial file still holds what the journal says; bytes behind the last window are left alone.

    Raises:
        OutputError: it is shorter, or other bytes stand there.
    """
    crc = 0
    remaining = journal.last.end
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        while remaining and (chunk := stream.read(min(remaining, 1 << 20))):
            crc = zlib.crc32(chunk, crc)
            remaining -= len(chunk)
    if remaining or crc != journal.last.crc:
        what = "the predictions of the unfinished run were changed since it was interrupted"
        raise OutputError(what, where=str(path), fix="start again with --overwrite")


def check_lines(done: Sequence[tuple[int, str]], source: Sequence[tuple[int, str]], *, where: Path) -> None:
    """That the results belong to these input records.

    Raises:
        OutputError: they do not.
    """
    wrong = next((known for known, found in zip(done, source, strict=False) if known != found), None)
    if wrong is not None or len(source) < len(done):
        number = wrong[0] if wrong is not None else done[len(source)][0]
        raise OutputError(f"line {number} of the data file is not the one whose result is written", where=str(where), fix="start again with --overwrite")


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mark_of(entry: Mapping[str, Any]) -> WindowMark:
    lines = tuple((int(number), str(digest)) for number, digest in entry["lines"])
    return WindowMark(lines=lines, end=int(entry["end"]), crc=int(entry["crc"]), counts=entry["counts"], seconds=float(entry["seconds"]))
