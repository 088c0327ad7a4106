"""`coco_gt.json` and `coco_preds.json`: the set in COCO's form, as any COCO tool reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from coordexp.evaluation.coco_form import category_ids, coco_annotations, coco_results
from coordexp.evaluation.coco_source import CocoObjects, Federation, Rle
from coordexp.evaluation.columns import EvaluationSet, Floats, Ints, ObjectTable
from coordexp.evaluation.json_rows import as_array, plain_numbers, portions
from coordexp.evaluation.labels import LabelPlan

_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]
"""x1 y1 x2 y1 x2 y2 x1 y2 of a box x1 y1 x2 y2."""


class AnnotationRow(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: Any = UNSET
    ignore: int | UnsetType = UNSET


class ResultRow(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: list[float]
    score: float
    segmentation: Any = UNSET


def coco_gt_json(data: EvaluationSet, labels: LabelPlan) -> Iterator[bytes]:
    """An instances file. A box of a record has its outline as segmentation; of COCO files only masks are repeated, and only when they took part."""
    federation = None if data.coco is None else data.coco.federation
    yield b'{"info":{},"licenses":[],"images":' + msgspec.json.encode(_images(data, federation))
    yield b',"categories":' + msgspec.json.encode(_categories(data, labels, federation)) + b',"annotations":'
    yield from as_array(annotation_rows(data, labels))
    yield b"}\n"


def coco_preds_json(data: EvaluationSet, labels: LabelPlan, scores: Floats, *, with_segm: bool) -> Iterator[bytes]:
    """A results file of the predictions that have a category."""
    return as_array(result_rows(data, labels, scores, with_segm=with_segm))


def annotation_rows(data: EvaluationSet, labels: LabelPlan) -> Iterator[list[AnnotationRow]]:
    """In portions."""
    objects = coco_annotations(data, labels)
    image_ids, categories = _ids(data, labels, objects)
    boxes, areas, rings = plain_numbers(objects.xywh), plain_numbers(objects.area), data.coco is None
    for part in portions(len(objects)):
        rows = range(part.start, part.stop)
        segmentations = _outlines(data.gt, part) if rings else [_rle(objects.masks.get(row)) for row in rows]
        columns = (objects.ids[part].tolist(), image_ids[part].tolist(), categories[part].tolist(), boxes[part], areas[part])
        ignored = [int(mark) or UNSET for mark in objects.is_ignored[part].tolist()]
        yield list(map(AnnotationRow, *columns, objects.is_crowd[part].astype(np.int64).tolist(), segmentations, ignored))


def result_rows(data: EvaluationSet, labels: LabelPlan, scores: Floats, *, with_segm: bool) -> Iterator[list[ResultRow]]:
    """In portions."""
    objects = coco_results(data, labels, scores)
    image_ids, categories = _ids(data, labels, objects)
    boxes = plain_numbers(objects.xywh)
    for part in portions(len(objects)):
        segmentations = _given_segmentations(data, objects, part) if with_segm else [UNSET] * (part.stop - part.start)
        columns = (image_ids[part].tolist(), categories[part].tolist(), boxes[part], objects.scores[part].tolist(), segmentations)
        yield list(map(ResultRow, *columns))


def _images(data: EvaluationSet, federation: Federation | None) -> list[dict[str, object]]:
    images: list[dict[str, object]] = [
        {"id": image.image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in data.images
    ]
    if federation is not None and data.coco is not None:
        ids = data.coco.category_ids
        for image, negative, not_exhaustive in zip(images, federation.negative, federation.not_exhaustive, strict=True):
            image["neg_category_ids"] = [ids[number - 1] for number in negative]
            image["not_exhaustive_category_ids"] = [ids[number - 1] for number in not_exhaustive]
    return images


def _categories(data: EvaluationSet, labels: LabelPlan, federation: Federation | None) -> list[dict[str, object]]:
    categories: list[dict[str, object]] = [
        {"id": number, "name": name} for number, name in zip(category_ids(data, labels).tolist(), labels.categories, strict=True)
    ]
    if federation is not None:
        for category, frequency in zip(categories, federation.frequency, strict=True):
            category["frequency"] = frequency
    return categories


def _ids(data: EvaluationSet, labels: LabelPlan, objects: CocoObjects) -> tuple[Ints, Ints]:
    """(image id, category id) of each object."""
    image_ids = np.array([image.image_id for image in data.images], dtype=np.int64)
    return image_ids[objects.image], category_ids(data, labels)[objects.category - 1]


def _outlines(table: ObjectTable, part: slice) -> list[list[list[float]]]:
    """Rings of polygons, corners of boxes."""
    outlines: list[list[list[float]]] = [[ring] for ring in plain_numbers(table.boxes[part][:, _CORNERS])]
    if table.polygons:
        for place, row in enumerate(range(part.start, part.stop)):
            if row in table.polygons:
                outlines[place] = [plain_numbers(table.polygons[row])]
    return outlines


def _given_segmentations(data: EvaluationSet, objects: CocoObjects, part: slice) -> Sequence[Any]:
    """What a prediction said beyond its box."""
    if data.coco is not None:
        return [_rle(objects.masks.get(row)) for row in range(part.start, part.stop)]
    polygons, rows = data.pred.polygons, objects.index[part].tolist()
    return [[plain_numbers(polygons[row])] if row in polygons else UNSET for row in rows]


def _rle(mask: Rle | None) -> Any:
    """JSON has texts, the library has bytes."""
    return UNSET if mask is None else {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
