"""What an evaluation found, typed, and the folder it is saved as. The folder appears complete or not at all, and replaces an earlier one as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordexp.evaluation.analysis import DetectionAnalysis
from coordexp.evaluation.analysis_artifacts import analysis_summary
from coordexp.evaluation.artifacts import is_artifact, write_artifacts
from coordexp.evaluation.coco import UNDEFINED
from coordexp.evaluation.collector import no_collection
from coordexp.evaluation.columns import EvaluationSet, Floats
from coordexp.evaluation.f1_det import IOU_THRESHOLDS, DetCounts, DetResult
from coordexp.evaluation.f1ish import F1ishResult
from coordexp.evaluation.frames import ResultFrames, to_frames
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.protocol import EvalProtocol
from coordexp.evaluation.resampling import Intervals
from coordexp.evaluation.scores import ScorePlan
from coordexp.evaluation.semantic_report import SemanticReport
from coordexp.types.files import replace_owned

HEADLINE = ("f1_det@0.50", "f1_det@0.75", "f1_det@0.95", "f1_det_miou", "mean_matched_iou", "bbox_AP", "bbox_AP50")


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of equal normalized text; also those that only predictions have."""

    name: str
    ap: float | None
    """COCO AP; None when the COCO part did not run or the class has no ground truth."""
    counts: DetCounts


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Example: `print(result)` shows the headline numbers; `result.metrics["f1_det@0.50"]`; `result.save(Path("eval"))`."""

    metrics: Mapping[str, float]
    counters: Mapping[str, int]
    protocol: EvalProtocol
    det: DetResult
    per_class: tuple[ClassRow, ...]
    category_ap: Floats
    """[K] by category of `labels`; empty when the COCO part did not run."""
    data: EvaluationSet
    labels: LabelPlan
    scores: ScorePlan
    f1ish: F1ishResult | None
    analysis: DetectionAnalysis
    """Where errors come from, and what confidence is worth."""
    warnings: tuple[str, ...]
    with_segm: bool = True
    """Whether predicted polygons took part."""
    semantic_report: SemanticReport | None = None
    """What the semantic label rule did; None when it had nothing to do."""
    intervals: Intervals | None = None
    """95 % intervals of metrics; None when none were asked for."""
    source: Path | None = None
    """The file that was evaluated; None for records in memory."""
    coco_gt: Path | None = None
    """The COCO file of the ground truth; None where the predictions bring it along."""

    def __str__(self) -> str:
        numbers = "  ".join(f"{key} {self.metrics[key]:.4f}{self._interval(key)}" for key in HEADLINE if key in self.metrics)
        size = f"{len(self.data.images)} images, {len(self.data.gt)} ground truths, {len(self.data.pred)} predictions"
        note = "" if self.scores.ap_valid else f"\nAP is not valid: {self.scores.ap_note}"
        return f"{numbers}\n{size}\n{self.protocol.label}{note}"

    def _interval(self, key: str) -> str:
        found = self.intervals.of.get(key) if self.intervals else None
        return f" [{found[0]:.4f}, {found[1]:.4f}]" if found else ""

    def summary(self) -> dict[str, object]:
        """What `metrics.json` holds."""
        bootstrap = {"intervals": dict(self.intervals.of), "bootstrap": self.intervals.how()} if self.intervals else {}
        return {
            "predictions": str(self.source.absolute()) if self.source else None,
            "coco_gt": str(self.coco_gt.absolute()) if self.coco_gt else None,
            "metrics": dict(self.metrics),
            **bootstrap,
            "counters": dict(self.counters),
            "protocol": self.protocol.as_dict(),
            "ap_valid": self.scores.ap_valid,
            "ap_note": self.scores.ap_note,
            "num_images": len(self.data.images),
            "num_gt": len(self.data.gt),
            "num_pred": len(self.data.pred),
            "f1_det_by_size": {name: _counts_as_dict(counts) for name, counts in self.det.by_size.items()},
            "f1_det_by_num_objects": {name: _counts_as_dict(counts) for name, counts in self.det.by_num_objects.items()},
            "analysis": analysis_summary(self.analysis, self.labels),
            "warnings": list(self.warnings),
        }

    def to_pandas(self) -> ResultFrames:
        """Tables by class and by image: `result.to_pandas().per_class`.

        Raises:
            BackendError: pandas is not installed (`pip install 'coordexp[pandas]'`).
        """
        return to_frames(self)

    def save(self, folder: Path | str) -> None:
        """Write the artifacts; those that an earlier run left in the folder are replaced as a whole, other files in it stay.

        Raises:
            OutputError: the folder cannot be written.
        """
        with replace_owned(Path(folder), is_owned=is_artifact) as new:
            self.write_into(new)

    def write_into(self, folder: Path) -> None:
        """Write the artifacts into a folder that the caller makes appear."""
        with no_collection():
            write_artifacts(self, folder)


def class_rows(labels: LabelPlan, det: DetResult, category_ap: Floats) -> tuple[ClassRow, ...]:
    """One row a class; its AP is the mean over its categories (more than one only where spellings differ in case or separators)."""
    aps: dict[int, list[float]] = {}
    if len(category_ap):
        for category, label_class in sorted(set(zip(labels.gt_category.tolist(), labels.gt_class.tolist(), strict=True))):
            value = float(category_ap[category - 1])
            if value != UNDEFINED:
                aps.setdefault(label_class, []).append(value)
    means = {label_class: sum(values) / len(values) for label_class, values in aps.items()}
    return tuple(ClassRow(name, means.get(place), det.by_class[place]) for place, name in enumerate(labels.classes))


def _counts_as_dict(counts: DetCounts) -> dict[str, object]:
    f1 = {f"f1_det@{threshold:.2f}": counts.f1(threshold) for threshold in IOU_THRESHOLDS}
    rates = {"precision@0.50": counts.precision(0.5), "recall@0.50": counts.recall(0.5), "mean_matched_iou": counts.mean_iou}
    return {"num_gt": counts.num_gt, "num_pred": counts.num_pred, **f1, "f1_det_miou": counts.f1_miou, **rates}
