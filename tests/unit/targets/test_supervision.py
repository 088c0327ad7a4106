"""The supervision table, cell by cell."""

from __future__ import annotations

import pytest

from coordexp.targets.supervision import SupervisionTable, ground_truth_table, rollout_matching_table, stage2_ab_table
from coordexp.types.sequences import Provenance, Role

ROLES = (Role.FORMAT, Role.KEY, Role.DESC, Role.COORD)
CELLS = [
    # provenance, structure, key, desc, coordinate, geometry
    ("stage 1", ground_truth_table(), Provenance.GROUND_TRUTH, (1, 1, 1, 0, 1)),
    ("stage 1 digits", ground_truth_table(coord_digits=True), Provenance.GROUND_TRUTH, (1, 1, 1, 1, 0)),
    ("stage 1 desc", ground_truth_table(desc_ce_weight=0.5), Provenance.GROUND_TRUTH, (1, 1, 0.5, 0, 1)),
    ("rollout matching", rollout_matching_table(), Provenance.MATCHED, (0, 0, 0, 0, 1)),
    ("rollout matching", rollout_matching_table(), Provenance.UNMATCHED, (0, 0, 0, 0, 0)),
    ("rollout matching", rollout_matching_table(), Provenance.DROPPED, (0, 0, 0, 0, 0)),
    ("rollout matching", rollout_matching_table(), Provenance.APPENDED, (0, 0, 0, 0, 1)),
    ("ab", stage2_ab_table(), Provenance.GROUND_TRUTH, (1, 1, 1, 0, 1)),
    ("ab", stage2_ab_table(), Provenance.MATCHED, (1, 0, 0, 0, 1)),
    ("ab key", stage2_ab_table(key_ce=True), Provenance.MATCHED, (1, 1, 0, 0, 1)),
    ("ab matched desc", stage2_ab_table(desc_ce_weight_matched=0.3), Provenance.MATCHED, (1, 0, 0.3, 0, 1)),
    ("ab", stage2_ab_table(), Provenance.UNMATCHED, (0, 0, 0, 0, 0)),
    ("ab", stage2_ab_table(), Provenance.DROPPED, (0, 0, 0, 0, 0)),
    ("ab", stage2_ab_table(), Provenance.APPENDED, (1, 1, 1, 0, 1)),
    ("ab desc", stage2_ab_table(desc_ce_weight=0.5), Provenance.APPENDED, (1, 1, 0.5, 0, 1)),
]


@pytest.mark.parametrize(("table", "provenance", "weights"), [cell[1:] for cell in CELLS], ids=[f"{cell[0]}: {cell[2]}" for cell in CELLS])
def test_each_row_weighs_what_it_should(table: SupervisionTable, provenance: Provenance, weights: tuple[float, ...]) -> None:
    assert (*(table.ce_weight(provenance, role) for role in ROLES), table.geometry_weight(provenance)) == weights


@pytest.mark.parametrize("make", [rollout_matching_table, stage2_ab_table])
@pytest.mark.parametrize("role", [Role.CLOSE, Role.END])
def test_the_closure_of_a_rollout_is_on_unless_switched_off(make, role: Role) -> None:
    for provenance in (Provenance.CLOSURE, Provenance.MATCHED, Provenance.UNMATCHED, Provenance.DROPPED, Provenance.APPENDED):
        assert (make().ce_weight(provenance, role), make(closure_ce=False).ce_weight(provenance, role)) == (1, 0)


def test_the_closure_of_ground_truth_is_always_on() -> None:
    tables = (ground_truth_table(), stage2_ab_table(closure_ce=False))
    assert {table.ce_weight(Provenance.GROUND_TRUTH, role) for table in tables for role in (Role.CLOSE, Role.END)} == {1}
