"""Rescale a data set: images to sides that are multiples of a number within an area budget, and the geometry with them.

Images are turned upright (EXIF), made RGB, resized with Pillow's BICUBIC and `reducing_gap=None`, and written as PNG without loss: the model's processor
then finds nothing left to resize. Pixels x map to x·(W'-1)/(W-1), corner pixel to corner pixel, so that the normalized coordinates, and with them the
bins, are those of the source. Every image carries a digest of what it was made from: what is up to date is reused, so that a stopped run goes on.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath

import PIL
from PIL import Image, PngImagePlugin

from coordexp.data.image_files import check_image_size
from coordexp.data.images import load_image
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.paths import resolve_image
from coordexp.data.presets import RescalePreset, plan_size
from coordexp.geometry.bins import axis_span
from coordexp.geometry.polygons import canonical_ring
from coordexp.types.errors import DataError, UserError
from coordexp.types.files import ensure_output_folder, translate_os_errors
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, DetObject, Record

_DIGEST_KEY = "coordexp-source"
_COMPRESSION = 3
"""zlib level: a third of the time of the default for a few percent of size."""


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
    created: list[Path] = field(default_factory=list[Path])


def resize_image(image: Image.Image, *, width: int, height: int) -> Image.Image:
    """The one resize of the project: BICUBIC over the whole RGB picture, `reducing_gap=None`; the picture itself when it has the size."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None)


def rescale_record(record: Record, *, width: int, height: int) -> Record:
    """The record for its image at another size; bins stay as they are, pixels keep their normalized coordinate."""
    objects = record.objects
    if record.coord_space == "pixel":
        factors = axis_span(width) / axis_span(record.width), axis_span(height) / axis_span(record.height)
        objects = tuple([_scale(item, factors) for item in objects])
    return replace(record, width=width, height=height, objects=objects)


def rescale_dataset(
    source: Path, output: Path, *, preset: RescalePreset, coord_space: CoordSpace | None = None, progress: Progress | None = None
) -> RescaleSummary:
    """Write the record file `output` and its images, rescaled from the record file `source`.

    All records and image headers are checked before anything is written. Images go to `images/<stem of output>/`. When a picture turns out to be damaged,
    the images written so far are removed; after an interruption they stay and are reused.

    Raises:
        DataError: a broken record, an image that is missing, damaged or of another size than its record says, or what the preset excludes.
        OutputError: the output cannot be written.
    """
    progress = progress or NoProgress()
    if source.parent.resolve() == output.parent.resolve():
        raise DataError("the output would lie among its own source images", where=str(output), fix="choose another folder")
    counts = _check_source(source, preset, coord_space=coord_space, progress=progress)
    job = _Job(source, output, preset, output_names(counts, stem=output.stem), RescaleSummary(output))
    is_new_folder = not output.parent.exists()
    ensure_output_folder(output.parent)
    records = progress.track(iter_records(source, coord_space=coord_space), "rescale", total=sum(counts.values()))
    try:
        write_records(output, _rescale_all(records, job))
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
    parents = {parent for file in files for parent in file.parents if parent.is_relative_to(folder) and parent != folder}
    for path in [*sorted(parents, key=lambda parent: -len(parent.parts)), *([folder] if with_folder else [])]:
        if not any(path.iterdir()):
            path.rmdir()


def _check_source(source: Path, preset: RescalePreset, *, coord_space: CoordSpace | None, progress: Progress) -> dict[str, int]:
    """How many records each image has, in order."""
    counts: dict[str, int] = {}
    for record in progress.track(iter_records(source, coord_space=coord_space), "check images"):
        where = f"{source}:{record.id.rpartition(':')[2]}"
        preset.refuse_unfit(record, where=where)
        check_image_size(resolve_image(source.parent, record.image, where=where), width=record.width, height=record.height, where=where)
        counts[record.image] = counts.get(record.image, 0) + 1
    return counts


def _rescale_all(records: Iterator[Record], job: _Job) -> Iterator[Record]:
    for record in records:
        width, height = plan_size(record.width, record.height, job.preset)
        name = job.names[record.image]
        target = job.output.parent / name
        is_new = not target.exists()
        if _write_image(job.source.parent / record.image, target, width=width, height=height):
            job.created += [target] if is_new else []
        else:
            job.summary.num_reused += 1
        job.summary.num_images += 1
        job.summary.num_objects += len(record.objects)
        job.summary.num_resized += (width, height) != (record.width, record.height)
        yield replace(rescale_record(record, width=width, height=height), image=name)


def _write_image(source: Path, target: Path, *, width: int, height: int) -> bool:
    """False when `target` is up to date."""
    digest = _digest(source, width=width, height=height)
    if _has_digest(target, digest):
        return False
    picture = resize_image(load_image(source), width=width, height=height)
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(_DIGEST_KEY, digest)
    buffer = BytesIO()
    # a picture without the source's profile, text or EXIF: its bytes depend on the pixels alone
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(buffer, format="PNG", pnginfo=chunk, compress_level=_COMPRESSION)
    _write_bytes(target, buffer.getvalue())
    return True


def _digest(source: Path, *, width: int, height: int) -> str:
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    return hashlib.sha256(f"{content} {width}x{height} bicubic pillow={PIL.__version__}".encode()).hexdigest()


def _has_digest(path: Path, digest: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get(_DIGEST_KEY) == digest
    except (OSError, SyntaxError, ValueError):  # not there yet, or a foreign file: it is written anew
        return False


def _write_bytes(path: Path, content: bytes) -> None:
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _scale(item: DetObject, factors: tuple[float, float]) -> DetObject:
    points = tuple([value * factors[position % 2] for position, value in enumerate(item.points)])
    return replace(item, points=canonical_ring(points) if item.kind == "poly" else points)
