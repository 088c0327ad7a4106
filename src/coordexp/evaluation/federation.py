"""LVIS metadata of a COCO instances file: for which categories an image is annotated, and how frequent each category is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from coordexp.evaluation.coco_files import Category, Id, Image
from coordexp.evaluation.coco_source import Federation
from coordexp.types.errors import DataError

ApProtocol: TypeAlias = Literal["auto", "coco", "lvis"]
"""Rules of average precision; auto: those of LVIS when the instances file has its metadata."""

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent: in how many training images a category stands."""


def read_federation(
    path: Path, images: Sequence[Image], categories: Sequence[Category], *, number_of: Mapping[Id, int], protocol: ApProtocol
) -> tuple[Federation | None, str | None]:
    """(what the file says, a warning when it says only a part of it). `categories` stand by rising id, `number_of` counts them from 1.

    Raises:
        DataError: the protocol is `lvis` and the metadata is not complete.
    """
    if protocol == "coco":
        return None, None
    num_images = sum(image.neg_category_ids is not None and image.not_exhaustive_category_ids is not None for image in images)
    num_categories = sum(category.frequency in FREQUENCIES for category in categories)
    if num_images == len(images) and num_categories == len(categories) and categories:
        return Federation(
            negative=tuple(_numbers(image.neg_category_ids or [], number_of) for image in images),
            not_exhaustive=tuple(_numbers(image.not_exhaustive_category_ids or [], number_of) for image in images),
            frequency=tuple(str(category.frequency) for category in categories),
        ), None
    what = (
        f"neg_category_ids and not_exhaustive_category_ids stand at {num_images} of {len(images)} images, "
        f"frequency r, c or f at {num_categories} of {len(categories)} categories"
    )
    if protocol == "lvis":
        raise DataError(what, where=str(path), fix="LVIS rules need all of them; give an LVIS file, or leave out --protocol lvis")
    is_partial = any(image.neg_category_ids for image in images) or num_categories > 0
    return None, f"{path.name}: {what}: not enough for LVIS rules, those of COCO are used" if is_partial else None


def _numbers(ids: Sequence[Id], number_of: Mapping[Id, int]) -> tuple[int, ...]:
    """Ids that no category has are without effect."""
    return tuple(sorted({number_of[category] for category in ids if category in number_of}))
