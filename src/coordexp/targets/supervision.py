"""What is supervised, and how much: the one table of (provenance, role) to weight, for ground truth and for both ways of training on rollouts.

Coordinates have no token cross-entropy in any row that has slots: the losses of the slots teach them. An unmatched prediction is neutral, because data
sets are not fully labelled; a dropped object is neutral, because it has no reading. The digits of the model's own keys are not supervised: trained on,
they were seen to end in endless key digits.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.types.sequences import Provenance, Role


@dataclass(frozen=True, slots=True)
class RowWeights:
    """Weights of one provenance. `structure`, `key`, `desc` and `coord` weigh the cross-entropy of tokens, `geometry` the losses of the slots."""

    structure: float = 0.0
    """JSON structure: braces, quotes, field names, separators, `object_`."""
    key: float = 0.0
    """The digits of `object_N`."""
    desc: float = 0.0
    coord: float = 0.0
    """Cross-entropy of coordinates; on only where coordinates are plain digits and have no slots."""
    geometry: float = 0.0


@dataclass(frozen=True, slots=True)
class SupervisionTable:
    """One row for each provenance; the closing brace and the end have their own weight.

    Example: `ground_truth_table().ce_weight(Provenance.GROUND_TRUTH, Role.DESC) == 1.0`
    """

    ground_truth: RowWeights = RowWeights()
    matched: RowWeights = RowWeights()
    """An object of the model's own answer that was matched; `desc` weighs only those of its tokens that agree with the ground truth."""
    unmatched: RowWeights = RowWeights()
    dropped: RowWeights = RowWeights()
    appended: RowWeights = RowWeights()
    """A missed object, written after the model's own."""
    closure: float = 1.0
    """The outermost `}` and the end token after a rollout's objects, whatever these are; after ground truth they are its structure."""

    def row(self, provenance: Provenance) -> RowWeights:
        """The weights of one provenance; the closure has no slots, and its structure is the closing tokens."""
        if provenance is Provenance.CLOSURE:
            return RowWeights(structure=self.closure)
        rows = {
            Provenance.GROUND_TRUTH: self.ground_truth,
            Provenance.MATCHED: self.matched,
            Provenance.UNMATCHED: self.unmatched,
            Provenance.DROPPED: self.dropped,
            Provenance.APPENDED: self.appended,
        }
        return rows[provenance]

    def ce_weight(self, provenance: Provenance, role: Role) -> float:
        """Weight of the cross-entropy of a token."""
        row = self.row(provenance)
        if role in (Role.CLOSE, Role.END):
            return row.structure if provenance is Provenance.GROUND_TRUTH else self.closure
        return {Role.FORMAT: row.structure, Role.KEY: row.key, Role.DESC: row.desc, Role.COORD: row.coord}[role]

    def geometry_weight(self, provenance: Provenance) -> float:
        """Weight of the losses of a coordinate slot."""
        return self.row(provenance).geometry


def ground_truth_table(*, desc_ce_weight: float = 1.0, coord_digits: bool = False) -> SupervisionTable:
    """Teacher forcing on the annotation: everything is on. `coord_digits`: coordinates are plain digits, taught by cross-entropy."""
    row = RowWeights(structure=1.0, key=1.0, desc=desc_ce_weight, coord=float(coord_digits), geometry=float(not coord_digits))
    return SupervisionTable(ground_truth=row)


def rollout_matching_table(*, closure_ce: bool = True) -> SupervisionTable:
    """`rollout_matching_sft`: text is left alone but for the closure; matched and appended slots are taught as distributions."""
    slots_only = RowWeights(geometry=1.0)
    return SupervisionTable(matched=slots_only, appended=slots_only, closure=float(closure_ce))


def stage2_ab_table(*, desc_ce_weight: float = 1.0, desc_ce_weight_matched: float = 0.0, key_ce: bool = False, closure_ce: bool = True) -> SupervisionTable:
    """`stage2_ab_training`. Channel A reads the ground-truth row, Channel B the others.

    Args:
        desc_ce_weight: of ground-truth and appended descs.
        desc_ce_weight_matched: of those desc tokens of matched objects that agree with the ground truth.
        key_ce: supervise the key digits of matched objects too.
        closure_ce: supervise the outermost brace and the end token of Channel B.
    """
    return SupervisionTable(
        ground_truth=RowWeights(structure=1.0, key=1.0, desc=desc_ce_weight, geometry=1.0),
        matched=RowWeights(structure=1.0, key=float(key_ce), desc=desc_ce_weight_matched, geometry=1.0),
        appended=RowWeights(structure=1.0, key=1.0, desc=desc_ce_weight, geometry=1.0),
        closure=float(closure_ce),
    )
