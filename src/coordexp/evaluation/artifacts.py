"""The folder of an evaluation: every file of it, written from columns. `EvaluationResult.save` makes it appear complete or not at all."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from coordexp.evaluation.analysis_artifacts import analysis_as_dict, pr_curves_csv
from coordexp.evaluation.coco_artifacts import coco_gt_json, coco_preds_json
from coordexp.evaluation.f1_det import NO_COUNTS
from coordexp.evaluation.image_rows import per_image_rows
from coordexp.evaluation.json_rows import as_array, as_lines
from coordexp.evaluation.matches import match_rows
from coordexp.semantics.normalize import normalize_label
from coordexp.types.files import atomic_writer

if TYPE_CHECKING:
    from coordexp.evaluation.result import EvaluationResult

_ARTIFACT = re.compile(
    r"metrics\.json|per_class\.csv|per_image\.json|coco_gt\.json|coco_preds\.json|matches(@\d\.\d\d)?\.jsonl|semantic_desc_report\.json|overlays"
    r"|analysis\.json|pr_curves\.csv|report\.html|report_files"
)


_DEEPEST = 50


def is_artifact(name: str) -> bool:
    """Whether an evaluation writes a file or folder of this name."""
    return _ARTIFACT.fullmatch(name) is not None


def write_artifacts(result: EvaluationResult, folder: Path) -> None:
    """Write all files into `folder`, which the caller makes appear.

    Raises:
        OutputError: the folder cannot be written.
    """
    _write(folder / "metrics.json", [msgspec.json.format(msgspec.json.encode(result.summary()), indent=2), b"\n"])
    _write(folder / "per_class.csv", [per_class_csv(result).encode()])
    _write(folder / "analysis.json", [msgspec.json.encode(analysis_as_dict(result.analysis, result.data, result.labels)), b"\n"])
    if result.analysis.curves:
        _write(folder / "pr_curves.csv", [pr_curves_csv(result.analysis, result.labels).encode()])
    _write(folder / "per_image.json", as_array(per_image_rows(result.data, result.det.per_image, result.f1ish)))
    if result.semantic_report is not None:
        _write(folder / "semantic_desc_report.json", [msgspec.json.format(msgspec.json.encode(result.semantic_report.as_dict()), indent=2), b"\n"])
    _write(folder / "coco_gt.json", coco_gt_json(result.data, result.labels))
    _write(folder / "coco_preds.json", coco_preds_json(result.data, result.labels, result.scores.scores, with_segm=result.with_segm))
    if result.f1ish is not None:
        for threshold in result.f1ish.levels:
            name = "matches.jsonl" if threshold == result.f1ish.primary else f"matches@{threshold:.2f}.jsonl"
            _write(folder / name, as_lines(match_rows(result.data, result.f1ish, threshold)))


def per_class_csv(result: EvaluationResult) -> str:
    """One row a category, quoted where needed; the first two columns are `category,AP`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", "AP", "num_gt", "num_pred", "f1_det@0.50", "f1_det_miou", "precision@0.50", "recall@0.50", "mean_matched_iou"])
    counts_of = {normalize_label(name): counts for name, counts in zip(result.labels.classes, result.det.by_class, strict=True)}
    for number, name in enumerate(result.labels.categories, start=1):
        counts = counts_of.get(normalize_label(name), NO_COUNTS)  # a COCO file may have categories without any object
        ap = float(result.category_ap[number - 1]) if len(result.category_ap) else ""
        mean_iou = "" if counts.mean_iou is None else counts.mean_iou
        f1 = (counts.f1(0.5), counts.f1_miou, counts.precision(0.5), counts.recall(0.5))
        writer.writerow([name, ap, counts.num_gt, counts.num_pred, *f1, mean_iou])
    return text.getvalue()


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with atomic_writer(path) as stream:
        for chunk in chunks:
            stream.write(chunk.decode())
