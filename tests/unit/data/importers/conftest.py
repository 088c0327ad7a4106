"""Pictures and reading back for the tests of importers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.data.jsonl import read_records
from coordexp.data.validate import validate_file
from coordexp.types.records import Record


@pytest.fixture(scope="session")
def paint() -> Callable[..., Path]:
    """Writes a picture of a size (width, height) as it is stored; `turned`: with the EXIF tag that shows it as (height, width)."""

    def write(path: Path, width: int, height: int, *, mode: str = "RGB", turned: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {}
        if turned:
            exif = Image.Exif()
            exif[0x0112] = 6
            options["exif"] = exif
        Image.new(mode, (width, height), 90).save(path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def read_valid() -> Callable[[Path], list[Record]]:
    """The records of a file that passes every rule, the images included."""

    def read(path: Path) -> list[Record]:
        report = validate_file(path, check_images=True)
        assert report.is_valid, report.violations
        return read_records(path)

    return read
