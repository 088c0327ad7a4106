"""A COCO instances file, read with types: images, annotations, categories, their ids checked.

Images and annotations stay in the file, and their places on disk too: memory does not grow with them. Segmentations stay undecoded until somebody asks.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from coordexp.data.json_arrays import ArrayScanner
from coordexp.data.row_index import DocumentRow, RowIndex
from coordexp.types.errors import DataError

_BOM = b"\xef\xbb\xbf"


class CocoImage(msgspec.Struct, frozen=True, gc=False):
    id: int | str
    width: int
    height: int
    file_name: str = ""
    """Empty in LVIS, which has `coco_url` instead."""
    coco_url: str = ""
    neg_category_ids: list[int] = []
    """LVIS: categories that are known to be absent."""
    not_exhaustive_category_ids: list[int] = []
    """LVIS: categories of which not every object is annotated."""


class CocoAnnotation(msgspec.Struct, frozen=True, gc=False):
    id: int | str
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    """x, y, width, height."""
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class CocoCategory(msgspec.Struct, frozen=True, gc=False):
    id: int
    name: str


class _Document(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class _Rest(msgspec.Struct):
    """A document whose images and annotations are read one by one: each run of them has left a zero."""

    images: list[Literal[0]]
    annotations: list[Literal[0]]
    categories: list[CocoCategory]


decode_image = msgspec.json.Decoder(CocoImage).decode
decode_annotation = msgspec.json.Decoder(CocoAnnotation).decode


@dataclass(frozen=True, slots=True)
class CocoFile:
    """Ids are unique, and every annotation's image and category exist."""

    path: Path
    names: dict[int, str]
    """Category id → name."""
    num_images: int
    rows: Callable[[], Iterator[DocumentRow]]
    """The images in the order of the file, from the beginning each time; `decode_image` and `decode_annotation` read them."""


def read_coco(path: Path) -> CocoFile:
    """Read and check a COCO instances file.

    Raises:
        DataError: no such file, not JSON, a missing or mistyped field, an id used twice, an unknown image or category id, a category without a name.
    """
    return _scan(path) or _read_whole(path)  # when something is wrong, decoding the whole says what


def _read_whole(path: Path) -> CocoFile:
    document = _decode(path)
    for kind, ids in (
        ("images", (image.id for image in document.images)),
        ("annotations", (annotation.id for annotation in document.annotations)),
        ("categories", (category.id for category in document.categories)),
    ):
        _refuse_duplicates(path, kind, ids)
    for position, image in enumerate(document.images):
        if image.width < 1 or image.height < 1:
            raise DataError(f"{image.width}x{image.height} pixels", where=f"{path}: images[{position}] (id {image.id})", fix="correct width and height")
    for position, category in enumerate(document.categories):
        if not category.name.strip():
            raise DataError("a category without a name", where=f"{path}: categories[{position}] (id {category.id})", fix="give it a name")
    names = {category.id: category.name for category in document.categories}
    _refuse_unknown_ids(path, document, names)
    return CocoFile(path, names, len(document.images), lambda: _rows(document))


def _rows(document: _Document) -> Iterator[DocumentRow]:
    by_image: dict[int | str, list[int]] = {}
    for position, annotation in enumerate(document.annotations):
        by_image.setdefault(annotation.image_id, []).append(position)
    for position, image in enumerate(document.images):
        numbers = by_image.get(image.id, ())
        annotations = tuple([(number, msgspec.json.encode(document.annotations[number])) for number in numbers])
        yield DocumentRow(position, msgspec.json.encode(image), annotations)


def _scan(path: Path) -> CocoFile | None:
    """The file without ever holding it whole; None when it is not as it should be."""
    scanner, index, categories = ArrayScanner(path, ("images", "annotations")), RowIndex(), set[int]()
    try:
        for key, start, element in scanner:
            if key == "images":
                image = decode_image(element)
                if image.width < 1 or image.height < 1:
                    return None
                index.add_image(image.id, start, len(element))
            else:
                annotation = decode_annotation(element)
                index.add_annotation(annotation.id, annotation.image_id, start, len(element))
                categories.add(annotation.category_id)
        rest = msgspec.json.decode(scanner.rest.removeprefix(_BOM), type=_Rest)
        is_sound = index.seal()
    except (OSError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
    names = {category.id: category.name for category in rest.categories}
    is_sound = is_sound and len(names) == len(rest.categories) and all(name.strip() for name in names.values()) and categories <= names.keys()
    is_whole = scanner.num_runs["images"] == len(rest.images) and scanner.num_runs["annotations"] == len(rest.annotations)
    return CocoFile(path, names, index.num_images, lambda: index.rows(path)) if is_sound and is_whole else None


def map_json(path: Path) -> memoryview:
    """The bytes of a file behind its byte order mark, mapped into memory: what is decoded as `msgspec.Raw` stays on disk until it is looked at.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        if not path.stat().st_size:  # which cannot be mapped
            return memoryview(b"")
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return memoryview(content)[len(_BOM) if content[: len(_BOM)] == _BOM else 0 :]


def _decode(path: Path) -> _Document:
    try:
        return msgspec.json.decode(map_json(path), type=_Document)
    except OSError as error:
        what = "the COCO file does not exist" if isinstance(error, FileNotFoundError) else f"the COCO file cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the path") from error
    except msgspec.ValidationError as error:
        raise schema_problem(path, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error})", where=str(path), fix="a COCO instances file is one JSON object, without NaN and Infinity") from error


def schema_problem(path: Path, error: msgspec.ValidationError) -> DataError:
    """The sentence for a file that is JSON but no COCO instances file: which place, what is wrong with it."""
    what, _, place = str(error).partition(" - at `$")
    where = f"{path}: {place.rstrip('`').lstrip('.')}".rstrip(": ")
    return DataError(_plain(what), where=where, fix="a COCO instances file has images, annotations and categories")


def _plain(what: str) -> str:
    text = what.replace("Object missing required field", "missing field")
    return re.sub(r"^Expected", "expected", text)


def _refuse_duplicates(path: Path, kind: str, ids: Iterable[Any]) -> None:
    seen: dict[Any, int] = {}
    for position, item in enumerate(ids):
        first = seen.setdefault(item, position)
        if first != position:
            raise DataError(f"the id {item} is used by {kind}[{first}] too", where=f"{path}: {kind}[{position}]", fix="make the ids unique")


def _refuse_unknown_ids(path: Path, document: _Document, names: dict[int, str]) -> None:
    images = {image.id for image in document.images}
    for position, annotation in enumerate(document.annotations):
        where = place_of(path, position, annotation)
        if annotation.image_id not in images:
            what = f"image_id {annotation.image_id} is not among the images"
            raise DataError(what, where=where, fix="add the image or take the annotation out")
        if annotation.category_id not in names:
            what = f"category_id {annotation.category_id} is not among the categories"
            raise DataError(what, where=where, fix="add the category or take the annotation out")


def place_of(path: Path, position: int, annotation: CocoAnnotation) -> str:
    """Names an annotation in an error."""
    return f"{path}: annotations[{position}] (id {annotation.id})"
