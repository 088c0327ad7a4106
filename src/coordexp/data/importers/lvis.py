"""LVIS: COCO's form with addresses in place of file names, and per image the categories that are absent or not completely annotated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from coordexp.data.coco_file import CocoImage, read_coco
from coordexp.data.importers.coco import coco_source
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Source
from coordexp.data.importers.urls import name_from_url
from coordexp.types.progress import Progress


def import_lvis(
    annotations: Path, *, images: Path, output: Path, options: ImportOptions | None = None, workers: int = 1, progress: Progress | None = None
) -> ImportSummary:
    """Write the record file `output` from an LVIS file (`import_source` tells the errors).

    The federated fields go to the metadata of each record, as ids and, beside them, as names of the source: `neg_category_ids`, `neg_categories`,
    `not_exhaustive_category_ids`, `not_exhaustive_categories`.

    Args:
        annotations: `lvis_v1_train.json` or its like.
        images: folder with `train2017/` and `val2017/` (the val split of LVIS takes images of both), or the folder of the images themselves.
        output: the JSONL to write, in pixels.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    options = options or ImportOptions()
    return import_source(
        open_lvis(annotations, images=images, with_outlines=options.geometry == "poly"), output=output, options=options, workers=workers, progress=progress
    )


def open_lvis(annotations: Path, *, images: Path, with_outlines: bool) -> Source:
    """The images of an LVIS file, in its order.

    Raises:
        DataError: a broken file.
    """
    coco = read_coco(annotations)
    name_of, metadata_of = partial(_file_name, images), partial(_federated, coco.names)
    return coco_source(coco, images=images, with_outlines=with_outlines, name_of=name_of, metadata_of=metadata_of)


def _file_name(root: Path, image: CocoImage, where: str) -> str:
    return name_from_url(image.coco_url or image.file_name, root, where=where)


def _federated(names: dict[int, str], image: CocoImage) -> dict[str, Any]:
    return {
        "neg_category_ids": image.neg_category_ids,
        "neg_categories": [names[number] for number in image.neg_category_ids if number in names],
        "not_exhaustive_category_ids": image.not_exhaustive_category_ids,
        "not_exhaustive_categories": [names[number] for number in image.not_exhaustive_category_ids if number in names],
    }
