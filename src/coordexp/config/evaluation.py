"""Schema of an evaluation: the file of `coordexp eval --config`, and the section `eval` of an inference pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from coordexp.config.sections import Count, FilePath, FileSection, KeyProblem, Positive, Section, Share, Switch, Text

SENTENCE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


class EvalSettings(Section):
    """How to evaluate, whatever is evaluated."""

    metrics: Literal["coco", "f1ish", "both"] = "both"
    """COCO AP, F1 over all classes, or both; f1_det is always there."""
    strict_parse: Switch = False
    """A line that is not JSON stops the evaluation instead of being counted."""
    no_segm: Switch = False
    """Boxes only, also when polygons are there."""
    iou_thrs: tuple[Share, ...] | None = None
    """IoU thresholds of COCO AP; absent: 0.50:0.05:0.95."""
    f1ish_iou_thrs: tuple[Share, ...] = (0.3, 0.5)
    """IoU thresholds of F1."""
    f1ish_pred_scope: Literal["annotated", "all"] = "annotated"
    """Whether predictions that are near no name of their image count."""
    label_match: Literal["semantic", "exact"] = "semantic"
    """How a predicted name that is no category finds one: as the nearest by sentence embedding, or by equal normalized text only. f1_det is always exact."""
    semantic_model: Text = SENTENCE_ENCODER
    """Sentence encoder: folder or hub id. It is read only when names have to be compared."""
    semantic_threshold: Share = 0.6
    """Cosine from which on two names are near: a name is mapped, a match of f1ish is right. Below it a name is dropped."""
    semantic_device: Text = "cpu"
    """Where the encoder runs."""
    semantic_batch_size: Positive = 64
    """Names that are encoded together."""
    pixel_mode: Literal["int", "exact"] = "int"
    """`int`: integer pixels; `exact`: `points_exact` where present."""
    score_mode: Literal["auto", "model", "constant"] = "auto"
    """auto: scores of the artifact when they differ from one another, else 1.0."""
    overlay: Switch = False
    """Draw the images with most errors."""
    overlay_k: Count = 12
    """Images with most errors that are drawn; 0: none."""
    report: Switch = False
    """Write `report.html`: numbers, curves, errors, every image."""
    report_thumbnails: Literal["folder", "inline", "none"] = "folder"
    """Pictures of more than 150 images: the worst 60 in the report, the others in `report_files/` (`folder`) or left out (`inline`); `none`: no pictures."""
    num_workers: Count = 0
    """Threads that read and draw pictures (overlays, report); 0: as many as there are processors, at most 4. The numbers need none."""
    bootstrap: Count = 0
    """Resamples of the images for 95 % intervals, for example 1000; 0: none."""
    bootstrap_seed: Count = 0
    """Seed of the resamples: the same intervals every time."""
    unknown_policy: Text | None = None
    """Without effect; read for older commands."""
    semantic_fallback: Text | None = None
    """Without effect; read for older commands."""


class EvalConfig(FileSection, EvalSettings):
    """One evaluation: settings with input and output."""

    pred_jsonl: FilePath | None = None
    """The artifact `gt_vs_pred.jsonl`. Either this, or `coco_gt` with `coco_preds`."""
    coco_gt: FilePath | None = None
    """COCO instances file, also of LVIS, for predictions that come from elsewhere."""
    coco_preds: FilePath | None = None
    """COCO results file: boxes, masks or both, with scores."""
    protocol: Literal["auto", "coco", "lvis"] = "auto"
    """Rules for COCO files. auto: those of LVIS when the instances file says for which categories each image is annotated."""
    root_image_dir: FilePath | None = None
    """Folder that image paths count from, for `overlay` and `report`; absent: ROOT_IMAGE_DIR, what inference recorded, the folder of the predictions."""
    out_dir: FilePath
    """Folder for the results; those of an earlier run in it are replaced. No default."""

    def problems(self) -> Iterator[KeyProblem]:
        yield from threshold_problems(self, "")
        yield from self._input_problems()

    def _input_problems(self) -> Iterator[KeyProblem]:
        """Exactly one of the two kinds of input."""
        if self.coco_gt is None and self.coco_preds is None:
            if self.pred_jsonl is None:
                yield KeyProblem("pred_jsonl", "is required", "give --pred_jsonl, or --coco-gt with --coco-preds")
            if self.protocol != "auto":
                yield KeyProblem("protocol", "is for COCO files alone", "remove it, or give --coco-gt with --coco-preds in place of --pred_jsonl")
        elif self.pred_jsonl is not None:
            yield KeyProblem("pred_jsonl", "stands beside coco_gt or coco_preds", "give --pred_jsonl, or --coco-gt with --coco-preds, not both")
        elif self.coco_gt is None:
            yield KeyProblem("coco_gt", "is required beside coco_preds", "give --coco-gt")
        elif self.coco_preds is None:
            yield KeyProblem("coco_preds", "is required beside coco_gt", "give --coco-preds")


def threshold_problems(settings: EvalSettings, prefix: str) -> Iterator[KeyProblem]:
    """Two thresholds that would share a key are an error."""
    for name, values in (("iou_thrs", settings.iou_thrs or ()), ("f1ish_iou_thrs", settings.f1ish_iou_thrs)):
        if len({f"{value:.2f}" for value in values}) != len(values):
            yield KeyProblem(f"{prefix}{name}", "two thresholds agree to two decimals", "keep one of them")
        if not values and name in settings.model_fields_set:
            yield KeyProblem(f"{prefix}{name}", "is empty", "remove it or list thresholds")
