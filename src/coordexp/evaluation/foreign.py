"""A COCO instances file and a COCO results file as one `EvaluationSet`: the file's ids, categories, areas and crowd regions, boxes as written.

A bad entry is set aside with its reason, or is an error when reading strictly. An entry whose image or category is not in the instances file is bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from coordexp.evaluation.coco_files import BadEntry, Image, read_predictions, read_truth
from coordexp.evaluation.coco_form import table_of
from coordexp.evaluation.coco_rows import Catalog, SideRows, annotation_rows, prediction_rows
from coordexp.evaluation.coco_source import CocoSource
from coordexp.evaluation.columns import COUNTERS, EvaluationSet, ImageRow, InvalidObject
from coordexp.evaluation.federation import ApProtocol, read_federation
from coordexp.evaluation.labels import LabelOutcome, label_exactly
from coordexp.evaluation.similarity import ExactSimilarity
from coordexp.types.errors import DataError

AS_WRITTEN = "as written"
"""Pixel mode of boxes that are neither rounded nor clamped."""


def read_coco_pair(coco_gt: Path, coco_preds: Path, *, protocol: ApProtocol = "auto", strict: bool = False, with_masks: bool = True) -> EvaluationSet:
    """Read both files. Masks take part when a result has one, unless `with_masks` is false.

    Raises:
        DataError: a file cannot be read or is of another kind, none of its entries can be used, or (`strict`) one cannot.
    """
    truth, results = read_truth(coco_gt), read_predictions(coco_preds)
    categories = sorted(truth.categories, key=lambda category: category.id)
    catalog = Catalog.of(coco_gt, truth.images, categories)
    federation, partial = read_federation(coco_gt, truth.images, categories, number_of=catalog.number_of_category, protocol=protocol)
    pred = prediction_rows(coco_preds, results, catalog, with_masks=with_masks)
    gt = annotation_rows(coco_gt, truth.annotations, catalog, with_masks=bool(pred.objects.masks), heeds_crowds=federation is None)
    if pred.objects.masks:  # a box among masks counts as the mask of its outline
        for place in np.union1d(gt.objects.image, pred.objects.image).tolist():
            catalog.check_size(place)
    bad = [*_report_bad(coco_gt, "annotations", gt, strict=strict), *_report_bad(coco_preds, "results", pred, strict=strict)]
    is_counted = ~(gt.objects.is_crowd | (gt.objects.is_ignored & (federation is not None)))
    images = _image_rows(truth.images, catalog, gt.bad, pred.bad)
    return EvaluationSet(
        images=images,
        gt=table_of(gt.objects).take(np.flatnonzero(is_counted)),
        pred=table_of(pred.objects),
        descs=tuple(category.name.strip() for category in categories),
        counters=_counters(images, gt, pred),
        warnings=(*truth.warnings, *([partial] if partial else []), *bad, *gt.warnings, *pred.warnings),
        pixel_mode=AS_WRITTEN,
        coco=CocoSource(tuple(int(category.id) for category in categories), gt.objects, pred.objects, np.arange(len(pred.objects)), federation),
    )


def label_by_file(data: EvaluationSet) -> LabelOutcome:
    """Categories are those of the file, found by their ids; classes of f1_det are their names, equal as normalized texts."""
    plan = replace(label_exactly(data), categories=data.descs, gt_category=data.gt.desc + 1, pred_category=data.pred.desc + 1, counters={})
    return LabelOutcome(plan, ExactSimilarity(rule="category ids"))


def _report_bad(path: Path, kind: str, side: SideRows, *, strict: bool) -> list[str]:
    """One sentence for each reason.

    Raises:
        DataError: nothing is left, or (`strict`) something is bad.
    """
    if not side.bad:
        return []
    first = side.bad[0]
    if strict:
        raise DataError(first.what, where=f"{path}: {kind}[{first.index}]", fix="correct the entry, or leave out --strict-parse to set it aside and count it")
    if not len(side.objects):
        what = f"none of the {len(side.bad)} {kind} can be used, the first: {first.what}"
        raise DataError(what, where=f"{path}: {kind}[{first.index}]", fix="give the instances file and the results of the same data set")
    by_reason: dict[str, list[BadEntry]] = {}
    for entry in side.bad:
        by_reason.setdefault(entry.reason, []).append(entry)
    total = len(side.bad) + len(side.objects)
    return [
        f"{path.name}: {len(found)} of {total} {kind} left out for their {reason} (the first: {kind}[{found[0].index}]: {found[0].what})"
        for reason, found in by_reason.items()
    ]


def _image_rows(images: Sequence[Image], catalog: Catalog, bad_gt: Sequence[BadEntry], bad_pred: Sequence[BadEntry]) -> tuple[ImageRow, ...]:
    invalid_gt, invalid_pred = _by_image(bad_gt, catalog), _by_image(bad_pred, catalog)
    return tuple(
        ImageRow(
            image_id=int(image.id),
            file_name=image.file_name or f"image_{int(image.id)}.jpg",
            width=catalog.sizes[place][0],
            height=catalog.sizes[place][1],
            line=0,
            invalid_gt=tuple(invalid_gt.get(place, ())),
            invalid_pred=tuple(invalid_pred.get(place, ())),
        )
        for place, image in enumerate(images)
    )


def _by_image(bad: Sequence[BadEntry], catalog: Catalog) -> dict[int, list[InvalidObject]]:
    """Entries whose image is known."""
    found: dict[int, list[InvalidObject]] = {}
    for entry in bad:
        raw: object = entry.raw
        image_id = cast("Mapping[str, object]", raw).get("image_id") if isinstance(raw, dict) else None
        place = catalog.place_of_image.get(image_id) if isinstance(image_id, int | float) else None
        if place is not None:
            found.setdefault(place, []).append(InvalidObject(entry.reason, cast("object", raw)))
    return found


def _counters(images: Sequence[ImageRow], gt: SideRows, pred: SideRows) -> dict[str, int]:
    unknown = [entry.reason for entry in (*gt.bad, *pred.bad) if entry.reason in ("image_id", "category_id")]
    return {
        **dict.fromkeys(COUNTERS, 0),
        "missing_size": sum(not image.width or not image.height for image in images),
        "empty_pred": len(images) - len(np.unique(pred.objects.image)),
        "invalid_annotations": len(gt.bad),
        "invalid_results": len(pred.bad),
        "unknown_image_id": unknown.count("image_id"),
        "unknown_category_id": unknown.count("category_id"),
        "crowd_regions": int(gt.objects.is_crowd.sum()),
    }
