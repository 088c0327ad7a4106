"""Schema of `custom.augmentation`: what may happen to training pictures, with their boxes and polygons. A part that is absent is off."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coordexp.config.sections import Number, Section, Share, Whole

PartOfSide = Annotated[Number, Field(gt=0, le=1)]
Level = Annotated[Whole, Field(ge=0, le=255)]
HueTurn = Annotated[Number, Field(ge=0, le=0.5)]


class CropSection(Section):
    """A window of the picture, with its proportions, enlarged to its size."""

    probability: Share
    """Of a picture in an epoch. No default."""
    min_scale: PartOfSide = 0.6
    """Shortest side of a window, as a share of the picture's."""
    min_coverage: Share = 0.5
    """Mean visible share of the objects that a window must reach; after ten windows that do not the picture stays whole. 0: windows without objects too."""


class ZoomOutSection(Section):
    """The picture, made smaller, at a random place on a plain ground; pictures that were cropped are left out."""

    probability: Share
    """Of a picture in an epoch. No default."""
    min_scale: PartOfSide = 0.5
    """Shortest side, as a share of the picture's."""
    fill: Annotated[tuple[Level, ...], Field(min_length=3, max_length=3)] = (124, 116, 104)
    """Colour of the ground: red, green, blue, 0 to 255."""


class ColourSection(Section):
    """A strength a means a factor drawn between 1-a and 1+a."""

    probability: Share
    """Of a picture in an epoch. No default."""
    brightness: Share = 0.2
    """Strength."""
    contrast: Share = 0.2
    """Strength."""
    saturation: Share = 0.2
    """Strength."""
    hue: HueTurn = 0.02
    """Largest turn, as a share of the colour circle."""


class AugmentationSection(Section):
    """Drawn anew for each record and epoch, from `training.seed` (or `data_seed`) alone. Pictures keep their size."""

    hflip: Share = 0.0
    """Probability of a left-right mirror. Not for data with sides in their names or with writing."""
    vflip: Share = 0.0
    """Probability of a top-bottom mirror."""
    crop: CropSection | None = None
    zoom_out: ZoomOutSection | None = None
    colour: ColourSection | None = None
    min_visible: Share = 0.3
    """Objects of which a smaller share stays in the picture are removed; others are cut at its border."""
