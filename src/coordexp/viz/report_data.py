"""What the report shows as tiles, tables and facts, as plain values. The template only lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from coordexp.evaluation.f1_det import IOU_THRESHOLDS, DetCounts
from coordexp.evaluation.result import EvaluationResult
from coordexp.viz.charts import UNIT, Series, line_chart
from coordexp.viz.palette import class_color
from coordexp.viz.run_files import RunFiles

_MAX_FACTS = 60
_CHART_HEIGHT = 270

_TILES = (
    (
        "f1_det@0.50",
        "F1 at IoU 0.50",
        "Share of objects found with the right name: 2·hits / (2·hits + false + missed). A hit has the same name and an IoU of at least 0.50.",
    ),
    ("f1_det_miou", "F1, mean over IoU", "Mean of F1 at IoU 0.50, 0.55, …, 0.95: rewards boxes that fit tightly."),
    ("f1_det@0.50_precision", "Precision at 0.50", "Share of predictions that are hits."),
    ("f1_det@0.50_recall", "Recall at 0.50", "Share of ground truths that were found."),
    ("mean_matched_iou", "Mean IoU of hits", "How well the boxes of hits (IoU ≥ 0.50) fit."),
    ("f1_det@0.75", "F1 at IoU 0.75", "As F1 at 0.50, for boxes that fit closely."),
    ("bbox_AP", "COCO AP", "Average precision over IoU 0.50:0.95, ranked by score."),
    ("bbox_AP50", "COCO AP50", "Average precision at IoU 0.50, ranked by score."),
    ("bbox_APr", "COCO AP, rare", "Average precision of the classes that LVIS calls rare: in 1 to 10 images of its training set."),
    ("bbox_APc", "COCO AP, common", "Average precision of the classes in 11 to 100 images of the training set."),
    ("bbox_APf", "COCO AP, frequent", "Average precision of the classes in more than 100 images of the training set."),
    ("segm_AP", "Mask AP", "Average precision of pixel masks over IoU 0.50:0.95, ranked by score."),
)

_COUNTERS = {
    "invalid_json": "lines that are not a JSON object; skipped",
    "missing_size": "records without width and height; left out",
    "size_mismatch": "images whose inference reported another size than the record",
    "multi_image_ignored": "records with several images; the first one counts",
    "invalid_geometry": "objects without a usable box or polygon; left out",
    "invalid_coord": "objects with a coordinate that is no number or lies outside the bins; left out",
    "degenerate": "objects without width or height; left out",
    "unknown_desc": "objects whose name is not a text; left out",
    "empty_pred": "images without a prediction",
    "unknown_dropped": "predictions whose name is no category; AP leaves them out, F1 counts them as false",
    "semantic_mapped": "predictions whose name was mapped to a category",
    "semantic_unmapped": "predictions whose name is near no category",
    "semantic_report_failed": "reports of mapped names that could not be completed",
    "invalid_annotations": "annotations that cannot be used; left out",
    "invalid_results": "results that cannot be used; left out",
    "unknown_image_id": "entries about an image that the instances file does not have; left out",
    "unknown_category_id": "entries of a category that the instances file does not have; left out",
    "crowd_regions": "regions of many objects: not looked for, and predictions inside them do not count",
    "crowd_ignored": "predictions inside a crowd region, or on an object marked as ignored: neither right nor false for F1",
    "federation_ignored": "predictions of a category that LVIS did not look for in their image, or not everywhere: neither right nor false for F1",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Example: `Tile("F1 at IoU 0.50", 0.71, before=0.42, help="…", interval=(0.69, 0.73))`"""

    name: str
    value: float
    help: str
    before: float | None = None
    interval: tuple[float, float] | None = None
    """95 %."""
    is_headline: bool = False
    is_doubtful: bool = False
    """A number that ranks by scores which tie."""

    @property
    def delta(self) -> float | None:
        return None if self.before is None else self.value - self.before


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a breakdown or of the per-class table."""

    name: str
    counts: DetCounts
    before: DetCounts | None = None
    ap: float | None = None
    color: str | None = None
    best_score: float | None = None
    """Threshold at which F1 of this class is best."""

    @property
    def delta(self) -> float | None:
        return None if self.before is None else self.counts.f1(0.5) - self.before.f1(0.5)


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Counter:
    """Example: `Counter("degenerate", 3, "objects without width or height; left out")`"""

    name: str
    count: int
    meaning: str


def build_tiles(result: EvaluationResult, before: EvaluationResult | None) -> tuple[Tile, ...]:
    """The numbers at the top; the first is the headline. Undefined ones are left out."""
    old = before.metrics if before is not None else {}
    intervals = result.intervals.of if result.intervals is not None else {}
    return tuple(
        Tile(
            name=name,
            value=result.metrics[key],
            help=text,
            before=old.get(key),
            interval=intervals.get(key),
            is_headline=place == 0,
            is_doubtful=not result.scores.ap_valid and "_AP" in key,
        )
        for place, (key, name, text) in enumerate(_TILES)
        if result.metrics.get(key, -1.0) >= 0
    )


def class_rows(result: EvaluationResult, before: EvaluationResult | None) -> tuple[Row, ...]:
    """All classes, by falling number of ground truths."""
    old = {row.name: row.counts for row in before.per_class} if before is not None else {}
    sweep = result.analysis.sweep
    best = [point.score if point and point.f1 > 0 else None for point in sweep.best_by_class] if sweep else [None] * len(result.per_class)
    rows = [
        Row(row.name, row.counts, old.get(row.name), row.ap, "#{:02x}{:02x}{:02x}".format(*class_color(row.name)), score)
        for row, score in zip(result.per_class, best, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.counts.num_gt, row.name)))


def breakdown(result: Mapping[str, DetCounts], before: Mapping[str, DetCounts] | None) -> tuple[Row, ...]:
    """Rows of a breakdown; groups without an object are left out."""
    return tuple(Row(name, counts, (before or {}).get(name)) for name, counts in result.items() if counts.num_gt + counts.num_pred)


def threshold_chart(result: EvaluationResult, before: EvaluationResult | None) -> str:
    """F1 over the IoU threshold, as SVG."""
    lines = [Series("before", IOU_THRESHOLDS, _f1_by_threshold(before), "soft")] if before is not None else []
    lines.append(Series("after" if lines else "F1", IOU_THRESHOLDS, _f1_by_threshold(result)))
    return line_chart(lines, title="F1 by IoU threshold", x_name="IoU threshold", y_range=UNIT, height=_CHART_HEIGHT)


def counters(result: EvaluationResult) -> tuple[tuple[Counter, ...], tuple[str, ...]]:
    """What was dropped or found odd, and the names of the counters that are zero."""
    found = tuple(Counter(name, count, _COUNTERS.get(name, "")) for name, count in result.counters.items() if count)
    return found, tuple(name for name, count in result.counters.items() if not count)


def run_facts(run: RunFiles, result: EvaluationResult) -> tuple[Fact, ...]:
    """How the predictions came about, as far as the run's own files tell."""
    facts = [Fact("predictions", run.predictions.name), Fact("folder", run.predictions.parent.name)]
    if run.checkpoint:
        facts.append(Fact("checkpoint", run.checkpoint))
    facts += [Fact("evaluation protocol", result.protocol.label), Fact("images", f"{len(result.data.images):,}")]
    facts += [Fact(name, value) for name, value in _flatten(run.summary) if name not in ("backend.checkpoint",)]
    return tuple(facts[:_MAX_FACTS])


def _f1_by_threshold(result: EvaluationResult) -> tuple[float, ...]:
    return tuple(result.det.total.f1(threshold) for threshold in IOU_THRESHOLDS)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(cast("Mapping[str, Any]", value), f"{name}.")
        elif isinstance(value, list):
            items = cast("list[object]", value)
            if items:
                yield name, ", ".join(str(item) for item in items[:12]) + (", …" if len(items) > 12 else "")
        elif value is not None:
            yield name, _spell(value)


def _spell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
