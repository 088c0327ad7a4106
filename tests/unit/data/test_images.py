"""Decoding of pictures: upright, RGB, and one sentence for each broken file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.data.images import load_image, read_image_size
from coordexp.types.errors import DataError

PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright_and_its_size_known_from_the_header(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    turned = {2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2), 6: np.rot90(PIXELS, -1)}
    turned |= {7: np.rot90(PIXELS, 2).transpose(1, 0, 2), 8: np.rot90(PIXELS), 1: PIXELS}
    image = load_image(tmp_path / "a.png")
    assert (np.asarray(image) == turned[orientation]).all()
    assert read_image_size(tmp_path / "a.png") == image.size


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 7, (7, 7, 7)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (10, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 9, (9, 9, 9)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, value: object, expected: tuple[int, int, int]) -> None:
    Image.new(mode, (3, 2), value).save(tmp_path / "a.png")  # type: ignore[arg-type]
    image = load_image(tmp_path / "a.png")
    assert (image.mode, image.size, image.getpixel((1, 1))) == ("RGB", (3, 2), expected)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), (b"", "is not an image file"), (b"text", "is not an image file"), ("cut", "cannot be decoded")],
    ids=["missing", "empty", "text", "cut"],
)
def test_a_picture_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | str | None, sentence: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:600] if content == "cut" else content)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"train.jsonl:4: the image .*a.png {sentence}"):
        load_image(path, where="train.jsonl:4")


def test_a_picture_larger_than_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    for read in (load_image, read_image_size):
        with pytest.raises(DataError, match="has 100x50 pixels, more than the limit of 4999"):
            read(tmp_path / "a.png", max_pixels=4999)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(folder: Path, *, before: bytes = b"", after: bytes = b"", size: tuple[int, int] = (30, 20)) -> Path:
    """A PNG with chunks before and behind its pixels."""
    path = folder / "a.png"
    Image.effect_noise(size, 50).convert("RGB").save(path)
    content = path.read_bytes()
    first, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    path.write_bytes(content[:first] + before + content[first:end] + after + content[end:])
    return path


def turned_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))


TURNED_BY_XMP = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta tiff:Orientation="6"/>')


@pytest.mark.parametrize("notes", [turned_by_exif(), TURNED_BY_XMP, chunk(b"tEXt", b"Comment\0turned?"), b""], ids=["exif", "xmp", "text", "none"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_what_stands_before_or_behind_the_pixels_of_a_png_turns_its_size_as_it_turns_the_picture(tmp_path: Path, notes: bytes, place: str) -> None:
    path = png(tmp_path, **{place: notes})
    assert read_image_size(path) == load_image(path).size == ((20, 30) if notes in (turned_by_exif(), TURNED_BY_XMP) else (30, 20))


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    path = png(tmp_path)
    content = path.read_bytes()
    at = content.index(b"IDAT") + 4
    path.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    assert read_image_size(path) == (30, 20)
    with pytest.raises(DataError, match="cannot be decoded"):
        load_image(path)


def test_a_png_that_was_cut_off_is_noticed_by_its_header(tmp_path: Path) -> None:
    path = png(tmp_path, size=(300, 200))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image_size(path)
