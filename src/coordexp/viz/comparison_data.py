"""What a comparison shows, on the console and on its page, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordexp.evaluation.compare import Change, Comparison
from coordexp.viz.report_data import run_facts
from coordexp.viz.run_files import RunFiles

HEADLINES = (
    ("f1_det@0.50", "F1 at IoU 0.50"),
    ("f1_det@0.75", "F1 at IoU 0.75"),
    ("f1_det@0.95", "F1 at IoU 0.95"),
    ("f1_det_miou", "F1, mean over IoU"),
    ("f1_det@0.50_precision", "Precision at 0.50"),
    ("f1_det@0.50_recall", "Recall at 0.50"),
    ("mean_matched_iou", "Mean IoU of hits"),
    ("bbox_AP", "COCO AP"),
    ("bbox_AP50", "COCO AP50"),
    ("bbox_AP75", "COCO AP75"),
    ("bbox_APs", "COCO AP, small"),
    ("bbox_APm", "COCO AP, medium"),
    ("bbox_APl", "COCO AP, large"),
    ("bbox_APr", "LVIS AP, rare"),
    ("bbox_APc", "LVIS AP, common"),
    ("bbox_APf", "LVIS AP, frequent"),
    ("segm_AP", "COCO AP of masks"),
    ("segm_AP50", "COCO AP50 of masks"),
)
"""(metric, name) in the order in which they are shown."""

WIDTH, HEIGHT = 160, 16
"""Of a drawn interval, in user units."""

_WIDEST = 0.5
"""Changes beyond are cut off at the edge, so that one rare class does not flatten all others."""


@dataclass(frozen=True, slots=True)
class SharedFact:
    """How the two runs came about. Example: `SharedFact("checkpoint", "output/a", "output/b")`"""

    name: str
    a: str
    b: str

    @property
    def differs(self) -> bool:
        return self.a != self.b


def spell_share(change: Change) -> str:
    """In how many resamples B is above A. Example: `99.8 %`; `equal` when no resample makes a difference; empty without resamples."""
    if change.share_above is None:
        return ""
    return "equal" if change.low == change.high == 0 else f"{100 * change.share_above:.1f} %"


def chance_sentence(comparison: Comparison) -> str:
    """How many classes changed clearly, and how many would by chance."""
    count = len(comparison.by_class)
    chance = f"{0.05 * count:.0f}" if count >= 30 else f"{0.05 * count:.1f}"
    return f"{comparison.num_clear_classes} of {count} class intervals leave out 0; if nothing had changed, about {chance} would by chance."


def widest(changes: Iterable[Change]) -> float:
    """The half-width of an axis that shows these changes: 0.01, 0.02, 0.03, … up to 0.5."""
    reach = max((abs(value) for change in changes for value in (change.low, change.high, change.delta) if value is not None), default=0.0)
    return next((limit for limit in (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4) if reach <= limit), _WIDEST)


def interval_mark(change: Change, limit: float) -> str:
    """An `<svg>`: the interval as a line, the change as a dot, 0 in the middle. Its numbers stand beside it, so it is hidden from screen readers."""
    style = "same" if not change.is_clear else "up" if change.delta > 0 else "down"
    middle = HEIGHT / 2
    line = ""
    if change.low is not None and change.high is not None:
        line = f'<line class="span" x1="{_x(change.low, limit)}" x2="{_x(change.high, limit)}" y1="{middle}" y2="{middle}"/>'
    zero = f'<line class="zero" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}"/>'
    dot = f'<circle cx="{_x(change.delta, limit)}" cy="{middle}" r="3.6"/>'
    return f'<svg class="reach {style}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{zero}{line}{dot}</svg>'


def shared_facts(files: tuple[RunFiles, RunFiles], comparison: Comparison) -> list[SharedFact]:
    """What is recorded of the runs, name by name; what only one has stands there as a dash."""
    a, b = ({fact.name: fact.value for fact in run_facts(run, result)} for run, result in zip(files, (comparison.a, comparison.b), strict=True))
    return [SharedFact(name, a.get(name, "–"), b.get(name, "–")) for name in {**a, **b}]


def _x(value: float, limit: float) -> float:
    margin = 5
    share = max(-1.0, min(1.0, value / limit))
    return round(WIDTH / 2 + share * (WIDTH / 2 - margin), 2)
