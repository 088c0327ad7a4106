"""Embeddings kept on disk, by encoder identity and text.

A cache is a folder of immutable .npz files, each written beside its final name and renamed. Readers and writers need no lock: whoever finds a file gone or
broken computes its texts again. A cache that cannot be read or written never stops a run: that is counted, and said once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from coordexp.semantics.protocol import TextEncoder, Vectors

MAX_BYTES = 128 * 2**20
"""What the embeddings of all encoders may take on disk; 384 numbers a text make about 80,000 texts."""

_LONGEST_TEXT = 1000
_MANY_FILES = 16
_SMALL_FILE = 4 * 2**20
_ABANDONED_S = 3600
_SUFFIX = ".npz"


def cache_folder() -> Path | None:
    """`$COORDEXP_CACHE`, else `coordexp` in the user's cache folder; None when there is neither."""
    if own := os.environ.get("COORDEXP_CACHE"):
        return Path(own).expanduser()
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "coordexp"
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return Path(base or home / ".cache") / "coordexp"


class CachedEncoder:
    """A text encoder that remembers, in memory and on disk. Any number of processes may use one folder.

    Example: `CachedEncoder(load_encoder()).encode(["cat"])` reads no weights when some process has encoded "cat" before.
    """

    def __init__(self, encoder: TextEncoder, *, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        """`folder` is that of the whole cache; None: `cache_folder()`."""
        self._encoder = encoder
        self._vectors: dict[str, Vectors] | None = None
        folder = folder or cache_folder()
        self._store = None if folder is None else EmbeddingFiles(folder / "embeddings", encoder.name, max_bytes=max_bytes)
        self.num_encoded = 0
        """Texts that the encoder was asked for."""

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def num_failures(self) -> int:
        """Reads and writes of the disk that failed."""
        return 0 if self._store is None else self._store.num_failures

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[N, D], rows of length 1."""
        if self._vectors is None:
            self._vectors = {} if self._store is None else self._store.read()
        known = self._vectors
        # sorted: the same missing texts make the same batches, so the same last digits, whatever their order
        missing = sorted({text for text in texts if text not in known})
        if missing or not texts:
            vectors = self._encoder.encode(missing)
            if not texts:
                return vectors
            self.num_encoded += len(missing)
            known.update(zip(missing, vectors, strict=True))
            if self._store is not None:
                self._store.add(missing, vectors)
        return np.stack([known[text] for text in texts])


class EmbeddingFiles:
    """The files of one encoder, in a folder that all encoders share."""

    def __init__(self, root: Path, encoder_name: str, *, max_bytes: int = MAX_BYTES) -> None:
        readable = re.sub(r"[^A-Za-z0-9.@-]+", "_", encoder_name)[:80]
        self.folder = root / f"{readable}-{hashlib.sha256(encoder_name.encode()).hexdigest()[:8]}"
        self._root = root
        self._max_bytes = max_bytes
        self.num_failures = 0

    def read(self) -> dict[str, Vectors]:
        """All texts with their vectors; what cannot be read is left out."""
        known: dict[str, Vectors] = {}
        for path in self._files():
            known.update(self._read_file(path))
        return known

    def add(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep `texts`; merges small files when there are many, and removes the oldest beyond `max_bytes`."""
        kept = [i for i, text in enumerate(texts) if len(text) <= _LONGEST_TEXT]
        kept = kept[: self._max_bytes // (2 * max(1, vectors[:1].nbytes))]
        if not kept:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_file({texts[i]: vectors[i] for i in kept})
            self._merge_small_files()
            self._remove_oldest()
        except OSError as error:
            self._fail(f"text embeddings cannot be kept in {self._root}: {error.strerror or error}; they are computed again next time")

    def _files(self) -> list[Path]:
        """Oldest first."""
        try:
            return sorted(self.folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            self._fail(f"text embeddings cannot be read from {self._root}: {error.strerror or error}")
            return []

    def _read_file(self, path: Path) -> dict[str, Vectors]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                texts: list[str] = json.loads(arrays["texts"].tobytes())
                vectors: Vectors = arrays["vectors"]
            if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
                raise ValueError("not vectors")
            return dict(zip(texts, vectors, strict=True))
        except FileNotFoundError:  # another process has merged it
            return {}
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            self._fail(f"the text embeddings in {path} cannot be read ({error}); they are computed again")
            if not isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            return {}

    def _write_file(self, entries: Mapping[str, Vectors]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                texts = np.frombuffer(json.dumps(list(entries)).encode(), dtype=np.uint8)
                np.savez(stream, texts=texts, vectors=np.stack(list(entries.values())))
            temporary.chmod(0o644)
            temporary.replace(self.folder / f"{time.time_ns():020d}-{temporary.stem}{_SUFFIX}")
        finally:
            temporary.unlink(missing_ok=True)

    def _merge_small_files(self) -> None:
        small = [path for path in self._files() if _size(path) < _SMALL_FILE]
        if len(small) < _MANY_FILES:
            return
        merged: dict[str, Vectors] = {}
        for path in small:
            merged.update(self._read_file(path))
        if merged:
            self._write_file(merged)
        for path in small:
            path.unlink(missing_ok=True)

    def _remove_oldest(self) -> None:
        for path in self._root.glob("*/*.part"):  # of processes that were killed
            if time.time() - _changed(path) > _ABANDONED_S:
                path.unlink(missing_ok=True)
        files = sorted(self._root.glob(f"*/*{_SUFFIX}"), key=lambda path: path.name, reverse=True)
        total = 0
        for path in files:
            total += _size(path)
            if total > self._max_bytes:
                path.unlink(missing_ok=True)

    def _fail(self, sentence: str) -> None:
        self.num_failures += 1
        if self.num_failures == 1:
            warnings.warn(sentence, stacklevel=4)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
