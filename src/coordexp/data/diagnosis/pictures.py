"""The images of a record file: there, readable, of the size that the record says, upright, of a usable shape, and each with one set of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coordexp.data.diagnosis.findings import Check, Finding, Place, Severity, first_places
from coordexp.data.diagnosis.survey import Survey, SurveyRecord
from coordexp.data.images import ImageHeader, read_image_header
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress

_LONGEST, _IMPOSSIBLE = 12.0, 200.0
"""Side ratios: rare in photographs, and refused by the processor of Qwen3-VL."""
_SAME_PLACE = 0.006
"""Share of an image by which two annotations of one object may differ: rounding to bins and pixels."""
_PROBE = 4096


@dataclass(slots=True)
class ImageSurvey:
    """Headers by position of the record; a record without one has no readable image."""

    headers: dict[int, ImageHeader] = field(default_factory=dict[int, ImageHeader])
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(record, what is wrong with its file)."""


def survey_images(survey: Survey, *, progress: Progress | None = None) -> ImageSurvey:
    """Read the header of every image; a file that several records name is read once."""
    found, known = ImageSurvey(), dict[str, ImageHeader | str]()
    root = survey.path.parent
    for number, record in enumerate((progress or NoProgress()).track(survey.records, "read image headers", total=len(survey.records))):
        if not record.image:
            continue
        if record.image not in known:
            try:
                known[record.image] = read_image_header(resolve_image(root, record.image))
            except DataError as error:
                known[record.image] = error.what
        header = known[record.image]
        if isinstance(header, str):
            found.problems.append((number, header))
        else:
            found.headers[number] = header
    return found


def check_images(survey: Survey, images: ImageSurvey, *, progress: Progress | None = None) -> list[Finding]:
    """All checks that look at image files."""
    return [*_check_files(survey, images), *_check_sizes(survey, images), *_check_exif(survey, images), *_check_shapes(survey), *_check_twins(survey, progress)]


def _check_files(survey: Survey, images: ImageSurvey) -> Iterator[Finding]:
    if images.problems:
        places = first_places(Place(survey.records[number].line, None, what) for number, what in images.problems)
        what = f"{len(images.problems)} of {len(survey.records)} records have no readable image"
        yield Finding(Check.IMAGE_FILE, Severity.ERROR, what, "image paths are relative to the folder of the data file; bring the images there", places)


def _check_sizes(survey: Survey, images: ImageSurvey) -> Iterator[Finding]:
    wrong = {
        number: header
        for number, header in images.headers.items()
        if (header.width, header.height) != (survey.records[number].width, survey.records[number].height)
    }
    if not wrong:
        return

    def describe(number: int) -> Place:
        record, header = survey.records[number], wrong[number]
        return Place(record.line, None, f"{record.image} is {header.width}x{header.height}, the record says {record.width}x{record.height}")

    turned = sum((header.height, header.width) == (survey.records[number].width, survey.records[number].height) for number, header in wrong.items())
    scaled = sum(_is_scaled(survey.records[number], header) for number, header in wrong.items())
    reasons = [(scaled, "of another scale: images were resized without their records"), (turned, "on their side: boxes were drawn without EXIF rotation")]
    said = "; ".join(f"{count} of them {text}" for count, text in reasons if count)
    what = f"{len(wrong)} of {len(images.headers)} images have another size than their record says{f' ({said})' if said else ''}"
    fix = "resize images and geometry together with 'coordexp data rescale'; write width and height of the upright image"
    yield Finding(Check.IMAGE_SIZE, Severity.ERROR, what, fix, first_places(describe(number) for number in wrong))


def _is_scaled(record: SurveyRecord, header: ImageHeader) -> bool:
    """The same picture at another size, up to rounding of its sides."""
    factors = header.width / record.width, header.height / record.height
    return abs(factors[0] / factors[1] - 1) < 0.04


def _check_exif(survey: Survey, images: ImageSurvey) -> Iterator[Finding]:
    turned = [(number, header.orientation) for number, header in images.headers.items() if header.orientation != 1]
    if turned:
        places = first_places(Place(survey.records[number].line, None, f"{survey.records[number].image}: orientation {value}") for number, value in turned)
        what = (
            f"{len(turned)} of {len(images.headers)} images are turned by their EXIF tag; training turns them upright, and boxes that were drawn without"
            " are then elsewhere"
        )
        yield Finding(Check.EXIF, Severity.WARNING, what, "run 'coordexp data rescale', which writes upright images, and look at the boxes below", places)


def _check_shapes(survey: Survey) -> Iterator[Finding]:
    ratios = np.array([max(record.width, record.height) / min(record.width, record.height) for record in survey.records])
    long = np.flatnonzero(ratios >= _LONGEST)
    if len(long):
        severity = Severity.ERROR if ratios.max() >= _IMPOSSIBLE else Severity.WARNING
        places = first_places(Place(survey.records[row].line, None, f"{survey.records[row].width}x{survey.records[row].height}") for row in long)
        what = f"{len(long)} of {len(ratios)} images are {_LONGEST:.0f} or more times as long as wide (up to {ratios.max():.0f})"
        yield Finding(Check.ASPECT_RATIO, severity, what, f"cut them into pieces or take them out; above {_IMPOSSIBLE:.0f} the processor refuses them", places)


def _check_twins(survey: Survey, progress: Progress | None) -> Iterator[Finding]:
    """One picture in several records."""
    differing: list[tuple[int, int]] = []
    equal: list[tuple[int, int]] = []
    for group in _same_pictures(survey, progress or NoProgress()):
        for other in group[1:]:
            (equal if _has_same_objects(survey, group[0], other) else differing).append((group[0], other))
    if differing:
        what = f"{len(differing)} pictures occur a second time with other objects or names"
        fix = "join the objects of both records into one, or keep the complete one: else each teaches that what the other names is not there"
        yield Finding(Check.TWO_LABEL_SETS, Severity.WARNING, what, fix, first_places(_twin(survey, pair) for pair in differing))
    if equal:
        what = f"{len(equal)} pictures occur a second time with the same objects"
        fix = "take the second record out unless it is meant to weigh double; check that train and val do not share pictures"
        yield Finding(Check.REPEATED_IMAGES, Severity.NOTE, what, fix, first_places(_twin(survey, pair) for pair in equal))


def _twin(survey: Survey, pair: tuple[int, int]) -> Place:
    first, second = (survey.records[number] for number in pair)
    names = [sorted({survey.labels[label] for label in survey.boxes.label[record.first : record.end]})[:4] for record in (first, second)]
    return Place(second.line, None, f"{second.image} {names[1]} is the picture of line {first.line} {names[0]}")


def _same_pictures(survey: Survey, progress: Progress) -> Iterator[list[int]]:
    """Records with the same image bytes. Files are told apart by size, then by their ends; only what is still equal is read whole."""
    by_probe: dict[tuple[int, bytes], list[int]] = {}
    for number, record in enumerate(progress.track(survey.records, "compare images", total=len(survey.records))):
        probe = _probe(survey.path.parent, record.image) if record.image else None
        if probe is not None:
            by_probe.setdefault(probe, []).append(number)
    for group in by_probe.values():
        if len(group) > 1:
            by_digest: dict[str, list[int]] = {}
            for number in group:
                with (survey.path.parent / survey.records[number].image).open("rb") as stream:
                    by_digest.setdefault(hashlib.file_digest(stream, "sha256").hexdigest(), []).append(number)
            yield from (same for same in by_digest.values() if len(same) > 1)


def _probe(root: Path, image: str) -> tuple[int, bytes] | None:
    """(size of the file, its first and last bytes); None when it cannot be read."""
    try:
        with resolve_image(root, image).open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            head = stream.read(_PROBE)
            stream.seek(max(0, size - _PROBE))
            return size, hashlib.blake2b(head + stream.read(), digest_size=16).digest()
    except (OSError, DataError):  # said by another finding
        return None


def _has_same_objects(survey: Survey, first: int, second: int) -> bool:
    a, b = (_objects(survey, survey.records[number]) for number in (first, second))
    return [item[0] for item in a] == [item[0] for item in b] and bool(
        np.allclose([item[1] for item in a], [item[1] for item in b], rtol=0, atol=_SAME_PLACE) if a else True
    )


def _objects(survey: Survey, record: SurveyRecord) -> Sequence[tuple[str, list[float]]]:
    """(name, corners in hundredths of the image) in an order of their own."""
    rows = slice(record.first, record.end)
    boxes = survey.boxes.normalized_rows(rows)
    found = [(survey.labels[label].strip().casefold(), box) for label, box in zip(survey.boxes.label[rows].tolist(), boxes.tolist(), strict=True)]
    return sorted(found, key=lambda item: (item[0], [round(value, 1) for value in item[1]], item[1]))
