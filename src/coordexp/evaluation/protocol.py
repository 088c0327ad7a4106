"""The rules a number was made under. Two numbers may be compared only when these are equal."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """Example: `label` is `prompt=none · labels=exact · f1_det: within class, every prediction counts · pixels=int · scores=model`"""

    prompt: str
    """Categories that the prompt named: `none`, `gt` (those of the image), `all`, or `unknown`."""
    label_rule: str
    """Of the COCO part and f1ish: `exact`, `semantic`, or `category ids` (of COCO files). f1_det always compares normalized texts."""
    label_threshold: float | None
    """Cosine that a semantic mapping must reach; None for `exact`."""
    pred_scope: str
    """Which predictions f1_det counts: `all`."""
    pixel_mode: str
    score_mode: str
    """What was used, `model` or `constant`."""
    iou_thrs: tuple[float, ...]
    """Of the COCO part."""
    ap_rules: str = "coco"
    """`coco`, or `lvis`: an image is annotated for some categories only, and that is heeded."""
    label_encoder: str | None = None
    """The text encoder with a hash of its weights, when names had to be compared by it; None: equal texts decided everything."""

    @property
    def label(self) -> str:
        """One line for a report or a table."""
        labels = self.label_rule if self.label_threshold is None else f"{self.label_rule}>={self.label_threshold:g}"
        thresholds = f"{self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f}" if len(self.iou_thrs) > 1 else ",".join(f"{value:.2f}" for value in self.iou_thrs)
        parts = (f"prompt={self.prompt}", f"labels={labels}", f"scope={self.pred_scope}", f"pixels={self.pixel_mode}", f"scores={self.score_mode}")
        return " · ".join((*parts, f"{'' if self.ap_rules == 'coco' else 'LVIS '}AP@{thresholds}"))

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "label": self.label}

    def differences(self, other: EvalProtocol) -> tuple[str, ...]:
        """The rules in which two evaluations differ. Example: `("pixel_mode: int, exact",)`

        Two encoders differ; an encoder and none do not: where none was needed, any would have given the same numbers.
        """
        mine, theirs = asdict(self), asdict(other)
        if None in (self.label_encoder, other.label_encoder):
            del mine["label_encoder"]
        return tuple(f"{name}: {mine[name]}, {theirs[name]}" for name in mine if mine[name] != theirs[name])
