"""What the writers of tokenizers, weights and optimizer states raise where a disk is full or closed, as one sentence."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from coordexp.types.errors import OutputError
from coordexp.types.files import describe_os_error

_FULL_BELOW_BYTES = 1 << 20
_RUST = re.compile(r"\(os error (\d+)\)")


class DiskErrors:
    """Raises `OutputError` in place of what those writers raise. A class, because tokenizers raises nothing more special than `Exception`.

    Example: `with DiskErrors(folder): tokenizer.save_pretrained(folder)`
    """

    def __init__(self, folder: Path, *, fix: str = "free space or choose another output folder") -> None:
        self._folder, self._fix = folder, fix

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        number = self._number(kind, error)
        described = None if number is None else describe_os_error(OSError(number, os.strerror(number)))
        if described is not None:
            where = error.filename if isinstance(error, OSError) else None
            raise OutputError(described.what, where=str(where or self._folder), fix=self._fix) from error

    def _number(self, kind: type[BaseException] | None, error: BaseException | None) -> int | None:
        """Of the operating system."""
        if isinstance(error, OSError):
            return error.errno
        if kind is not Exception and not isinstance(error, SafetensorError | RuntimeError):
            return None
        if found := _RUST.search(str(error)):
            return int(found[1])
        # torch does not say why it could not write
        return errno.ENOSPC if kind is not Exception and shutil.disk_usage(self._folder).free < _FULL_BELOW_BYTES else None
