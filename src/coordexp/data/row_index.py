"""Where the images and annotations of a JSON document are, kept on disk: memory does not grow with the document.

A private database of SQLite in the folder for temporary files, without a name, so that it goes with the process, also with one that is killed.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordexp.types.errors import OutputError

_ROWS = 10_000
"""Held before they are written."""
# no types: the id 1 and the id "1" are two; the position of a row is its rowid less 1
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE image (id, start, length);
CREATE TABLE annotation (id, image, start, length);
"""
_INDEXES = """
CREATE UNIQUE INDEX image_id ON image (id);
CREATE UNIQUE INDEX annotation_id ON annotation (id);
CREATE INDEX annotation_image ON annotation (image, start, length);
"""


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One image with its annotations, as they are spelled in the document."""

    position: int
    """Of the image in its array."""
    image: bytes
    annotations: tuple[tuple[int, bytes], ...]
    """Position in their array and content, in the order of the document."""


class RowIndex:
    """Fill it in the order of the document, `seal` it, then take its rows."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.executescript(_TABLES)
        self._images: list[tuple[int | str, int, int]] = []
        self._annotations: list[tuple[int | str, int | str, int, int]] = []
        self.num_images = 0

    def add_image(self, name: int | str, start: int, length: int) -> None:
        """An image of the id `name` and its place in the file, in bytes."""
        self._images.append((name, start, length))
        self.num_images += 1
        if len(self._images) == _ROWS:
            self._flush()

    def add_annotation(self, name: int | str, image: int | str, start: int, length: int) -> None:
        """An annotation of the id `name` on the image of the id `image`, and its place."""
        self._annotations.append((name, image, start, length))
        if len(self._annotations) == _ROWS:
            self._flush()

    def seal(self) -> bool:
        """Whether ids are unique and the image of each annotation is there; nothing can be added any more.

        Raises:
            OutputError: there is no space for temporary files.
        """
        self._flush()
        try:
            self._db.executescript(_INDEXES)
        except sqlite3.IntegrityError:
            return False
        except sqlite3.OperationalError as error:
            raise _no_space(error) from error
        return self._db.execute("SELECT 1 FROM annotation WHERE image NOT IN (SELECT id FROM image) LIMIT 1").fetchone() is None

    def rows(self, path: Path) -> Iterator[DocumentRow]:
        """Every image of the document `path`, in its order."""
        with path.open("rb") as stream:
            file = stream.fileno()
            for position, (name, start, length) in enumerate(self._db.execute("SELECT id, start, length FROM image ORDER BY rowid")):
                places = self._db.execute("SELECT rowid - 1, start, length FROM annotation WHERE image = ? ORDER BY start", (name,))
                annotations = tuple([(number, os.pread(file, size, place)) for number, place, size in places])
                yield DocumentRow(position, os.pread(file, length, start), annotations)

    def _flush(self) -> None:
        try:
            self._db.executemany("INSERT INTO image VALUES (?, ?, ?)", self._images)
            self._db.executemany("INSERT INTO annotation VALUES (?, ?, ?, ?)", self._annotations)
        except sqlite3.OperationalError as error:
            raise _no_space(error) from error
        self._images.clear()
        self._annotations.clear()


def _no_space(error: sqlite3.Error) -> OutputError:
    return OutputError(f"the index of a document cannot be kept ({error})", where="temporary files", fix="let TMPDIR name a folder with free space")
