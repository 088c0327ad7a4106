"""`semantic_desc_report.json`: what the semantic label rule made of predicted texts that are no category, and which categories it cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.columns import EvaluationSet
from coordexp.evaluation.labels import LabelOutcome, LabelPlan, UnknownDescs, class_of_category
from coordexp.evaluation.similarity import SemanticSimilarity

MAX_COMPARED = 20_000
"""Categories among which near duplicates are looked for: some six seconds of one core."""


@dataclass(frozen=True, slots=True)
class DescRow:
    """One predicted text. Example: `DescRow("sofa", 12, "couch", 0.856, mapped=True)`"""

    pred_desc: str
    count: int
    """Predictions with this text."""
    best_gt_desc: str | None
    """The nearest category; None for a text without letters, and where no category can be mapped to."""
    score: float | None
    """Cosine to it; 1 for equal normalized texts."""
    mapped: bool
    """False: its predictions are dropped."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two categories that the threshold cannot tell apart. Example: `NearDuplicate("cat", "dog", 0.661)`"""

    first: str
    second: str
    similarity: float


@dataclass(frozen=True, slots=True)
class SemanticReport:
    """The content of the file."""

    threshold: float
    encoder: str | None
    """None: equal normalized texts decided everything, no encoder was asked."""
    rows: tuple[DescRow, ...]
    """The most frequent first, then the most similar."""
    near_duplicates: tuple[NearDuplicate, ...] | None = None
    """The nearest first, at most 1000; None: not looked for."""
    num_near_duplicates: int | None = None
    """All of them."""
    is_complete: bool = True
    """False when there are too many categories to look for near duplicates."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers must know."""
        if not self.is_complete:
            return (f"near duplicates were not looked for: there are more than {MAX_COMPARED} categories",)
        if not self.near_duplicates:
            return ()
        nearest, count = self.near_duplicates[0], self.num_near_duplicates
        what = "1 pair of ground-truth categories is" if count == 1 else f"{count} pairs of ground-truth categories are"
        pair = f"the nearest '{nearest.first}' and '{nearest.second}' ({nearest.similarity:.2f})"
        return (
            f"{what} within the label threshold {self.threshold:g}, {pair}: f1ish takes one for the other, and an unknown name near both goes to the nearer; "
            "see semantic_desc_report.json, raise --semantic-threshold, or choose --label-match exact",
        )

    def as_dict(self) -> dict[str, object]:
        pairs = self.near_duplicates
        return {
            "semantic_model": self.encoder,
            "semantic_threshold": self.threshold,
            "semantic_behavior": "map-or-drop",
            "unique_unknown_desc": len(self.rows),
            "unknown_total_preds": sum(row.count for row in self.rows),
            "rows": list(self.rows),
            "num_near_duplicates": self.num_near_duplicates,
            "near_duplicates": None if pairs is None else list(pairs),
        }


def report_labels(data: EvaluationSet, outcome: LabelOutcome) -> SemanticReport | None:
    """None with the exact rule, without a category to map to, and when every name was known and no encoder was asked.

    Near duplicates are looked for when the encoder took part in the numbers.
    """
    similarity, unknown, plan = outcome.similarity, outcome.unknown, outcome.plan
    if not isinstance(similarity, SemanticSimilarity) or unknown is None or not plan.categories:
        return None
    encoder = similarity.encoder_name
    if encoder is None and not len(unknown.desc):
        return None
    rows = _rows(data, plan, unknown)
    if encoder is None:
        return SemanticReport(similarity.threshold, None, rows)
    if len(plan.categories) > MAX_COMPARED:
        return SemanticReport(similarity.threshold, encoder, rows, is_complete=False)
    pairs = similarity.near_duplicates(class_of_category(plan))
    duplicates = tuple(
        NearDuplicate(plan.categories[int(pairs.first[pair])], plan.categories[int(pairs.second[pair])], float(pairs.similarity[pair]))
        for pair in range(len(pairs))
    )
    return SemanticReport(similarity.threshold, encoder, rows, duplicates, pairs.total)


def _rows(data: EvaluationSet, plan: LabelPlan, unknown: UnknownDescs) -> tuple[DescRow, ...]:
    rows: list[DescRow] = []
    for place in range(len(unknown.desc)):
        category, name, count = int(unknown.category[place]), data.descs[int(unknown.desc[place])], int(unknown.count[place])
        if category:
            rows.append(DescRow(name, count, plan.categories[category - 1], float(unknown.similarity[place]), bool(unknown.is_mapped[place])))
        else:
            rows.append(DescRow(name, count, None, None, mapped=False))
    return tuple(sorted(rows, key=lambda row: (-row.count, 2.0 if row.score is None else -row.score, row.pred_desc)))
