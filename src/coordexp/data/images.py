"""Image files to upright RGB pictures: the same decoding for data intake, training, inference and rollouts. Pillow only."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from coordexp.types.errors import DataError

MAX_IMAGE_PIXELS = 128_000_000
"""A larger header is refused before anything is decoded: a few kilobytes of PNG can unpack to gigabytes."""

_EXIF_ORIENTATION = 0x0112
_PNG_SIGNATURE_BYTES = 8
_PNG_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_SIDEWAYS = (5, 6, 7, 8)
# what Pillow's readers raise on a damaged file; PNG chunks raise SyntaxError, TIFF and EXIF directories struct.error
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error, Image.DecompressionBombError)


def load_image(path: Path, *, where: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The picture in `path`, turned upright by its EXIF tag, in mode RGB.

    Transparent pixels are shown on white, 16-bit values keep their upper byte (rounded), CMYK is converted, of an animation the first frame is taken.

    Args:
        path: an image file that Pillow reads.
        where: names the record in the error; the path alone by default.
        max_pixels: larger images are refused.

    Raises:
        DataError: no such file, not an image, damaged, or larger than `max_pixels`.
    """
    image = _open(path, where=where, max_pixels=max_pixels)
    with image:
        try:
            return _upright_rgb(image)
        except _BROKEN as error:
            raise _broken(path, where, error) from error


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """What `load_image` makes of an image that is open already.

    Raises:
        DataError: it is damaged, or has no size.
    """
    try:
        return _upright_rgb(image)
    except _BROKEN as error:
        raise DataError(f"the image cannot be decoded ({error})", fix="give another image") from error


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Example: `ImageHeader(width=480, height=640, orientation=6)`: stored as 640x480, turned upright by its EXIF tag."""

    width: int
    """Of the upright image."""
    height: int
    orientation: int
    """EXIF; 1: as it is stored."""


def read_image_size(path: Path, *, where: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(width, height) as `load_image` returns it, from the header alone.

    Raises:
        DataError: no such file, not an image, or larger than `max_pixels`.
    """
    header = read_image_header(path, where=where, max_pixels=max_pixels)
    return header.width, header.height


def read_image_header(path: Path, *, where: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS) -> ImageHeader:
    """Size and orientation without decoding a pixel; raises as `read_image_size`."""
    image = _open(path, where=where, max_pixels=max_pixels)
    with image:
        try:
            # Pillow decodes a whole PNG to see whether EXIF stands behind its pixels
            exif = Image.Image.getexif(image) if image.format == "PNG" and _ends_with_pixels(path) else image.getexif()
            orientation = int(exif.get(_EXIF_ORIENTATION) or 1)
        except _BROKEN as error:
            raise _broken(path, where, error) from error
        width, height = image.size
    return ImageHeader(height, width, orientation) if orientation in _SIDEWAYS else ImageHeader(width, height, orientation)


def _ends_with_pixels(path: Path) -> bool:
    """Whether a PNG file is complete and has no EXIF or text (which may hold EXIF) behind its pixels."""
    has_pixels = False
    with path.open("rb") as stream:
        stream.seek(_PNG_SIGNATURE_BYTES)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return has_pixels
            if has_pixels and kind in _PNG_NOTES:
                return False
            has_pixels |= kind == b"IDAT"
            stream.seek(length + 4, os.SEEK_CUR)  # its content and checksum
    return False


def resize_image(image: Image.Image, *, width: int, height: int) -> Image.Image:
    """The one resize of the project: BICUBIC over the whole RGB picture, `reducing_gap=None`; the picture itself when it has the size."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _open(path: Path, *, where: str | None, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError as error:
        raise DataError(
            f"the image {path} does not exist", where=where, fix="image paths are relative to the folder of the data file; check that the images lie there"
        ) from error
    except _BROKEN as error:
        raise _broken(path, where, error) from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise DataError(f"the image {path} has {width}x{height} pixels, more than the limit of {max_pixels}", where=where, fix="scale the image down")
    return image


def _broken(path: Path, where: str | None, error: BaseException) -> DataError:
    reason = "is not an image file that Pillow reads" if isinstance(error, Image.UnidentifiedImageError) else f"cannot be decoded ({error})"
    if isinstance(error, PermissionError | IsADirectoryError):
        reason = f"cannot be read ({error.strerror})"
    return DataError(f"the image {path} {reason}", where=where, fix="replace the file or take its record out of the data")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode == "I" or image.mode.startswith("I;"):
        return Image.fromarray(_upper_byte(np.asarray(image)), mode="L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upper_byte(values: np.ndarray) -> np.ndarray:
    """16-bit grey to 8 bit: 65535 becomes 255, rounded. Pillow's own conversion clips at 255 and whitens the picture."""
    wide = values.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise ValueError("integer pixels outside 0..65535")
    return ((wide + 128) // 257).astype(np.uint8)
