"""Colours of classes: the same name has the same colour in every picture and report, on every machine."""

from __future__ import annotations

import colorsys
import hashlib
from typing import TypeAlias

from coordexp.semantics.normalize import normalize_label

Rgb: TypeAlias = tuple[int, int, int]

_LIGHT_TEXT: Rgb = (255, 255, 255)
_DARK_TEXT: Rgb = (0, 0, 0)


def class_color(name: str) -> Rgb:
    """A saturated colour from a hash of the normalized name."""
    digest = hashlib.sha256(normalize_label(name).encode("utf-8", "replace")).digest()
    hue = int.from_bytes(digest[:4], "big") / 2**32
    lightness, saturation = (0.46, 0.54, 0.62)[digest[4] % 3], (0.70, 0.85)[digest[5] % 2]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_on(background: Rgb) -> Rgb:
    """Text colour with the higher contrast on `background`."""
    return max((_LIGHT_TEXT, _DARK_TEXT), key=lambda text: contrast(text, background))


def contrast(first: Rgb, second: Rgb) -> float:
    """WCAG contrast ratio, 1 to 21: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Rgb) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (channel / 255 for channel in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
