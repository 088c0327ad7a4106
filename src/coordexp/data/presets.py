"""Presets of rescaling: which image sizes a data set has, spelled in the name of its folder."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from coordexp.types.errors import DataError
from coordexp.types.records import GeometryKind, Record

_NAME = re.compile(r"rescale_(?P<multiple>\d+)_(?P<blocks>\d+)(?:_(?P<kind>bbox|poly))?(?:_max(?P<objects>\d+))?")
_KINDS: dict[str | None, GeometryKind | None] = {None: None, "bbox": "bbox_2d", "poly": "poly"}
_FIX = "name it rescale_<multiple>_<blocks>, optionally with _bbox or _poly and _max<objects>, as rescale_32_768_bbox_max60"


@dataclass(frozen=True, slots=True)
class RescalePreset:
    """Sides are multiples of `multiple` pixels; the area is between `min_blocks` and `max_blocks` squares of that side.

    Example: `RescalePreset(multiple=32, max_blocks=768, kind="bbox_2d", max_objects=60).name == "rescale_32_768_bbox_max60"`
    """

    multiple: int = 32
    """Pixels; of Qwen3-VL: patch size times merge size."""
    max_blocks: int = 768
    min_blocks: int = 64
    """64 blocks of 32×32 are the 65,536 pixels below which the stock processor of Qwen3-VL would enlarge the image itself."""
    kind: GeometryKind | None = None
    """The only geometry that the data set may hold; None: any."""
    max_objects: int | None = None
    """Most objects that a record may hold; None: any number."""

    def __post_init__(self) -> None:
        """Raises DataError: limits that no image can meet."""
        if self.multiple < 1 or not 1 <= self.min_blocks <= self.max_blocks:
            what = f"multiple={self.multiple}, min_blocks={self.min_blocks}, max_blocks={self.max_blocks}"
            raise DataError(what, where="rescale preset", fix="use multiple >= 1 and 1 <= min_blocks <= max_blocks")

    @property
    def name(self) -> str:
        """Name of the folder; `min_blocks` is not part of it."""
        kind = {None: "", "bbox_2d": "_bbox", "poly": "_poly"}[self.kind]
        objects = "" if self.max_objects is None else f"_max{self.max_objects}"
        return f"rescale_{self.multiple}_{self.max_blocks}{kind}{objects}"

    def refuse_unfit(self, record: Record, *, where: str) -> None:
        """Raises DataError: the record holds what the name of the preset excludes."""
        if self.max_objects is not None and len(record.objects) > self.max_objects:
            raise DataError(f"{len(record.objects)} objects, but the preset says at most {self.max_objects}", where=where, fix="choose another preset")
        for index, item in enumerate(record.objects):
            if self.kind is not None and item.kind != self.kind:
                raise DataError(f"a {item.kind}, but the preset says {self.kind} only", where=f"{where}: objects[{index}]", fix="choose another preset")


def parse_preset(name: str, *, min_blocks: int | None = None) -> RescalePreset:
    """The preset of a folder name; `min_blocks` is lowered to the name's `max_blocks` when it is not given.

    Raises:
        DataError: not a name of a preset, or limits that no image can meet.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise DataError(f"{name!r} is not a preset", where="rescale preset", fix=_FIX)
    blocks = int(found["blocks"])
    lowest = min(64, blocks) if min_blocks is None else min_blocks
    max_objects = int(found["objects"]) if found["objects"] else None
    return RescalePreset(multiple=int(found["multiple"]), max_blocks=blocks, min_blocks=lowest, kind=_KINDS[found["kind"]], max_objects=max_objects)


@lru_cache(maxsize=65536)
def plan_size(width: int, height: int, preset: RescalePreset) -> tuple[int, int]:
    """Width and height of the rescaled image: of the sizes that the preset allows next to the ideal one, the one closest in aspect ratio, then in area.

    The ideal size is the image's own, or what the nearer limit of the area allows. An image too elongated for its neighbours to be allowed takes the
    closest aspect ratio of all allowed sizes.

    Example: `plan_size(500, 375, RescalePreset()) == (512, 384)`
    """
    blocks = width * height / preset.multiple**2
    scale = math.sqrt(min(max(blocks, preset.min_blocks), preset.max_blocks) / blocks) / preset.multiple
    ideal = width * scale, height * scale
    near = [(a, b) for a in _around(ideal[0]) for b in _around(ideal[1])]
    allowed = [size for size in near if preset.min_blocks <= size[0] * size[1] <= preset.max_blocks] or _all_sizes(preset)
    columns, rows = min(
        allowed, key=lambda size: (_deviation(size[0] / size[1], ideal[0] / ideal[1]), _deviation(size[0] * size[1], ideal[0] * ideal[1]), size)
    )
    return columns * preset.multiple, rows * preset.multiple


def _around(blocks: float) -> set[int]:
    return {max(1, math.floor(blocks)), max(1, math.ceil(blocks))}


def _all_sizes(preset: RescalePreset) -> list[tuple[int, int]]:
    low, high = preset.min_blocks, preset.max_blocks
    return [(a, b) for a in range(1, high + 1) for b in range(math.ceil(low / a), high // a + 1)]


def _deviation(value: float, ideal: float) -> float:
    return round(abs(math.log(value / ideal)), 12)
