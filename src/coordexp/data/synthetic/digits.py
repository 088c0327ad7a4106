"""Real handwritten digits (scikit-learn's 8x8 samples, enlarged smoothly) scattered over textures or photographs, with overlaps.

Train and val never share an original sample: every fifth sample is val. Photographs are split too: val crops come from their right third.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from coordexp.data.synthetic.scenes import Box, Fold, Scene, SceneSettings, draw_count, draw_side, find_place, scene_rng
from coordexp.data.synthetic.textures import draw_background
from coordexp.types.errors import BackendError
from coordexp.types.records import DetObject

DIGIT_NAMES: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_VAL_EVERY = 5
_INK_THRESHOLD = 72
"""Of 255: where the box of a digit begins."""
_PHOTO_TRAIN_SHARE = 0.65


@lru_cache(maxsize=2)
def load_samples(fold: Fold) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Original samples of a fold: images [N, 8, 8] scaled to 0..255, classes [N].

    Raises:
        BackendError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BackendError("scikit-learn is not installed", where="digits", fix="run pip install 'coordexp[demo]'") from error
    bunch: Any = load_digits()
    in_val = np.arange(len(bunch.target)) % _VAL_EVERY == 0
    chosen = in_val if fold == "val" else ~in_val
    images = np.clip(bunch.images[chosen] * 16, 0, 255).astype(np.uint8)
    return images, bunch.target[chosen].astype(np.int64)


@lru_cache(maxsize=2)
def load_photos(fold: Fold) -> tuple[Image.Image, ...]:
    """The photographs inside scikit-learn, cut to the part that belongs to the fold.

    Raises:
        BackendError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise BackendError("scikit-learn is not installed", where="digits", fix="run pip install 'coordexp[demo]'") from error
    photos: list[Image.Image] = []
    for pixels in load_sample_images().images:
        edge = round(pixels.shape[1] * _PHOTO_TRAIN_SHARE)
        part = pixels[:, :edge] if fold == "train" else pixels[:, edge:]
        photos.append(Image.fromarray(np.ascontiguousarray(part)))
    return tuple(photos)


def render_digits_scene(settings: SceneSettings, index: int, *, num_objects: int | None = None) -> Scene:
    """Scene `index` of a split; `num_objects` fixes the count (fewer when no place is found)."""
    rng = scene_rng(settings, index)
    samples, classes = load_samples(settings.fold)
    photos = load_photos(settings.fold) if "photo" in settings.backgrounds else ()
    count = draw_count(settings, rng, num_objects)
    image = draw_background(settings, rng, photos=photos)
    boxes: list[Box] = []
    names: list[str] = []
    for _ in range(count):
        chosen = int(rng.integers(len(samples)))
        ink = _ink(samples[chosen], draw_side(settings, rng))
        contrast = float(rng.uniform(*settings.contrast))
        tint = rng.integers(-40, 41, size=3)
        box = find_place(boxes, ink.shape[1], ink.shape[0], settings, rng)
        if box is None:
            continue
        _write(image, box, ink, contrast, tint)
        boxes.append(box)
        names.append(DIGIT_NAMES[int(classes[chosen])])
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i][1], boxes[i][0]))
    objects = tuple(DetObject(desc=names[i], kind="bbox_2d", points=boxes[i]) for i in order)
    return Scene(image=image, objects=objects, rings=(None,) * len(objects))


def _ink(sample: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.int64]:
    """Coverage 0..255 of one digit, cut to its own box, whose longer side is close to `side`."""
    rows, columns = np.flatnonzero(sample.max(axis=1) > _INK_THRESHOLD), np.flatnonzero(sample.max(axis=0) > _INK_THRESHOLD)
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    full = max(8, round(8 * side / longest))
    large = np.asarray(Image.fromarray(sample).resize((full, full), Image.Resampling.BICUBIC))
    rows, columns = np.flatnonzero(large.max(axis=1) > _INK_THRESHOLD), np.flatnonzero(large.max(axis=0) > _INK_THRESHOLD)
    cut = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.int64)
    return np.clip((cut - 40) * 255 // 180, 0, 255)


def _write(image: npt.NDArray[np.uint8], box: Box, ink: npt.NDArray[np.int64], contrast: float, tint: npt.NDArray[np.int64]) -> None:
    """Blend the digit in a colour that is lighter or darker than what lies under it."""
    patch = image[box[1] : box[3], box[0] : box[2]]
    under = int(patch.mean(dtype=np.float64))
    target = 0 if under > 127 else 255
    colour = np.clip(under + (target - under) * contrast + tint, 0, 255).astype(np.int64)
    cover = ink[:, :, None]
    patch[:] = (patch.astype(np.int64) * (255 - cover) + colour * cover + 127) // 255
