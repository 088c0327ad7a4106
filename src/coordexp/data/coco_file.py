"""A COCO instances file, read with types: images, annotations, categories, their ids checked.

Images and annotations stay in the file, and only their places in memory. Segmentations stay undecoded until somebody asks.
"""

from __future__ import annotations

import mmap
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from coordexp.data.json_arrays import ArrayScanner, JsonArray
from coordexp.types.errors import DataError

T = TypeVar("T")

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
    """A document whose images and annotations are read one by one: each has left a zero."""

    images: list[Literal[0]]
    annotations: list[Literal[0]]
    categories: list[CocoCategory]


_decode_image = msgspec.json.Decoder(CocoImage).decode
_decode_annotation = msgspec.json.Decoder(CocoAnnotation).decode


@dataclass(frozen=True, slots=True)
class CocoFile:
    """Ids are unique, and every annotation's image and category exist."""

    path: Path
    images: Sequence[CocoImage]
    annotations: Sequence[CocoAnnotation]
    """Decoded each time that they are asked for."""
    names: dict[int, str]
    """Category id → name."""
    by_image: Mapping[int | str, Sequence[int]]
    """Image id → positions of its annotations, in the order of the file."""

    def where(self, position: int, annotation: CocoAnnotation | None = None) -> str:
        """Names an annotation, which may be decoded already, in an error."""
        return f"{self.path}: annotations[{position}] (id {(annotation or self.annotations[position]).id})"


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
    by_image: dict[int | str, array[int]] = {}
    for position, annotation in enumerate(document.annotations):
        by_image.setdefault(annotation.image_id, array("q")).append(position)
    coco = CocoFile(path, document.images, document.annotations, {category.id: category.name for category in document.categories}, by_image)
    _refuse_unknown_ids(coco)
    return coco


def _scan(path: Path) -> CocoFile | None:
    """The file without ever holding it whole; None when it is not as it should be."""
    scanner = ArrayScanner(path, ("images", "annotations"))
    images, annotations = _Rows(), _Rows()
    by_image: dict[int | str, array[int]] = {}
    categories: set[int] = set()
    try:
        for key, start, element in scanner:
            if key == "images":
                image = _decode_image(element)
                if image.width < 1 or image.height < 1:
                    return None
                images.add(image.id, start, len(element))
            else:
                annotation = _decode_annotation(element)
                by_image.setdefault(annotation.image_id, array("q")).append(len(annotations.ids))
                annotations.add(annotation.id, start, len(element))
                categories.add(annotation.category_id)
        rest = msgspec.json.decode(scanner.rest.removeprefix(_BOM), type=_Rest)
    except (OSError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
    names = {category.id: category.name for category in rest.categories}
    is_sound = len(names) == len(rest.categories) and all(name.strip() for name in names.values())
    is_sound = is_sound and categories <= names.keys() and by_image.keys() <= set(images.ids)
    if not is_sound or not images.are_unique(len(rest.images)) or not annotations.are_unique(len(rest.annotations)):
        return None
    return CocoFile(path, images.array(path, _decode_image), annotations.array(path, _decode_annotation), names, by_image)


class _Rows:
    """Where the elements of an array are, and their ids."""

    def __init__(self) -> None:
        self.ids: list[int | str] | array[int] = array("q")
        self._starts, self._lengths = array("q"), array("q")

    def add(self, name: int | str, start: int, length: int) -> None:
        if isinstance(name, str) and isinstance(self.ids, array):
            self.ids = list(self.ids)
        self.ids.append(name)  # pyright: ignore[reportArgumentType]
        self._starts.append(start)
        self._lengths.append(length)

    def are_unique(self, count: int) -> bool:
        """All `count` elements of the array have been found, and each has an id of its own."""
        ids = self.ids
        num_different = len(np.unique(np.frombuffer(ids, dtype=np.int64))) if isinstance(ids, array) and ids else len(set(ids))
        return num_different == len(ids) == count

    def array(self, path: Path, decode: Callable[[bytes], T]) -> JsonArray[T]:
        return JsonArray(path, self._starts, self._lengths, decode)


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


def _refuse_unknown_ids(coco: CocoFile) -> None:
    images = {image.id for image in coco.images}
    for name, positions in coco.by_image.items():
        if name not in images:
            what = f"image_id {name} is not among the images"
            raise DataError(what, where=coco.where(positions[0]), fix="add the image or take the annotation out")
    for position, annotation in enumerate(coco.annotations):
        if annotation.category_id not in coco.names:
            what = f"category_id {annotation.category_id} is not among the categories"
            raise DataError(what, where=coco.where(position), fix="add the category or take the annotation out")
