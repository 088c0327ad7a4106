"""Pascal VOC: an XML file for each image, read without expanding entities or fetching anything. `part` elements inside an object are no objects.

VOC counts pixels from 1 and names the first and the last one of a box, so that the box reaches from `xmin - 1` to `xmax` in the coordinates of COCO, where
a pixel has an extent. Tools that write those coordinates themselves say so with `first_pixel=0`. A polygon is taken from `<polygon>` (Roboflow) or from
`SegmentationObject/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError  # names alone: defusedxml reads  # nosec B405

import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree
from PIL import Image

from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject
from coordexp.data.importers.yolo import IMAGE_SUFFIXES
from coordexp.data.paths import describe_bad_path, files_below
from coordexp.types.errors import DataError
from coordexp.types.progress import Progress

_XML = "an annotation is <annotation> with <filename>, <size> and <object>s"


@dataclass(frozen=True, slots=True)
class VocFolders:
    """Where a data set keeps its files. Example: `VocFolders.of(Path("VOCdevkit/VOC2012"))`"""

    annotations: Path
    images: Path
    lists: Path
    """`<split>.txt` with the stems of a split."""
    masks: Path
    """`<stem>.png` with the number of each object; there for some images."""

    @classmethod
    def of(cls, root: Path, *, images: Path | None = None) -> VocFolders:
        """The folders of VOC; `images` where they lie elsewhere; the root for both where it holds the XML files itself."""
        annotations = root / "Annotations"
        if not annotations.is_dir():
            annotations = root
        usual = root / "JPEGImages"
        return cls(annotations, images or (usual if usual.is_dir() else root), root / "ImageSets" / "Main", root / "SegmentationObject")


def import_voc(
    root: Path,
    *,
    output: Path,
    images: Path | None = None,
    split: str | None = None,
    first_pixel: int = 1,
    skip_difficult: bool = False,
    options: ImportOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ImportSummary:
    """Write the record file `output` from a folder of Pascal VOC (`import_source` tells the errors).

    Args:
        root: the folder with `Annotations/` and `JPEGImages/`, or a folder of XML files.
        output: the JSONL to write, in pixels.
        images: folder of the images, where it is not `JPEGImages/` or the root.
        split: of `ImageSets/Main/<split>.txt`; None takes every XML file.
        first_pixel: 1: as VOC counts; 0: coordinates from 0, as some tools write them.
        skip_difficult: leave out objects that are marked as difficult.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    options = options or ImportOptions()
    with_masks = options.geometry == "poly"
    source = open_voc(root, images=images, split=split, first_pixel=first_pixel, skip_difficult=skip_difficult, with_masks=with_masks)
    return import_source(source, output=output, options=options, workers=workers, progress=progress)


def open_voc(
    root: Path, *, images: Path | None = None, split: str | None = None, first_pixel: int = 1, skip_difficult: bool = False, with_masks: bool = False
) -> Source:
    """The images of a split in the order of its list, else of all XML files by name.

    Raises:
        DataError: no such folder, no XML file, no such split.
    """
    folders = VocFolders.of(root, images=images)
    files = _annotation_files(folders, root, split)
    notes: Counter[str] = Counter()
    reader = _Reader(folders, first_pixel, skip_difficult, with_masks, notes)

    def iterate() -> Iterator[SourceImage]:
        notes.clear()
        if split is None:
            notes["XML files in folders below, left out"] += sum(
                len(path.relative_to(folders.annotations).parts) > 1 for path in _xml_files(folders, deep=True)
            )
        yield from map(reader.read, files)

    inputs = () if split is None else (folders.lists / f"{split}.txt",)
    return Source(str(root), folders.images, iterate, inputs=inputs, num_images=len(files), notes=notes)


def _annotation_files(folders: VocFolders, root: Path, split: str | None) -> list[Path]:
    if not root.is_dir():
        raise DataError("the folder does not exist", where=str(root), fix="check the path")
    if split is None:
        files = sorted(_xml_files(folders))
        if not files:
            raise DataError("there is no XML file", where=str(folders.annotations), fix="give the folder that holds Annotations/")
        return files
    path = folders.lists / f"{split}.txt"
    if not path.is_file():
        found = sorted(file.stem for file in folders.lists.glob("*.txt"))
        raise DataError("the split does not exist", where=str(path), fix=f"choose one of: {', '.join(found)}" if found else "leave --split out")
    try:
        rows = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError("not a text in UTF-8", where=str(path), fix="a line is the name of an annotation without its suffix") from error
    return [_listed(folders, row) for row in rows if row]


def _listed(folders: VocFolders, row: str) -> Path:
    """The annotation of a row: the whole of it may be a name with spaces; lists of one class hold a second column, 1 where the class is present."""
    whole = folders.annotations / f"{row}.xml"
    return whole if whole.is_file() else folders.annotations / f"{row.split()[0]}.xml"


def _xml_files(folders: VocFolders, *, deep: bool = False) -> Iterator[Path]:
    found = files_below(folders.annotations) if deep else folders.annotations.iterdir()
    return (path for path in found if path.suffix.lower() == ".xml" and path.is_file())


@dataclass(frozen=True, slots=True)
class _Reader:
    folders: VocFolders
    first_pixel: int
    skip_difficult: bool
    with_masks: bool
    notes: Counter[str]

    def read(self, path: Path) -> SourceImage:
        tree = _parse(path)
        width, height = _read_size(tree)
        if width is None:
            self.notes["images without a size in their annotation"] += 1
        masks = self._read_masks(path.stem)
        objects: list[SourceObject] = []
        for index, element in enumerate(tree.findall("object")):
            is_difficult = _text(element, "difficult") == "1"
            if is_difficult and self.skip_difficult:
                self.notes["objects left out as difficult"] += 1
                continue
            self.notes["objects marked as difficult"] += is_difficult
            objects.append(self._read_object(element, f"{path}: object[{index}]", None if masks is None else masks == index + 1))
        return SourceImage(self._image_name(tree, path), str(path), objects, width, height, metadata={"source": path.name})

    def _read_object(self, element: Element, where: str, mask: npt.NDArray[np.bool_] | None) -> SourceObject:
        label, box = _text(element, "name"), element.find("bndbox")
        if self.with_masks:
            rings = tuple(_read_polygon(polygon, self.first_pixel) for polygon in element.findall("polygon"))
            if None in rings:
                return SourceObject(label, where, problem=Problem("bad_polygon", "the polygon is not x1, y1, x2, y2, … of 3 or more vertices"))
            return SourceObject(label, where, rings=tuple(ring for ring in rings if ring), mask=None if rings else mask)
        if box is None:
            return SourceObject(label, where, problem=Problem("no_bbox", "no bndbox"))
        texts = {side: _text(box, side) for side in ("xmin", "ymin", "xmax", "ymax")}
        try:
            x1, y1, x2, y2 = map(float, texts.values())
        except ValueError:
            bad = next(f"{side} {text!r}" for side, text in texts.items() if not _is_number(text))
            return SourceObject(label, where, problem=Problem("bad_bbox", f"{bad} of the bndbox is not a number"))
        return SourceObject(label, where, box=(x1 - self.first_pixel, y1 - self.first_pixel, x2, y2))

    def _read_masks(self, stem: str) -> npt.NDArray[np.uint8] | None:
        path = self.folders.masks / f"{stem}.png"
        if not self.with_masks:
            return None
        if not path.is_file():
            self.notes["images without a segmentation"] += 1
            return None
        try:
            with Image.open(path) as image:
                if image.mode not in ("P", "L"):
                    raise DataError(f"pixels of mode {image.mode}", where=str(path), fix="a segmentation holds one number for each pixel (mode P or L)")
                return np.asarray(image, dtype=np.uint8)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"the segmentation cannot be read ({error})", where=str(path), fix="replace or remove the file") from error

    def _image_name(self, tree: Element, path: Path) -> str:
        """The file that the annotation names, else the image that is called like the annotation: names of other machines are common."""
        given = _text(tree, "filename").replace("\\", "/")
        name = given.rpartition("/")[2]
        for candidate in (given, name):
            if name and describe_bad_path(candidate) is None and (self.folders.images / candidate).is_file():
                return str(PurePosixPath(candidate))
        for suffix in sorted(IMAGE_SUFFIXES):
            for candidate in (path.stem + suffix, path.stem + suffix.upper()):
                if (self.folders.images / candidate).is_file():
                    self.notes["images found by the name of their annotation"] += 1
                    return candidate
        return name or f"{path.stem}.jpg"


def _parse(path: Path) -> Element:
    try:
        tree = SafeElementTree.parse(path, forbid_entities=True, forbid_external=True).getroot()
    except OSError as error:
        what = "the annotation does not exist" if isinstance(error, FileNotFoundError) else f"the annotation cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the split's list") from error
    except ParseError as error:
        raise DataError(f"not XML ({error})", where=f"{path}:{error.position[0]}", fix=_XML) from error
    except DefusedXmlException as error:
        raise DataError("the file declares entities, which annotations have no use for", where=str(path), fix="take the DOCTYPE out") from error
    except (LookupError, ValueError) as error:
        raise DataError(f"not XML in a known encoding ({error})", where=str(path), fix=_XML) from error
    if tree is None or tree.tag != "annotation":
        raise DataError(f"the root is <{'' if tree is None else tree.tag}>", where=str(path), fix=_XML)
    return tree


def _read_polygon(element: Element, first_pixel: int) -> tuple[float, ...] | None:
    """`<x1>`, `<y1>`, `<x2>`, …; None when it is no polygon."""
    numbers = range(1, len(element) // 2 + 1)
    texts = [_text(element, f"{axis}{number}") for number in numbers for axis in "xy"]
    if len(element) < 6 or len(element) % 2 or not all(map(_is_number, texts)):
        return None
    return tuple(float(text) - first_pixel for text in texts)


def _read_size(tree: Element) -> tuple[int | None, int | None]:
    """None where it is missing or zero, as some tools write it."""
    size = tree.find("size")
    texts = ("", "") if size is None else (_text(size, "width"), _text(size, "height"))
    if not all(_is_number(text) and float(text) >= 1 for text in texts):
        return None, None
    return round(float(texts[0])), round(float(texts[1]))


def _text(element: Element, tag: str) -> str:
    found = element.find(tag)
    return (found.text or "").strip() if found is not None else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
