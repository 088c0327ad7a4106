"""The rules a number was made under. Two numbers may be compared only when these are equal."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

from coordexp.evaluation.f1_det import IOU_THRESHOLDS


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """Example: `label` is `prompt=none · labels=exact · f1ish scope=annotated · pixels=int · scores=model · AP@0.50:0.95`"""

    prompt: str
    """Categories that the prompt named: `none`, `gt` (those of the image), `all`, or `unknown`."""
    label_rule: str
    """Of the COCO part and f1ish: `exact`, `semantic`, or `category ids` (of COCO files). f1_det always compares normalized texts."""
    label_threshold: float | None
    """Cosine that a semantic mapping must reach; None for `exact`."""
    pred_scope: str | None
    """Which predictions f1ish counts, `annotated` or `all`; None: it was not computed. f1_det counts every prediction."""
    pixel_mode: str
    score_mode: str
    """What was used, `model` or `constant`."""
    iou_thrs: tuple[float, ...]
    """Of the COCO part."""
    ap_rules: str = "coco"
    """`coco`, or `lvis`: an image is annotated for some categories only, and that is heeded."""
    label_encoder: str | None = None
    """The text encoder with a hash of its weights, when names had to be compared by it; None: equal texts decided everything."""
    constraint: str | None = None
    """What constrained decoding kept the model to: `json`, or `json, 12 labels`. None: to nothing."""
    iou_of: str | None = None
    """Of COCO files: `masks`, because results have them, or `boxes`. None: records, in which a polygon is always a mask."""

    @property
    def label(self) -> str:
        """One line for a report or a table."""
        labels = self.label_rule if self.label_threshold is None else f"{self.label_rule}>={self.label_threshold:g}"
        thresholds = "0.50:0.95" if self.iou_thrs == IOU_THRESHOLDS else ",".join(f"{value:.2f}" for value in self.iou_thrs)
        scope = [] if self.pred_scope is None else [f"f1ish scope={self.pred_scope}"]
        masks = ["iou=masks"] if self.iou_of == "masks" else []
        constraint = [] if self.constraint is None else [f"constrain={self.constraint}"]
        parts = (f"prompt={self.prompt}", *constraint, f"labels={labels}", *scope, f"pixels={self.pixel_mode}", *masks, f"scores={self.score_mode}")
        return " · ".join((*parts, f"{'' if self.ap_rules == 'coco' else 'LVIS '}AP@{thresholds}"))

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "label": self.label}

    def differences(self, other: EvalProtocol, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """The rules in which two evaluations differ, `without` some that do not matter here. Example: `("pixel_mode: int, exact",)`

        Two encoders differ; an encoder and none do not: where none was needed, any would have given the same numbers. So do two scopes, not a scope and none.
        """
        mine, theirs = asdict(self), asdict(other)
        open_ends = [*without, *(name for name in ("label_encoder", "pred_scope") if None in (mine[name], theirs[name]))]
        return tuple(f"{name}: {mine[name]}, {theirs[name]}" for name in mine if mine[name] != theirs[name] and name not in open_ends)
