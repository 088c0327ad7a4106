"""Small copies of a run's images for its report: embedded in the page, or as files in a folder beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from PIL import Image

from coordexp.evaluation.columns import ImageRow
from coordexp.types.errors import DataError, OutputError
from coordexp.types.files import translate_os_errors
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import embed_picture, open_image, picture_threads, shrink

ThumbnailMode: TypeAlias = Literal["folder", "inline", "none"]
"""Pictures of images that are not embedded: files in a folder beside the page, or none (`inline`). `none`: nothing is embedded either."""

EMBEDDED_SIDE = 640
"""Longer side of an embedded picture in pixels; smaller images stay as they are."""

FOLDER_SIDE = 480
_FOLDER_QUALITY = 75

EMBED_ALL = 150
"""Runs of up to this many images are embedded whole unless `max_images` says otherwise."""

EMBED_WORST = 60
"""Of larger runs the images with most errors are."""

_FILE = re.compile(r"\d{6,}\.jpg")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """Which images are embedded and which become files, as positions of `EvaluationSet.images`."""

    embedded: tuple[int, ...] = ()
    filed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Pictures by position of their image; a position in none of them has no picture."""

    embedded: dict[int, str] = field(default_factory=dict[int, str])
    """`data:` URIs."""
    filed: frozenset[int] = frozenset()
    """Written as `thumbnail_name(position)`."""
    unreadable: tuple[str, ...] = ()
    """One sentence an image that could not be read."""


def plan_pictures(ranked: Sequence[int], *, mode: ThumbnailMode = "folder", max_images: int | None = None) -> PicturePlan:
    """`ranked`: all image positions, most errors first. `max_images` of them are embedded (0: all; None: by their number)."""
    if mode == "none":
        return PicturePlan()
    if max_images is None:
        max_images = 0 if len(ranked) <= EMBED_ALL else EMBED_WORST
    embedded = tuple(ranked[: max_images or None])
    return PicturePlan(embedded, () if mode == "inline" else tuple(ranked[len(embedded) :]))


def make_thumbnails(
    images: Sequence[ImageRow],
    plan: PicturePlan,
    *,
    root: Path,
    folder: Callable[[], Path] | None = None,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> Thumbnails:
    """Read the images that `plan` names; `folder` makes the folder for those that become files. `num_threads`: see `picture_threads`.

    Raises:
        DataError: not one of the images can be read.
        OutputError: a file cannot be written.
    """
    progress = progress or NoProgress()
    embedded, no_uri = _each(plan.embedded, partial(_embed, images, root), "embed pictures", num_threads, progress)
    filed, no_file = _each(plan.filed, partial(_file, images, root, folder()), "write thumbnails", num_threads, progress) if plan.filed and folder else ({}, [])
    unreadable = [*no_uri, *no_file]
    if unreadable and not embedded and not filed:
        raise DataError(f"no image can be read: {unreadable[0]}", where=str(root), fix="give the folder that image paths count from with --root_image_dir")
    return Thumbnails(embedded, frozenset(filed), tuple(unreadable))


def thumbnail_name(place: int) -> str:
    """Example: `thumbnail_name(17) == "000017.jpg"`"""
    return f"{place:06d}.jpg"


def check_thumbnail_folder(folder: Path) -> None:
    """A folder that a report replaces may hold nothing but thumbnails.

    Raises:
        OutputError: it holds something else.
    """
    if not folder.exists():
        return
    foreign = [entry.name for entry in folder.iterdir() if not _FILE.fullmatch(entry.name)] if folder.is_dir() else [folder.name]
    if foreign:
        raise OutputError(f"holds {foreign[0]}, which is no thumbnail of a report", where=str(folder), fix="choose another name with --output")


def _each(places: Sequence[int], work: Callable[[int], _Result], title: str, num_threads: int, progress: Progress) -> tuple[dict[int, _Result], list[str]]:
    """Results by place, and a sentence for each image that cannot be read."""

    def attempt(place: int) -> _Result | DataError:
        try:
            return work(place)
        except DataError as error:
            return error

    done: dict[int, _Result] = {}
    problems: list[str] = []
    with ThreadPoolExecutor(max_workers=picture_threads(num_threads)) as pool:
        results = pool.map(attempt, places)
        for place, found in zip(progress.track(places, title, total=len(places)), results, strict=True):
            if isinstance(found, DataError):
                problems.append(str(found))
            else:
                done[place] = found
    return done, problems


def _embed(images: Sequence[ImageRow], root: Path, place: int) -> str:
    return embed_picture(open_image(root, images[place]), side=EMBEDDED_SIDE)


def _file(images: Sequence[ImageRow], root: Path, folder: Path, place: int) -> None:
    picture: Image.Image = shrink(open_image(root, images[place]), FOLDER_SIDE)
    path = folder / thumbnail_name(place)
    with translate_os_errors(path):
        picture.save(path, "JPEG", quality=_FOLDER_QUALITY)
