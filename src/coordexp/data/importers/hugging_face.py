"""Data sets of the library `datasets` (Hugging Face), on disk or from the hub, by a mapping of columns. The library is loaded when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from PIL import Image, UnidentifiedImageError

from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject, Unit
from coordexp.geometry.boxes import xywh_to_xyxy
from coordexp.geometry.polygons import Ring
from coordexp.types.errors import BackendError, DataError
from coordexp.types.progress import Progress

BoxFormat: TypeAlias = Literal["xywh", "xyxy", "cxcywh"]
_FILES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


@dataclass(frozen=True, slots=True)
class HfColumns:
    """Where a row keeps what an import needs; dots lead into a struct or a list of structs.

    Example: `HfColumns(bbox="objects.bbox", label="objects.category", box_format="xywh")`
    """

    box_format: BoxFormat
    """No default: four numbers do not say which it is."""
    image: str = "image"
    bbox: str = "objects.bbox"
    label: str = "objects.category"
    segmentation: str | None = None
    """Polygons x1, y1, … of each object, as in COCO."""
    unit: Unit = "pixel"


def import_hugging_face(
    dataset: str,
    *,
    output: Path,
    columns: HfColumns,
    split: str = "train",
    config: str | None = None,
    options: ImportOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ImportSummary:
    """Write the record file `output` from a data set of the library `datasets` (`import_source` tells the errors). Images are written as they were encoded.

    Args:
        dataset: a folder that `save_to_disk` wrote, a Parquet, Arrow or JSON file, or a name on the hub.
        output: the JSONL to write, in pixels.
        columns: where a row keeps its image, boxes and labels.
        split: the split to take.
        config: the configuration of a data set that has several.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.

    Raises:
        BackendError: the library is not installed.
    """
    return import_source(
        open_hugging_face(dataset, columns=columns, split=split, config=config),
        output=output,
        options=options or ImportOptions(),
        workers=workers,
        progress=progress,
    )


def open_hugging_face(dataset: str, *, columns: HfColumns, split: str = "train", config: str | None = None) -> Source:
    """The rows of a data set, in order; its tables stay on disk.

    Raises:
        BackendError: the library is not installed.
        DataError: no such data set, split or column.
    """
    table = _load(dataset, split, config)
    for column in (columns.image, columns.bbox, columns.label, *([columns.segmentation] if columns.segmentation else [])):
        _feature(table.features, column, dataset)
    names = getattr(_feature(table.features, columns.label, dataset), "names", None)
    table = _keep_encoded(table, columns.image)
    notes: Counter[str] = Counter()
    path = Path(dataset)
    files = _Files.of(path)

    def iterate() -> Iterator[SourceImage]:
        notes.clear()
        for index, row in enumerate(table):
            yield _read_row(cast(dict[str, Any], row), columns, names, files, f"{dataset}[{split}]: row {index}", index, notes)

    return Source(f"{dataset}[{split}]", None, iterate, inputs=(path,) if path.is_file() else (), num_images=len(table), notes=notes)


@dataclass(frozen=True, slots=True)
class _Files:
    """Where rows may name files: in the folder of the data set, and where the library keeps what it has loaded."""

    root: Path
    allowed: tuple[Path, ...]

    @classmethod
    def of(cls, dataset: Path) -> _Files:
        from datasets import config
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = dataset if dataset.is_dir() else dataset.parent
        caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
        return cls(folder, tuple(Path(place).resolve() for place in ((folder, *caches) if dataset.exists() else caches)))

    def read(self, name: str, where: str) -> bytes:
        """Raises DataError: the file cannot be read, or lies elsewhere: a data set of a stranger could name any file of this machine."""
        path = self.root / name
        if not any(path.resolve().is_relative_to(place) for place in self.allowed):
            raise DataError(f"the image {name} lies outside of the data set", where=where, fix="put the images into its folder, or into its rows")
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"the image {name} cannot be read ({error.strerror})", where=where, fix="check that the images of the data set are there"
            ) from error


def _load(dataset: str, split: str, config: str | None) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetGenerationError
    except ImportError as error:
        raise BackendError("the library datasets is not installed", where="import hf", fix="pip install 'coordexp[hf]'") from error
    path = Path(dataset)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            found: Any = datasets.load_from_disk(dataset)
            return found[split] if isinstance(found, datasets.DatasetDict) else found
        if path.suffix in _FILES:
            return datasets.load_dataset(_FILES[path.suffix], data_files={split: dataset}, split=split)
        return datasets.load_dataset(dataset, config, split=split)
    except KeyError as error:
        raise DataError(f"there is no split {split!r}", where=dataset, fix="choose another with --split") from error
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise DataError(
            f"the data set cannot be loaded ({' '.join(str(error).split())[:300]})", where=dataset, fix="check its name or path, and the split"
        ) from error


def _keep_encoded(table: Any, column: str) -> Any:
    """Rows then hold the encoded picture instead of a decoded one."""
    import datasets

    if isinstance(table.features.get(column), datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def _feature(features: Any, column: str, dataset: str) -> Any:
    """The type of a column, inside lists and structs."""
    found = features
    for part in column.split("."):
        found = _unwrap(found)
        if part not in (found if isinstance(found, dict) else ()):
            names = ", ".join(found) if isinstance(found, dict) else "none"
            raise DataError(f"there is no column {column!r}", where=dataset, fix=f"choose among: {names}")
        found = found[part]
    return _unwrap(found)


def _unwrap(feature: Any) -> Any:
    while True:
        if isinstance(feature, list):
            feature = feature[0]
        elif hasattr(feature, "feature"):
            feature = feature.feature
        else:
            return feature


def _read_row(row: dict[str, Any], columns: HfColumns, names: Sequence[str] | None, files: _Files, where: str, index: int, notes: Counter[str]) -> SourceImage:
    content, suffix = _encoded(_value(row, columns.image), files, where)
    boxes, labels = _value(row, columns.bbox) or [], _value(row, columns.label) or []
    parts = (_value(row, columns.segmentation) if columns.segmentation else None) or [None] * len(boxes)
    if not len(boxes) == len(labels) == len(parts):
        what = f"{len(boxes)} boxes, {len(labels)} labels, {len(parts)} segmentations"
        raise DataError(what, where=where, fix="correct the row or choose other columns")
    objects = [
        _to_object(box, _name(label, names, notes), part, columns.box_format, f"{where}: object {number}")
        for number, (box, label, part) in enumerate(zip(boxes, labels, parts, strict=True))
    ]
    return SourceImage(
        f"{index:07d}{suffix}", where, objects, unit=columns.unit, metadata={"source": where.partition(": row")[0], "row": index}, content=content
    )


def _value(row: Any, column: str) -> Any:
    value = row
    for part in column.split("."):
        value = [item[part] for item in value] if isinstance(value, list) else value[part]
    return value


def _encoded(value: Any, files: _Files, where: str) -> tuple[bytes, str]:
    """The bytes of a picture and the suffix of its format."""
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
    else:
        content, path = (value, None) if isinstance(value, bytes) else (None, value)
    if content is None and isinstance(path, str):
        content = files.read(path, where)
    if content is None:
        raise DataError("the image column holds neither a picture nor a path", where=where, fix="choose another column with --image")
    try:
        with Image.open(BytesIO(content)) as image:
            suffix = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}.get(image.format or "", ".img")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        suffix = ".img"  # what is wrong with it is found, and said or counted, with its size
    return content, suffix


def _name(label: Any, names: Sequence[str] | None, notes: Counter[str]) -> str:
    if isinstance(label, str):
        return label
    if isinstance(label, int) and names is not None and 0 <= label < len(names):
        return names[label]
    notes["labels that are bare numbers; name them with a label map"] += 1
    return str(label)


def _to_object(box: Any, label: str, part: Any, box_format: BoxFormat, where: str) -> SourceObject:
    values = tuple(box) if box is not None else ()
    if len(values) != 4 or not all(isinstance(value, int | float) for value in values):
        return SourceObject(label, where, problem=Problem("bad_bbox", f"{str(box)[:60]} is not a box of 4 numbers"))
    rings = _rings(part)
    if rings is None:
        return SourceObject(label, where, problem=Problem("bad_polygon", "a polygon of the segmentation is not a flat list of 3 or more x, y pairs"))
    return SourceObject(label, where, box=_corners(values, box_format), rings=rings)


def _corners(box: tuple[float, ...], box_format: BoxFormat) -> tuple[float, ...]:
    if box_format == "xyxy":
        return box
    if box_format == "xywh":
        return xywh_to_xyxy(box)
    x, y, width, height = box
    return xywh_to_xyxy((x - width / 2, y - height / 2, width, height))


def _rings(part: Any) -> tuple[Ring, ...] | None:
    if part is None:
        return ()
    rings = part if part and isinstance(part[0], list | tuple) else [part]
    if any(len(ring) < 6 or len(ring) % 2 for ring in rings):
        return None
    return tuple(tuple(float(value) for value in ring) for ring in rings)
