"""Lengths of all samples of a set, in tokens: measured once without looking at an image, then kept on disk under a name made of everything that decides them.

A cache that cannot be read or written never stops a run: the lengths are measured again, and that is said.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordexp.batching.packing import Indices
from coordexp.training.joined import SampleSource
from coordexp.training.samples import SampleLength
from coordexp.types.progress import NoProgress, Progress

MAX_BYTES = 256 * 2**20
"""What the lengths of all sets may take on disk: 8 bytes a sample."""

_SPOT_CHECKS = 16
_ABANDONED_S = 3600

_Table = npt.NDArray[np.int32]
"""[num_samples, 2]: tokens of the prompt with its image, tokens of the whole sample; nothing cut."""


class LengthBook:
    """Lengths of one source. May be asked from several threads.

    Example: `LengthBook(source, folder=cache_folder() / "lengths").row_lengths(0)` is `array([187, 94, …])`
    """

    def __init__(
        self, source: SampleSource, *, folder: Path | None, name: str = "data", progress: Progress | None = None, say: Callable[[str], object] = lambda _: None
    ) -> None:
        """`folder` of the cache; None: nothing is kept."""
        self._source = source
        self._folder = folder
        self._name = name
        self._progress = progress or NoProgress()
        self._say = say
        self._digest: str | None = None
        self._static: _Table | None = None
        self.num_measured = 0
        """Samples that were measured, not read from the cache."""

    def table(self, epoch: int) -> _Table:
        """Lengths before anything is cut. The same in all epochs when the samples are."""
        if self._source.has_static_length:
            if self._static is None:
                self._static = self._load_or_measure(0)
            return self._static
        return self._load_or_measure(epoch)

    def row_lengths(self, epoch: int) -> Indices:
        """Tokens that each sample takes in a row: cut to the length limit, where that is allowed.

        Raises:
            DataError: a sample does not fit and may not, or cannot, be cut.
        """
        table, limit = self.table(epoch), self._source.max_length
        total = table[:, 1].astype(np.int64)
        if limit is None:
            return total
        for index in np.flatnonzero(total > limit).tolist():
            self._source.check_length(index, SampleLength(*table[index].tolist()))
        return np.minimum(total, limit)

    def first(self, index: int) -> SampleLength:
        """Of one sample in the first epoch, nothing cut."""
        return SampleLength(*self.table(0)[index].tolist())

    def _load_or_measure(self, epoch: int) -> _Table:
        path = None if self._folder is None else self._folder / f"{self._content_digest()[:32]}-{epoch}.npy"
        if path is not None and (kept := self._load(path, epoch)) is not None:
            return kept
        measured = self._measure(epoch)
        if path is not None:
            self._keep(path, measured)
        return measured

    def _content_digest(self) -> str:
        if self._digest is None:
            self._digest = self._source.content_digest()
        return self._digest

    def _measure(self, epoch: int) -> _Table:
        count = len(self._source)
        table = np.empty((count, 2), dtype=np.int32)
        # later epochs are measured while the training has the display
        progress = self._progress if epoch == 0 else NoProgress()
        for index in progress.track(range(count), f"measure {self._name}", total=count):
            length = self._source.measure(index, epoch=epoch)
            table[index] = length.prompt, length.total
        self.num_measured += count
        return table

    def _load(self, path: Path, epoch: int) -> _Table | None:
        try:
            table = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError) as error:
            self._say(f"the lengths in {path} cannot be read ({error}); they are measured again")
            return None
        if table.shape != (len(self._source), 2) or table.dtype != np.int32 or not self._is_still_true(table, epoch):
            self._say(f"the lengths in {path} are not those of this version; they are measured again")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return table

    def _is_still_true(self, table: _Table, epoch: int) -> bool:
        """A name cannot tell that the code which makes samples has changed: some samples are measured each time."""
        count = len(table)
        for index in range(0, count, max(1, count // _SPOT_CHECKS)):
            length = self._source.measure(index, epoch=epoch)
            if (length.prompt, length.total) != tuple(table[index].tolist()):
                return False
        return True

    def _keep(self, path: Path, table: _Table) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    np.save(stream, table)
                temporary.chmod(0o644)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _remove_oldest(path.parent)
        except OSError as error:
            self._say(f"lengths cannot be kept in {path.parent}: {error.strerror or error}; they are measured again next time")


def _remove_oldest(folder: Path) -> None:
    """Files beyond the limit, and those of processes that were killed. Another process may do the same at the same time."""
    sizes: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if path.suffix == ".part" and time.time() - status.st_mtime > _ABANDONED_S:
                path.unlink()
            elif path.suffix == ".npy":
                sizes.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(sizes, reverse=True):
        total += size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
