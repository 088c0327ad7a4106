"""Writes `gt_vs_pred.jsonl` exactly once: window by window into a partial file with a journal, renamed when it is whole, continued when it was interrupted."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from coordexp.pipeline.artifacts import result_to_line
from coordexp.pipeline.journal import Journal, WindowMark, check_bytes, mark_line, read_journal, start_line
from coordexp.types.errors import OutputError
from coordexp.types.files import ensure_output_folder, refuse_taken, translate_os_errors
from coordexp.types.predictions import SampleResult


def partial_path(path: Path) -> Path:
    """Where the results of an unfinished run lie."""
    return path.with_name(path.name + ".partial")


def journal_path(path: Path) -> Path:
    """Where an unfinished run notes what it has written."""
    return path.with_name(path.name + ".progress")


class ResultWriter:
    """Appends windows; `finish` makes them `path`. What an interrupted run has written stays, and the next writer with its fingerprint goes on behind it.

    Two writers of one path: the second is refused.

    Example:
        with ResultWriter(paths.gt_vs_pred, fingerprint=mark) as writer:
            writer.append(results, lines=[(1, "9c1f…")], counts={}, seconds=1.5)
            writer.finish()
    """

    def __init__(self, path: Path, *, fingerprint: str, is_resumed: bool = True) -> None:
        """`is_resumed` False: what an interrupted run has written is thrown away."""
        self.path = path
        self.partial, self.journal = partial_path(path), journal_path(path)
        self._fingerprint, self._is_resumed = fingerprint, is_resumed
        self.done = Journal(fingerprint, (), 0)
        """What was written by earlier starts."""

    def __enter__(self) -> ResultWriter:
        """Raises OutputError: another run is writing, or what lies there cannot be continued."""
        ensure_output_folder(self.path.parent)
        is_new = not self.partial.exists()
        with translate_os_errors(self.partial), contextlib.ExitStack() as if_refused:
            self._stream = if_refused.enter_context(os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b"))
            refuse_taken(self._stream.fileno(), self.path, who="run", fix="wait for it, or choose another run.name")
            self._check_place()
            self._open_journal(is_new=is_new)
            if_refused.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._stream.closed and self._end == 0:
            self.partial.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        for stream in (self._stream, self._notes):
            # what a full disk did not take is tried again here; that error was told where it came first
            with contextlib.suppress(OSError):
                stream.close()

    def append(self, results: Iterable[SampleResult], *, lines: Sequence[tuple[int, str]], counts: dict[str, Any], seconds: float) -> None:
        """Write one window to the disk.

        Args:
            results: of the window, in order.
            lines: line number and content hash of each of its input records.
            counts: of the run, this window included.
            seconds: of work in all starts of the run.

        Raises:
            OutputError: the disk is full.
        """
        content = "".join(result_to_line(result) for result in results).encode()
        with translate_os_errors(self.partial):
            self._stream.write(content)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._end += len(content)
        self._crc = zlib.crc32(content, self._crc)
        with translate_os_errors(self.journal):
            self._notes.write(mark_line(WindowMark(tuple(lines), self._end, self._crc, counts, seconds)))
            self._notes.flush()
            os.fsync(self._notes.fileno())

    def finish(self, before: Callable[[], None] = lambda: None) -> None:
        """Replace `path` by what was appended. `before` writes what must be there when `path` is; it may run again after a crash."""
        before()
        with translate_os_errors(self.path):
            self.partial.replace(self.path)
            self.journal.unlink(missing_ok=True)
        self._stream.close()

    def _check_place(self) -> None:
        """That what was locked is still the partial file: another run may have finished it, or given it up, between opening and locking."""
        try:
            is_same = os.path.samestat(os.fstat(self._stream.fileno()), self.partial.stat())
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise OutputError("another run has just ended here", where=str(self.path), fix="repeat the command, or choose another run.name")

    def _open_journal(self, *, is_new: bool) -> None:
        journal = read_journal(self.journal) if self._is_resumed and not is_new else None
        if journal is not None and journal.fingerprint == self._fingerprint:
            check_bytes(self.partial, journal)
            self.done = journal
        self._end, self._crc = self.done.last.end, self.done.last.crc
        self._notes = self.journal.open("r+b" if self.done.num_bytes else "wb")
        self._stream.truncate(self._end)
        self._stream.seek(self._end)
        self._notes.truncate(self.done.num_bytes)
        self._notes.seek(self.done.num_bytes)
        if not self.done.num_bytes:
            self._notes.write(start_line(self._fingerprint))
            self._notes.flush()
