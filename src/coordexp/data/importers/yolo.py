"""YOLO folders (detect and segment): `data.yaml` names the classes and the splits; beside `images/` lies `labels/` with a text file for each image.

A line is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 …`, all 0..1 of the upright image. Where `kpt_shape` says that there are keypoints, they stand behind
the box and are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject
from coordexp.data.paths import files_below
from coordexp.data.plain_yaml import read_plain_yaml
from coordexp.types.errors import DataError
from coordexp.types.progress import Progress

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_NO_LABELS = "images without a label file"
_NO_IMAGE = "label files without an image, left out"
_NO_LABEL_FILES = frozenset({"classes.txt", "notes.txt"})
"""What labelling tools write beside the labels."""
_MIXED = "a data.yaml names its splits (train, val) and its classes (names)"


def import_yolo(
    data_yaml: Path, *, split: str, output: Path, options: ImportOptions | None = None, workers: int = 1, progress: Progress | None = None
) -> ImportSummary:
    """Write the record file `output` from a split of a YOLO data set (`import_source` tells the errors).

    Args:
        data_yaml: the data set's `data.yaml`.
        split: a split that it names: train, val or test.
        output: the JSONL to write, in pixels.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    return import_source(open_yolo(data_yaml, split=split), output=output, options=options or ImportOptions(), workers=workers, progress=progress)


def open_yolo(data_yaml: Path, *, split: str) -> Source:
    """The images of a split, by name within each folder, or in the order of a list file. An image without a label file has no objects.

    Raises:
        DataError: a broken `data.yaml`, no such split or folder.
    """
    tree = _read_yaml(data_yaml)
    names = _read_names(tree.get("names"), data_yaml)
    root = _root_of(tree, data_yaml)
    classes = _Classes(names, _pose_values(tree, data_yaml))
    entries = tree.get(split)
    if not entries:
        found = [key for key in ("train", "val", "test") if tree.get(key)]
        raise DataError(f"there is no split {split!r}", where=str(data_yaml), fix=f"choose one of: {', '.join(found)}" if found else _MIXED)
    places = [_find(root, str(entry), data_yaml) for entry in (cast(list[Any], entries) if isinstance(entries, list) else [entries])]
    common = Path(os.path.commonpath([root, *(place if place.is_dir() else place.parent for place in places)]))
    notes: Counter[str] = Counter()

    def iterate() -> Iterator[SourceImage]:
        notes.clear()
        for place in places:
            for path in _image_paths(place, root):
                yield _read_image(path, common, classes, data_yaml, notes)
        notes[_NO_IMAGE] += sum(map(_count_labels_alone, places))

    return Source(str(data_yaml), common, iterate, inputs=(data_yaml,), notes=notes)


@dataclass(frozen=True, slots=True)
class _Classes:
    names: dict[int, str]
    num_pose_values: int
    """Of a line with keypoints, behind the class; 0: there are none."""


def _pose_values(tree: dict[str, Any], path: Path) -> int:
    shape: Any = tree.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(value) is int and value > 0 for value in cast(list[Any], shape)):  # pyright: ignore
        raise DataError(f"{shape!r} is not [keypoints, values of each]", where=f"{path}: kpt_shape", fix="write it as [17, 3]")
    return 4 + shape[0] * shape[1]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree, spelled = read_plain_yaml(path)
    except OSError as error:
        what = "data.yaml does not exist" if isinstance(error, FileNotFoundError) else f"data.yaml cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the path") from error
    except ValueError as error:
        raise DataError(f"not YAML in UTF-8 ({error})", where=str(path), fix=_MIXED) from error
    if not isinstance(tree, dict):
        raise DataError("not a mapping", where=str(path), fix=_MIXED)
    # names as they are written: a class called no, 1.10 or null is no truth value, no number and not nothing
    return {**cast(dict[str, Any], tree), "names": spelled.get("names")}


def _read_names(names: Any, path: Path) -> dict[int, str]:
    if isinstance(names, list) and names:
        return {number: str(name) for number, name in enumerate(cast(list[Any], names))}
    if isinstance(names, dict) and names and all(str(key).isdigit() for key in cast(dict[Any, Any], names)):
        return {int(key): str(name) for key, name in cast(dict[Any, Any], names).items()}
    raise DataError("names is neither a list of classes nor a mapping from numbers to classes", where=f"{path}: names", fix=_MIXED)


def _root_of(tree: dict[str, Any], data_yaml: Path) -> Path:
    """`path`, relative to the file; the folder of the file where that does not exist (it names a place of another machine)."""
    given = tree.get("path")
    root = data_yaml.parent / str(given) if given else data_yaml.parent
    return (root if root.is_dir() else data_yaml.parent).resolve()


def _find(root: Path, entry: str, data_yaml: Path) -> Path:
    """A folder of images or a list file. Roboflow writes `../train/images` for `train/images`."""
    entry = entry.replace("\\", "/")
    candidates = [entry, entry.removeprefix("../"), entry.removeprefix("./")]
    for base in (root, data_yaml.parent.resolve()):
        for candidate in candidates:
            if (place := base / candidate).exists():
                return place.resolve()
    raise DataError(f"{entry} is neither a folder nor a file", where=str(data_yaml), fix=f"correct the path; it is looked for in {root}")


def _image_paths(place: Path, root: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(path for path in files_below(place) if path.suffix.lower() in IMAGE_SUFFIXES)
        return
    with place.open(encoding="utf-8-sig") as stream:
        for line in stream:
            if name := line.strip().replace("\\", "/"):
                yield place.parent / name if name.startswith("./") else root / name


def _count_labels_alone(place: Path) -> int:
    """Label files of a folder of images that no image belongs to: its suffix is unknown, or it is lost."""
    labels = label_path(place / "any.jpg").parent
    if not place.is_dir() or labels == place or not labels.is_dir():
        return 0
    with_image = {label_path(image) for image in _image_paths(place, place)}
    return sum(path.suffix == ".txt" and path not in with_image and path.name not in _NO_LABEL_FILES for path in files_below(labels))


def _read_image(path: Path, root: Path, classes: _Classes, data_yaml: Path, notes: Counter[str]) -> SourceImage:
    labels = label_path(path)
    objects: list[SourceObject] = []
    if labels.is_file():
        objects = _read_labels(labels, classes, notes)
    else:
        notes[_NO_LABELS] += 1
    where = str(labels if labels.is_file() else path)
    try:
        name = path.relative_to(root).as_posix()
    except ValueError as error:
        raise DataError(
            f"the image {path} lies outside of {root}", where=str(data_yaml), fix="set path in data.yaml to a folder that holds all images"
        ) from error
    return SourceImage(name, where, objects, unit="fraction", metadata={"source": data_yaml.name})


def label_path(image: Path) -> Path:
    """Example: `data/images/train/a.jpg` → `data/labels/train/a.txt`; beside the image where no folder is called images."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(path: Path, classes: _Classes, notes: Counter[str]) -> list[SourceObject]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("not a text in UTF-8", where=str(path), fix="a line is `class cx cy w h`") from error
    return [_read_line(line.split(), f"{path}:{number}", classes, notes) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_line(fields: list[str], where: str, classes: _Classes, notes: Counter[str]) -> SourceObject:
    try:
        number, values = float(fields[0]), tuple(float(field) for field in fields[1:])
    except ValueError:
        return SourceObject("", where, problem=Problem("bad_line", f"{' '.join(fields)[:60]!r} is not a line of numbers"))
    label = classes.names.get(int(number)) if number.is_integer() else None
    if label is None:
        return SourceObject("", where, problem=Problem("unknown_class", f"class {fields[0]} is not among the {len(classes.names)} names of data.yaml"))
    if values and len(values) == classes.num_pose_values:
        notes["objects with keypoints, of which the box was taken"] += 1
        values = values[:4]
    if len(values) == 4:
        x, y, width, height = values
        return SourceObject(label, where, box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6 or len(values) % 2:
        what = f"{len(values)} values after the class, neither a box (4) nor the x, y of 3 or more vertices"
        return SourceObject(label, where, problem=Problem("bad_line", what))
    return SourceObject(label, where, rings=(values,))
