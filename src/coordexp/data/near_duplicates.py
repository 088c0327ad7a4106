"""Near-duplicate images: the difference hash (dHash, 64 bits of brightness steps in a 9 × 8 picture) and a 4 × 4 colour picture that confirms it.

The hash alone takes every flat picture for the same one; colours tell them apart. Both survive resizing, recompression and small changes of brightness,
neither survives mirroring, cropping or turning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coordexp.data.images import load_image

MAX_DISTANCE = 8
"""Bits: beyond it the search would compare most images with most others, and mean little."""
_BITS = 64
_COLOUR_TOLERANCE = 12.0
"""Mean absolute difference of the two 4 × 4 colour pictures, of 255."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an image looks like from far away."""

    steps: int
    """64 bits: whether the brightness rises from one column to the next."""
    colours: bytes
    """4 × 4 RGB."""

    def resembles(self, other: Fingerprint, *, distance: int) -> bool:
        """At most `distance` different bits, and about the same colours."""
        if (self.steps ^ other.steps).bit_count() > distance:
            return False
        mine, theirs = (np.frombuffer(one.colours, dtype=np.uint8).astype(np.int16) for one in (self, other))
        return float(np.abs(mine - theirs).mean()) <= _COLOUR_TOLERANCE


def fingerprint(path: Path) -> Fingerprint:
    """Of an image file, upright.

    Raises:
        DataError: it is missing or damaged.
    """
    image = load_image(path)
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return Fingerprint(int.from_bytes(np.packbits(bits).tobytes(), "big"), image.resize((4, 4), Image.Resampling.BOX).tobytes())


class NearDuplicates:
    """Images that were seen, to ask for one that resembles another.

    Two hashes of at most `distance` different bits agree in one of `distance + 1` bands, so that only images with an equal band are compared.

    Example: `index = NearDuplicates(distance=4); index.add(print_a, "a.png"); index.find(print_b)` is `"a.png"` or None.
    """

    def __init__(self, *, distance: int) -> None:
        """Raises ValueError: `distance` is not within 0..MAX_DISTANCE."""
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"a distance of {distance} bits is not within 0..{MAX_DISTANCE}")
        self._distance = distance
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(distance + 1)]
        self._seen: list[tuple[Fingerprint, str]] = []

    def add(self, mark: Fingerprint, name: str) -> None:
        for band, key in zip(self._bands, self._keys(mark), strict=True):
            band.setdefault(key, []).append(len(self._seen))
        self._seen.append((mark, name))

    def find(self, mark: Fingerprint) -> str | None:
        """The first image that was added and resembles this one."""
        candidates = {number for band, key in zip(self._bands, self._keys(mark), strict=True) for number in band.get(key, ())}
        return next((self._seen[number][1] for number in sorted(candidates) if self._seen[number][0].resembles(mark, distance=self._distance)), None)

    def _keys(self, mark: Fingerprint) -> Iterator[int]:
        count = len(self._bands)
        for place in range(count):
            low, high = place * _BITS // count, (place + 1) * _BITS // count
            yield mark.steps >> low & (1 << high - low) - 1
