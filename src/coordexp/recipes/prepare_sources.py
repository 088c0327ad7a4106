"""A split of a preparation file to an opened source, and what decides its content: annotation bytes, and name, size and time of the other files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordexp.config.prepare import SplitSource
from coordexp.data.importers.options import ImportOptions, read_label_map
from coordexp.data.importers.source import Source
from coordexp.types.files import file_sha256


def import_options(source: SplitSource, *, max_objects: int | None) -> ImportOptions:
    """The options of a split; `max_objects` is the limit in the name of the preset.

    Raises:
        DataError: a label map that cannot be read.
    """
    limits = [limit for limit in (source.max_objects, max_objects) if limit is not None]
    return ImportOptions(
        geometry=source.geometry,
        outline=source.outline,
        max_vertices=source.max_vertices,
        max_deviation=source.max_deviation,
        labels={} if source.labels is None else read_label_map(source.labels),
        only_mapped=source.only_mapped,
        min_side=source.min_side,
        max_objects=min(limits, default=None),
        over_limit=source.over_limit,
        part=source.part,
        val_share=source.val_share,
        seed=source.seed,
        skip_invalid=source.skip_invalid,
        skip_bad_images=source.skip_bad_images,
    )


def open_source(source: SplitSource, *, name: str) -> Source:
    """The reader of a split.

    Args:
        source: the split's section.
        name: of the split: train or val.

    Raises:
        DataError: annotations that cannot be read.
        BackendError: a library is missing.
    """
    polygons, split = source.geometry == "poly", source.split or name
    if source.kind == "yolo":
        from coordexp.data.importers.yolo import open_yolo

        return open_yolo(source.instances, split=split)
    if source.kind == "voc":
        from coordexp.data.importers.voc import open_voc

        options: dict[str, Any] = {"first_pixel": source.first_pixel, "skip_difficult": source.skip_difficult, "with_masks": polygons}
        return open_voc(source.instances, images=source.images, split=source.split, **options)
    if source.kind == "hf":
        from coordexp.data.importers.hugging_face import HfColumns, open_hugging_face

        assert source.columns is not None
        columns = HfColumns(**source.columns.model_dump(exclude={"config"}))
        return open_hugging_face(str(source.instances), columns=columns, split=split, config=source.columns.config)
    assert source.images is not None
    return _open_file(source, source.images, polygons)


def _open_file(source: SplitSource, images: Path, polygons: bool) -> Source:
    """Formats of one annotation file beside a folder of images."""
    if source.kind == "lvis":
        from coordexp.data.importers.lvis import open_lvis

        return open_lvis(source.instances, images=images, with_outlines=polygons)
    if source.kind == "visual_genome":
        from coordexp.data.importers.visual_genome import open_visual_genome

        return open_visual_genome(source.instances, images=images)
    if source.kind == "swift":
        from coordexp.data.importers.swift import open_swift

        return open_swift(source.instances, images=images, merge_rows=source.merge_rows)
    from coordexp.data.importers.coco import open_coco

    return open_coco(source.instances, images=images, with_outlines=polygons, strip_components=source.strip_components)


def source_stamp(source: SplitSource, opened: Source, *, output: Path) -> dict[str, str]:
    """Digests of everything that the import reads: content of annotation files; name, size and time of the files of folders, `output` left out."""
    stamp = {str(path): file_sha256(path) for path in opened.inputs}
    folders = [opened.image_root, source.instances.parent if source.kind == "yolo" else source.instances if source.instances.is_dir() else None]
    for folder in folders:
        if folder is not None:
            stamp[f"{folder}/"] = tree_stamp(folder, without=output)
    return stamp


def tree_stamp(folder: Path, *, without: Path | None = None) -> str:
    """Digest of name, size and time of every file below `folder`, but those below `without`."""
    digest = hashlib.sha256()
    for line in sorted(_lines(folder, without.resolve() if without is not None else None)):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _lines(folder: Path, without: Path | None) -> Iterator[str]:
    seen = {without, folder.resolve()}
    for root, folders, files in os.walk(folder, followlinks=True):
        real = {name: Path(root, name).resolve() for name in folders}
        folders[:] = [name for name in folders if real[name] not in seen]  # a link to a folder above would lead around in circles
        seen.update(real.values())
        for name in files:
            path = os.path.join(root, name)
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)  # a link that leads nowhere
            yield f"{os.path.relpath(root, folder)}/{name} {status.st_size} {status.st_mtime_ns}\n"
