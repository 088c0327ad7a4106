"""Reads a COCO instances file and a COCO results file entry by entry. A file of another kind is an error; a bad entry is set aside with its reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from coordexp.data.coco_file import schema_problem
from coordexp.evaluation.lines import without_surrogates
from coordexp.types.errors import DataError

Id = int | float
"""A whole number; some tools write it as 3.0."""
Box = tuple[float, float, float, float]
"""x, y, width, height."""

_ID_LIMIT = 2**63
_NO_LIST = msgspec.Raw(b"null")
_IS_TRUTH = "is a COCO instances file"
_IS_RESULTS = "is a list of results"
_SWAPPED = "are --coco-gt and --coco-preds swapped?"


class Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str = ""
    width: Id | None = 0
    height: Id | None = 0
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    frequency: str | None = None


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: Box
    id: Id | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0
    segmentation: msgspec.Raw = _NO_LIST


class Prediction(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    score: float
    bbox: Box | None = None
    segmentation: msgspec.Raw = _NO_LIST


class _Truth(msgspec.Struct):
    images: list[Image]
    categories: list[Category]
    annotations: msgspec.Raw


Entry = TypeVar("Entry", Annotation, Prediction)


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that cannot be used. Example: `BadEntry(17, "bbox", "expected an array of length 4", {"id": 18, …})`"""

    index: int
    """Position in the list of the file."""
    reason: str
    """The key that is wrong; `entry` when it is not an object."""
    what: str
    raw: object


@dataclass(frozen=True, slots=True)
class Entries(Generic[Entry]):
    """The entries of a list, those that have the right form apart from the others."""

    good: list[Entry]
    index: Sequence[int]
    """Of each good entry, its position in the list."""
    bad: list[BadEntry]


@dataclass(frozen=True, slots=True)
class TruthFile:
    images: list[Image]
    """Ids are unique."""
    categories: list[Category]
    """Ids are unique."""
    annotations: Entries[Annotation]
    warnings: tuple[str, ...]


def read_truth(path: Path) -> TruthFile:
    """A COCO instances file.

    Raises:
        DataError: it cannot be read, is not JSON, or has no images, categories or annotations; the id of an image or a category is missing or no whole
            number; a category id used twice.
    """
    content = _read(path, flag="--coco-gt")
    if content.startswith(b"["):
        raise DataError(f"{_IS_RESULTS}, not a COCO instances file", where=str(path), fix=_SWAPPED)
    try:
        document = msgspec.json.decode(content, type=_Truth)
    except msgspec.ValidationError as error:
        raise schema_problem(path, error) from error
    _check_ids(path, "images", document.images)
    _check_ids(path, "categories", document.categories)
    first_of = dict[Id, int]()
    for position, category in enumerate(document.categories):
        if first_of.setdefault(category.id, position) != position:
            what = f"the id {category.id} is used by categories[{first_of[category.id]}] too"
            raise DataError(what, where=f"{path}: categories[{position}]", fix="make the ids unique")
    images = list({image.id: image for image in reversed(document.images)}.values())[::-1]
    doubled = len(document.images) - len(images)
    warnings = (f"{path}: {doubled} images have the id of another one and are left out",) if doubled else ()
    return TruthFile(images, document.categories, _read_entries(path, bytes(document.annotations), Annotation), warnings)


def _check_ids(path: Path, kind: str, entries: Sequence[Image] | Sequence[Category]) -> None:
    for position, entry in enumerate(entries):
        if not -_ID_LIMIT < entry.id < _ID_LIMIT or entry.id != int(entry.id):
            raise DataError(f"the id {entry.id} is not a whole number of 64 bits", where=f"{path}: {kind}[{position}]", fix="number them anew")


def read_predictions(path: Path) -> Entries[Prediction]:
    """A COCO results file: a list of boxes, masks, or both, with scores.

    Raises:
        DataError: it cannot be read, is not JSON, or is not a list.
    """
    content = _read(path, flag="--coco-preds")
    if content.startswith(b"{"):
        is_truth = b'"annotations"' in content and b'"images"' in content
        what, fix = (f"{_IS_TRUTH}, not a list of results", _SWAPPED) if is_truth else ("is one object, not a list of results", "give a COCO results file")
        raise DataError(what, where=str(path), fix=fix)
    return _read_entries(path, content, Prediction)


def _read(path: Path, *, flag: str) -> bytes:
    """The content as JSON that msgspec reads: NaN and infinity, which Python's own writer writes, become null, half characters a replacement."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix=f"give {flag} a COCO file") from error
    try:
        if not content.isascii():
            content.decode("utf-8")  # msgspec looks only at texts that somebody reads
        return content if _is_json(content) else msgspec.json.encode(without_surrogates(json.loads(content, parse_constant=lambda _: None)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error})", where=str(path), fix=f"give {flag} a COCO file") from error


def _is_json(content: bytes) -> bool:
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _read_entries(path: Path, content: bytes, kind: type[Entry]) -> Entries[Entry]:
    try:
        good = msgspec.json.decode(content, type=list[kind])
        return Entries(good, range(len(good)), [])
    except msgspec.ValidationError:
        pass  # some entry is bad: one by one
    try:
        raws = msgspec.json.decode(content, type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        raise DataError("is not a list of entries", where=str(path), fix="give a COCO file") from error
    good, index, bad = list[Entry](), list[int](), list[BadEntry]()
    for position, raw in enumerate(raws):
        try:
            good.append(msgspec.json.decode(raw, type=kind))
            index.append(position)
        except msgspec.ValidationError as error:
            bad.append(_bad_entry(position, raw, error))
    return Entries(good, index, bad)


def _bad_entry(position: int, raw: msgspec.Raw, error: msgspec.ValidationError) -> BadEntry:
    """The message names the key: ``Expected `float`, got `null` - at `$.bbox[2]` `` or ``Object missing required field `score` ``."""
    message = str(error)
    what, _, place = message.partition(" - at `$.")
    if place:
        reason = place.rstrip("`").partition("[")[0]
    elif "missing required field" in message:
        reason = message.rpartition(" `")[2].rstrip("`")
        what = f"there is no {reason}"
    else:
        reason = "entry"
    return BadEntry(position, reason, what[:1].lower() + what[1:].replace("`", ""), _as_read(raw))


def _as_read(raw: msgspec.Raw) -> object:
    """An entry with whatever stands in it, also numbers beyond those of a float."""
    try:
        return json.loads(bytes(raw))
    except (ValueError, RecursionError):
        return "unreadable"
