"""Detections of many pictures in the forms of other tools. Each appears complete or not at all.

jsonl         lines of `gt_vs_pred.jsonl` without ground truth
coco          one COCO data set: images, categories, annotations with `score`
yolo          a folder: `labels/<picture>.txt` with `class cx cy w h score`, shares of the picture's sides, and `classes.txt`
supervision   the CSV of `supervision.CSVSink`: corners, class, confidence, picture
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

from coordexp.pipeline.artifacts import check_writable, result_to_line
from coordexp.pipeline.detections import Detections
from coordexp.types.errors import BackendError, DataError, OutputError
from coordexp.types.files import atomic_folder, atomic_writer, translate_os_errors

Format: TypeAlias = Literal["jsonl", "coco", "yolo", "supervision"]


@dataclass(slots=True)
class ClassNumbers:
    """Names → numbers from 0: those that were asked for, then others in order of first sight."""

    number_of: dict[str, int] = field(default_factory=dict[str, int])

    def __getitem__(self, name: str) -> int:
        return self.number_of.setdefault(name, len(self.number_of))

    def add(self, names: Iterable[str]) -> None:
        for name in names:
            self.number_of.setdefault(name, len(self.number_of))

    @property
    def names(self) -> list[str]:
        return list(self.number_of)


def write_predictions(found: Sequence[Detections], path: Path, *, form: Format, labels: Sequence[str] = ()) -> None:
    """Write the detections of several pictures.

    Args:
        found: one for each picture; those that failed stand in `jsonl` alone, and as pictures without objects in `coco` when their size is known.
        path: a file, or the folder of `yolo`.
        form: see above.
        labels: names that come first in the list of classes.

    Raises:
        DataError: two pictures would share a file of `yolo`.
        BackendError: `supervision` is not installed.
        OutputError: the path cannot be written, or the folder of `yolo` holds something.
    """
    classes = ClassNumbers()
    classes.add(labels)
    _WRITERS[form](found, path, classes)


def check_form(images: Iterable[str], path: Path, *, form: Format) -> None:
    """What `write_predictions` would refuse, before the work.

    Raises:
        UserError: see `write_predictions`.
    """
    if form == "yolo":
        _check_empty(path)
        label_files(images)
    if form == "supervision" and importlib.util.find_spec("supervision") is None:
        raise _no_supervision()
    check_writable(path.parent)


def label_files(images: Iterable[str]) -> dict[str, PurePath]:
    """Picture → its file below `labels` in the form `yolo`: the name of the picture, in its folders below what all pictures have in common.

    Raises:
        DataError: two pictures would share a file.
    """
    paths = {image: PurePath(image) for image in dict.fromkeys(images)}
    folders = [path.parent.parts for path in paths.values()]
    shared = 0
    while folders and all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    files: dict[str, PurePath] = {}
    taken: dict[PurePath, str] = {}
    for image, path in paths.items():
        file = PurePath(*[part for part in path.parts[shared:-1] if part not in {"..", "/"}], f"{path.stem}.txt")
        if file in taken:
            what = f"{taken[file]} and {image} would share labels/{file}"
            raise DataError(what, where="--format yolo", fix="give them other names, or choose another format")
        files[image], taken[file] = file, image
    return files


def _write_jsonl(found: Sequence[Detections], path: Path, classes: ClassNumbers) -> None:
    with atomic_writer(path) as stream:
        stream.writelines(result_to_line(item.result) for item in found)


def _write_coco(found: Sequence[Detections], path: Path, classes: ClassNumbers) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for item in found:
        if item.size is None:
            continue
        images.append({"id": len(images) + 1, "file_name": item.image, "width": item.size[0], "height": item.size[1]})
        for box, ring, name, score in zip(item.boxes.tolist(), item.polygons, item.labels, item.scores.tolist(), strict=True):
            x1, y1, x2, y2 = box
            row = {"id": len(annotations) + 1, "image_id": len(images), "category_id": classes[name] + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            row |= {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": score}
            annotations.append(row if ring is None else {**row, "segmentation": [ring.ravel().tolist()]})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes.names, start=1)]
    with atomic_writer(path) as stream:
        json.dump({"info": {}, "licenses": [], "images": images, "categories": categories, "annotations": annotations}, stream, ensure_ascii=False)
        stream.write("\n")


def _write_yolo(found: Sequence[Detections], path: Path, classes: ClassNumbers) -> None:
    files = label_files(item.image for item in found)
    _check_empty(path)
    with atomic_folder(path) as folder:
        for item in found:
            if item.size is None:
                continue
            width, height = item.size
            target = folder / "labels" / files[item.image]
            target.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                f"{classes[name]} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f} {score:.6f}\n"
                for (x1, y1, x2, y2), name, score in zip(item.boxes.tolist(), item.labels, item.scores.tolist(), strict=True)
            ]
            target.write_text("".join(lines), encoding="utf-8")
        (folder / "classes.txt").write_text("".join(f"{' '.join(name.split())}\n" for name in classes.names), encoding="utf-8")


def _check_empty(folder: Path) -> None:
    """Nobody's annotations are replaced."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError("is there already, and is not an empty folder", where=str(folder), fix="choose another --out")


def _no_supervision() -> BackendError:
    fix = "pip install 'coordexp[supervision]'"
    return BackendError("this form needs the library supervision, which is not installed", where="--format supervision", fix=fix)


def _write_supervision(found: Sequence[Detections], path: Path, classes: ClassNumbers) -> None:
    try:
        import supervision as sv
    except ModuleNotFoundError as error:
        raise _no_supervision() from error
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as folder:
            part = Path(folder) / "detections.csv"
            with sv.CSVSink(str(part)) as sink:
                for item in found:
                    classes.add(item.labels)
                    sink.append(item.to_supervision(classes.names), custom_data={"image": item.image})
            part.replace(path)


_WRITERS: Mapping[Format, Callable[[Sequence[Detections], Path, ClassNumbers], None]] = {
    "jsonl": _write_jsonl,
    "coco": _write_coco,
    "yolo": _write_yolo,
    "supervision": _write_supervision,
}
