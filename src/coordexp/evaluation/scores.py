"""Which confidence average precision ranks by, and whether that ranking means anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, Floats
from coordexp.evaluation.labels import LabelPlan
from coordexp.types.errors import DataError

ScoreMode: TypeAlias = Literal["auto", "model", "constant"]


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """Example: `ScorePlan(scores=[1.0, 1.0], mode="constant", ap_valid=False, ap_note="all 2 predictions have the score 1.0, so …")`"""

    scores: Floats
    """[P]"""
    mode: str
    """What was used: `model` or `constant`."""
    ap_valid: bool
    """False when predictions tie: their order in the file then decides AP. f1_det uses no scores and is not affected."""
    ap_note: str | None
    """Why AP is not valid."""


def plan_scores(data: EvaluationSet, labels: LabelPlan, *, mode: ScoreMode = "auto") -> ScorePlan:
    """auto: the file's scores when every prediction has one and they differ from one another, else 1.0 for all.

    Raises:
        DataError: mode is `model` and a prediction has no score.
    """
    given = data.pred.scores
    missing = int(np.isnan(given).sum())
    if mode == "model" and missing:
        raise DataError(f"{missing} of {len(given)} predictions have no score", where="score mode 'model'", fix="use --score-mode auto or constant")
    use_model = mode == "model" or (mode == "auto" and not missing and np.unique(given).size > 1)
    if use_model:
        note = _ties(given, labels)
        return ScorePlan(given, "model", note is None, note)
    note = _constant(len(given), missing=missing, asked=mode == "constant")
    return ScorePlan(np.ones_like(given), "constant", note is None, note)


def _ties(scores: Floats, labels: LabelPlan) -> str | None:
    """AP ranks within a category: only equal scores there matter."""
    ranked = labels.pred_category > 0
    category, score = labels.pred_category[ranked], scores[ranked]
    order = np.lexsort((score, category))
    is_repeat = (np.diff(category[order]) == 0) & (np.diff(score[order]) == 0)
    tied = int(np.count_nonzero(np.append(is_repeat, False) | np.insert(is_repeat, 0, False)))
    if not tied or not len(order):
        return None
    return f"{tied} of {len(order)} predictions share their score with another one of their category, so AP depends on the order of the file"


def _constant(num_pred: int, *, missing: int, asked: bool) -> str | None:
    if num_pred < 2:
        return None
    why = "as asked" if asked else f"{missing} have none in the file" if missing else "those in the file do not differ"
    return f"all {num_pred} predictions have the score 1.0 ({why}), so AP depends on the order of the file"
