"""Rescale a data set: images to sides that are multiples of a number within an area budget, and the geometry with them.

Images are turned upright (EXIF), made RGB, resized with Pillow's BICUBIC and `reducing_gap=None`, and written as PNG without loss: the model's processor
then finds nothing left to resize. Pixels x map to x·(W'-1)/(W-1), corner pixel to corner pixel, so that the normalized coordinates, and with them the
bins, are those of the source. Every image carries a digest of what it was made from: what is up to date is reused, so that a stopped run goes on. Images
are made one by one or by several processes: their bytes are the same.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from coordexp.data.image_files import check_image_size
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.parallel import choose_workers, map_in_order
from coordexp.data.paths import resolve_image
from coordexp.data.presets import RescalePreset, plan_size
from coordexp.data.rescaled_images import ImageJob, claim_images, remove_empty_folders, write_image
from coordexp.geometry.bins import axis_span
from coordexp.geometry.polygons import canonical_ring
from coordexp.types.errors import DataError, UserError
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, DetObject, Record


@dataclass(slots=True)
class RescaleSummary:
    """What a rescale did, in counts."""

    output: Path
    num_images: int = 0
    num_objects: int = 0
    num_resized: int = 0
    """Images whose size changed; the others were only re-encoded."""
    num_reused: int = 0
    """Output images that were up to date."""

    def sentence(self) -> str:
        """The counts as one phrase."""
        reused = f", {self.num_reused} were up to date" if self.num_reused else ""
        return f"{self.num_images} images, {self.num_objects} objects, {self.num_resized} images changed size{reused}"


@dataclass(slots=True)
class _Job:
    source: Path
    output: Path
    preset: RescalePreset
    names: dict[str, str]
    """Image of the source → image of the output."""
    summary: RescaleSummary
    workers: int
    created: list[Path] = field(default_factory=list[Path])
    """Images that were not there before."""


def rescale_record(record: Record, *, width: int, height: int) -> Record:
    """The record for its image at another size; bins stay as they are, pixels keep their normalized coordinate."""
    objects = record.objects
    if record.coord_space == "pixel":
        factors = axis_span(width) / axis_span(record.width), axis_span(height) / axis_span(record.height)
        objects = tuple([_scale(item, factors) for item in objects])
    return replace(record, width=width, height=height, objects=objects)


def rescale_dataset(
    source: Path, output: Path, *, preset: RescalePreset, coord_space: CoordSpace | None = None, workers: int = 1, progress: Progress | None = None
) -> RescaleSummary:
    """Write the record file `output` and its images, rescaled from the record file `source`.

    All records and image headers are checked before anything is written. Images go to `images/<stem of output>/`. When a picture turns out to be damaged,
    the images written so far are removed; after an interruption, also by SIGKILL, they stay and are reused.

    Args:
        source: a record file.
        output: the record file to write, in another folder.
        preset: sizes of the images.
        coord_space: space of records that do not name theirs.
        workers: processes that make images; 0: one a processor. With more than one a script needs `if __name__ == "__main__":`.
        progress: shows the loops.

    Raises:
        DataError: a broken record, an image that is missing, damaged or of another size than its record says, or what the preset excludes.
        OutputError: the output cannot be written, or another rescale is writing it.
        BackendError: a worker process was killed.
    """
    progress = progress or NoProgress()
    if source.parent.resolve() == output.parent.resolve():
        raise DataError("the output would lie among its own source images", where=str(output), fix="choose another folder")
    counts = _check_source(source, preset, coord_space=coord_space, progress=progress)
    workers = choose_workers(workers, num_items=len(counts))
    job = _Job(source, output, preset, output_names(counts, stem=output.stem), RescaleSummary(output), workers)
    is_new_folder = not output.parent.exists()
    ensure_output_folder(output.parent)
    try:
        with claim_images(output), closing(_rescale_all(job, coord_space)) as records:
            write_records(output, progress.track(records, "rescale", total=sum(counts.values())))
    except UserError:
        _remove(job.created, output.parent, with_folder=is_new_folder)
        raise
    return job.summary


def output_names(images: Iterable[str], *, stem: str) -> dict[str, str]:
    """Where each image goes: `images/<stem>/`, so that splits never meet, then its own path with the suffix `.png`, marked where two would coincide.

    Example: `output_names(["images/train/a.jpg", "b.png"], stem="train")` gives `images/train/a.png` and `images/train/b.png`.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for image in images:
        path = os.path.normpath(image).removeprefix("images/").removeprefix(f"{stem}/")
        base = str(PurePosixPath(path).with_suffix(""))
        while f"images/{stem}/{base}.png" in taken:
            base += "_"
        names[image] = f"images/{stem}/{base}.png"
        taken.add(names[image])
    return names


def _remove(files: list[Path], folder: Path, *, with_folder: bool) -> None:
    """Take back what a failed run wrote: its files and the folders that they leave empty."""
    for path in files:
        path.unlink(missing_ok=True)
    remove_empty_folders([file.parent for file in files], folder)
    if with_folder and not any(folder.iterdir()):
        folder.rmdir()


def _check_source(source: Path, preset: RescalePreset, *, coord_space: CoordSpace | None, progress: Progress) -> dict[str, int]:
    """How many records each image has, in order."""
    counts: dict[str, int] = {}
    for record in progress.track(iter_records(source, coord_space=coord_space), "check images"):
        where = f"{source}:{record.id.rpartition(':')[2]}"
        preset.refuse_unfit(record, where=where)
        check_image_size(resolve_image(source.parent, record.image, where=where), width=record.width, height=record.height, where=where)
        counts[record.image] = counts.get(record.image, 0) + 1
    return counts


def _rescale_all(job: _Job, coord_space: CoordSpace | None) -> Generator[Record]:
    with closing(map_in_order(write_image, _image_jobs(job, coord_space), workers=job.workers)) as reused:
        done: set[str] = set()
        for record in iter_records(job.source, coord_space=coord_space):
            name = job.names[record.image]
            if name not in done:
                done.add(name)
                job.summary.num_reused += next(reused)
            width, height = plan_size(record.width, record.height, job.preset)
            job.summary.num_images += 1
            job.summary.num_objects += len(record.objects)
            job.summary.num_resized += (width, height) != (record.width, record.height)
            yield replace(rescale_record(record, width=width, height=height), image=name)


def _image_jobs(job: _Job, coord_space: CoordSpace | None) -> Iterator[ImageJob]:
    """One for each image, in the order in which records name them."""
    seen: set[str] = set()
    for record in iter_records(job.source, coord_space=coord_space):
        if record.image in seen:
            continue
        seen.add(record.image)
        target = job.output.parent / job.names[record.image]
        if not target.exists():
            job.created.append(target)
        width, height = plan_size(record.width, record.height, job.preset)
        yield ImageJob(job.source.parent / record.image, target, width, height)


def _scale(item: DetObject, factors: tuple[float, float]) -> DetObject:
    points = tuple([value * factors[position % 2] for position, value in enumerate(item.points)])
    return replace(item, points=canonical_ring(points) if item.kind == "poly" else points)
