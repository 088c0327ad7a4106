"""Writes that leave the old file or the new one, never half of one. Every artifact of the package goes through here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from coordexp.types.errors import OutputError

_PART, _MADE = ".part", ".made"
"""Ends of the names of what is not complete: locked by its process, and before that."""
_MOVES = 100
"""Tries against others who write the same folder."""
_CANNOT_WRITE = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EFBIG: "the file would be larger than allowed here",
}


def describe_os_error(error: OSError) -> OutputError | None:
    """The sentence for an output that cannot be written; None when the error is of another kind."""
    reason = _CANNOT_WRITE.get(error.errno or 0)
    if reason is None:
        return None
    return OutputError(reason, where=str(error.filename or "output"), fix="free space or choose another output folder")


@contextmanager
def translate_os_errors(path: Path) -> Generator[None]:
    """Raise `OutputError` in place of an OSError that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        described = describe_os_error(error)
        if described is None:
            raise
        raise OutputError(described.what, where=str(path), fix=described.fix) from error


def ensure_output_folder(folder: Path) -> Path:
    """Create `folder` and prove that a file can be written there, before work starts that would be lost otherwise.

    Raises:
        OutputError: it cannot be created or written.
    """
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
    return folder


@contextmanager
def atomic_writer(path: Path, mode: str = "w") -> Generator[IO[str]]:
    """A text file that appears at `path` complete (flushed to disk, then renamed) or not at all. What killed processes left of it goes first.

    Raises:
        OutputError: the disk is full, the folder cannot be written, or `path` is a folder.
    """
    if path.is_dir():
        raise OutputError("is a folder, not a file", where=str(path), fix="name a file in it")
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent, path.name)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_MADE)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, mode, encoding="utf-8", newline="\n") as stream:
                _try_lock(descriptor)  # before it has a name that another process would look at
                temporary = temporary.rename(temporary.with_suffix(_PART))
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Atomic `path.write_text`."""
    with atomic_writer(path) as stream:
        stream.write(text)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """A folder that replaces `path` as a whole when the block ends without an error; on an error the old one stays.

    Raises:
        OutputError: the disk is full, or the parent cannot be written.
    """
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _workspace(path.parent, path.name) as work:
            new = work / "new"
            new.mkdir()
            yield new
            _take_place(new, path, work)


def _take_place(new: Path, path: Path, work: Path) -> None:
    """What is at `path` goes to `work`. Another process may put its own folder there between the two moves: then that one goes too."""
    for number in range(_MOVES):
        with contextlib.suppress(FileNotFoundError):
            path.rename(work / f"previous{number}")
        try:
            new.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or number == _MOVES - 1:
                raise
        else:
            return


@contextmanager
def replace_owned(folder: Path, *, is_owned: Callable[[str], bool]) -> Generator[Path]:
    """Yields an empty folder whose entries take the place of an earlier run's in `folder` when the block ends without an error.

    `is_owned` tells by its name which entry a run of this kind writes. When `folder` holds nothing else it is replaced as a whole. What belongs to
    somebody else stays where it is, and then the own entries are replaced one by one.

    Raises:
        OutputError: the disk is full, the folder cannot be written, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError("is a file, not a folder", where=str(folder), fix="choose another output folder")
    if not folder.is_dir() or (_can_be_moved(folder) and all(is_owned(entry.name) for entry in folder.iterdir())):
        with atomic_folder(folder) as new:
            yield new
        return
    with translate_os_errors(folder), _workspace(folder, "results") as work:
        new, previous = work / "new", work / "previous"
        new.mkdir()
        yield new
        previous.mkdir()
        for entry in [entry for entry in folder.iterdir() if is_owned(entry.name)]:
            entry.rename(previous / entry.name)
        for entry in sorted(new.iterdir()):
            entry.rename(folder / entry.name)


def _can_be_moved(folder: Path) -> bool:
    """Not so where somebody stands in it, for a mounted folder, for a link to another disk, and below a folder that is closed to us."""
    real = folder.resolve()
    is_in_use = Path.cwd().is_relative_to(real)
    return not is_in_use and not folder.is_symlink() and not os.path.ismount(folder) and os.access(real.parent, os.W_OK)


@contextmanager
def _workspace(parent: Path, name: str) -> Generator[Path]:
    """A hidden folder in `parent`, gone when the block ends. Those of the same name that killed processes left there go first."""
    _remove_leftovers(parent, name)
    made = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}.", suffix=_MADE))
    with _lock(made):  # before it has a name that another process would look at
        work = made.rename(made.with_suffix(_PART))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(parent: Path, name: str) -> None:
    """What processes that were killed have left of `name`; what belongs to one that runs, or to somebody else, stays."""
    for leftover in parent.glob(f"{glob.escape(f'.{name}.')}*{_PART}"):
        with contextlib.suppress(OSError), _lock(leftover) as is_free:  # its own process may remove it now
            if is_free and leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            elif is_free:
                leftover.unlink(missing_ok=True)


@contextmanager
def claim(folder: Path, *, who: str, fix: str) -> Generator[None]:
    """The folder belongs to this process until the block, or the process, ends.

    Args:
        folder: exists.
        who: what writes there, for the error: `training`.
        fix: what to do when somebody else has it.

    Raises:
        OutputError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        refuse_taken(descriptor, folder, who=who, fix=fix)
        yield
    finally:
        os.close(descriptor)


def refuse_taken(descriptor: int, place: Path, *, who: str, fix: str) -> None:
    """Lock an open file or folder for as long as it is open; raises OutputError where another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another {who} is writing here", where=str(place), fix=fix) from error
    except OSError:  # a file system without locks
        return


@contextmanager
def _lock(folder: Path) -> Generator[bool]:
    """Whether the folder, or file, was free; then it is ours until the block, or the process, ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """False: it is somebody else's, or lies on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
