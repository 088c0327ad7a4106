from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coordexp.batching.collate import BatchContractError, PackBatch, PaddedCollator, Supervision
from coordexp.losses.coordinates import CoordLossWeights, coordinate_terms
from coordexp.losses.rows import RowResult
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind, UnknownMetricError
from coordexp.training.diagnostics import Tally
from coordexp.training.objective import Stage1Objective
from coordexp.types.sequences import CoordSlot, Pack, Role, Segment

torch.set_num_threads(1)

VOCAB = 1040


class Logits:
    """A head whose hidden states are the logits."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def products(self, hidden: torch.Tensor) -> None:
        return None


HEAD = Logits()
COORD_IDS = tuple(torch.randperm(VOCAB - 20, generator=torch.Generator().manual_seed(4))[:1000].tolist())
TEXT_ID, DESC_ID = VOCAB - 1, VOCAB - 2
WEIGHTS = CoordLossWeights(ce=0.25, temperature=1.5)


def make_segment(bins: tuple[int, int, int, int]) -> Segment:
    """prompt, `{`, desc, four coordinates, end."""
    roles = [-1, Role.FORMAT, Role.DESC, *[Role.COORD] * 4, Role.END]
    return Segment(
        sample_id="a:1",
        dataset="a",
        token_ids=np.array([0, TEXT_ID, DESC_ID, *[COORD_IDS[k] for k in bins], TEXT_ID], dtype=np.int32),
        ce_weight=np.array([0, 1, 1, 0, 0, 0, 0, 1], dtype=np.float32),
        roles=np.array(roles, dtype=np.int8),
        slots=(CoordSlot(kind="bbox_2d", positions=(3, 4, 5, 6), target_bins=tuple(map(float, bins))),),
        images=(),
    )


@pytest.fixture(scope="module")
def batch() -> PackBatch:
    pack = Pack(segments=(make_segment((3, 500, 640, 999)), make_segment((0, 1, 2, 3))))
    return PaddedCollator(pad_token_id=0, image_token_id=1, merge_size=2)(pack)


@pytest.fixture(scope="module")
def logits(batch: PackBatch) -> torch.Tensor:
    columns = len(batch.model_inputs["logits_to_keep"])
    return 3 * torch.randn(2, columns, VOCAB, generator=torch.Generator().manual_seed(5))


def test_sums_and_denominators_are_those_of_text_and_slots(batch: PackBatch, logits: torch.Tensor) -> None:
    objective = Stage1Objective(COORD_IDS, weights=WEIGHTS)
    result = objective(logits, HEAD, batch)
    flat, supervision = logits.flatten(0, 1), batch.supervision
    slots = flat[supervision.coord_rows]
    expected = coordinate_terms(slots[:, list(COORD_IDS)], torch.logsumexp(slots / 1.5, -1), supervision.coord_bins, supervision.coord_weight, weights=WEIGHTS)
    text = F.cross_entropy(flat[supervision.text_rows], supervision.text_targets, reduction="sum")
    assert result.sums.tolist() == pytest.approx([text.item(), expected.total.item()], rel=1e-6)
    assert objective.denominators(batch).tolist() == [6.0, 8.0]


def test_without_coordinate_losses_coordinates_are_ordinary_tokens(batch: PackBatch, logits: torch.Tensor) -> None:
    objective = Stage1Objective(COORD_IDS, weights=None)
    flat, supervision = logits.flatten(0, 1), batch.supervision
    rows = torch.cat((supervision.text_rows, supervision.coord_rows))
    targets = torch.cat((supervision.text_targets, torch.tensor(COORD_IDS)[supervision.coord_bins.long()]))
    expected = F.cross_entropy(flat[rows], targets, reduction="mean").item()
    assert (objective(logits, HEAD, batch).sums / objective.denominators(batch)).item() == pytest.approx(expected, rel=1e-6)


def test_every_stage1_key_of_a_forward_is_measured(batch: PackBatch, logits: torch.Tensor) -> None:
    measured = Stage1Objective(COORD_IDS, weights=WEIGHTS)(logits, HEAD, batch).metrics.keys()
    by_the_trainer = {"accum/grad_steps", "accum/current_grad_steps"}
    stage1 = {spec.key for spec in REGISTRY if spec.kinds == frozenset({RunKind.STAGE1})}
    assert set(measured) == stage1 - by_the_trainer


def test_metrics_equal_a_direct_computation(batch: PackBatch, logits: torch.Tensor) -> None:
    metrics = Stage1Objective(COORD_IDS, weights=WEIGHTS)(logits, HEAD, batch).metrics
    value = {key: metric.value for key, metric in metrics.items()}
    flat, supervision = logits.flatten(0, 1).double(), batch.supervision
    slots, text = flat[supervision.coord_rows], flat[supervision.text_rows]
    p = torch.softmax(slots[:, list(COORD_IDS)], -1)
    bins = torch.arange(1000, dtype=torch.float64)
    t = supervision.coord_bins.double()
    mass = torch.softmax(slots, -1)[:, list(COORD_IDS)].sum(-1)
    coord = set(COORD_IDS)
    assert value["coord_diag/expected_bin_mae"] == pytest.approx(((p * bins).sum(-1) - t).abs().mean().item(), rel=1e-5)
    errors = ((p * bins).sum(-1) - t).abs().numpy()
    assert value["coord_diag/expected_bin_abs_err_p90"] == pytest.approx(np.quantile(errors, 0.9), rel=1e-5)
    assert value["coord_diag/w1_to_delta"] == pytest.approx((p * (bins - t[:, None]).abs()).sum(-1).mean().item(), rel=1e-5)
    assert value["coord_diag/coord_vocab_mass"] == pytest.approx(mass.mean().item(), rel=1e-5)
    assert value["coord_diag/p_gt_mean"] == pytest.approx(p[range(8), t.long()].mean().item(), rel=1e-5)
    assert value["coord_monitor/flip_text_to_coord"] == pytest.approx(np.mean([best in coord for best in text.argmax(-1).tolist()]))
    assert value["desc_token_frac"] == pytest.approx(2 / 14)
    assert value["format_token_frac"] == pytest.approx(4 / 14)
    assert value["base_ce/loss_per_sample"] == pytest.approx(3 * (value["base_ce/loss"] or math.nan), rel=1e-6)
    assert value["coord_softce_w1/gate"] == value["coord_diag/gate"]


def test_accuracies_are_one_where_the_target_is_the_most_likely_token(batch: PackBatch, logits: torch.Tensor) -> None:
    sure = torch.zeros_like(logits)
    supervision = batch.supervision
    flat = sure.flatten(0, 1)
    flat[supervision.text_rows, supervision.text_targets] = 50.0
    flat[supervision.coord_rows, torch.tensor(COORD_IDS)[supervision.coord_bins.long()]] = 50.0
    metrics = Stage1Objective(COORD_IDS, weights=WEIGHTS)(sure, HEAD, batch).metrics
    for key in ("token_acc", "text_token_acc", "desc_token_acc", "coord_token_acc_top5", "coord_diag/acc_top5"):
        assert metrics[key].value == 1.0, key
    assert metrics["coord_monitor/flip_coord_to_noncoord"].value == 0.0


def test_token_types_can_be_left_out(batch: PackBatch, logits: torch.Tensor) -> None:
    metrics = Stage1Objective(COORD_IDS, weights=WEIGHTS, by_token_type=False)(logits, HEAD, batch).metrics
    assert not [key for key in metrics if REGISTRY.get(key).needs]
    assert "token_acc" in metrics


def broken(tally: Tally, rows: RowResult, supervision: Supervision) -> None:
    tally.add("token_acc", 0.0)
    torch.ones(2) @ torch.ones(3)


def test_a_diagnostic_that_fails_warns_once_and_adds_nothing(batch: PackBatch, logits: torch.Tensor) -> None:
    objective = Stage1Objective(COORD_IDS, weights=WEIGHTS, diagnostics={"broken": broken})
    with pytest.warns(UserWarning, match="the diagnostic 'broken' failed .* switched off"):
        first = objective(logits, HEAD, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = objective(logits, HEAD, batch)
    whole = Stage1Objective(COORD_IDS, weights=WEIGHTS)(logits, HEAD, batch)
    assert first.metrics == second.metrics == whole.metrics
    assert torch.equal(first.sums, whole.sums)


def test_an_invariant_that_fails_in_a_diagnostic_is_not_swallowed(batch: PackBatch, logits: torch.Tensor) -> None:
    unregistered = Stage1Objective(COORD_IDS, weights=WEIGHTS, diagnostics={"new": lambda tally, rows, supervision: tally.add("made_up", 1.0)})
    with pytest.raises(UnknownMetricError, match="made_up"):
        unregistered(logits, HEAD, batch)
    needy = Stage1Objective(COORD_IDS, weights=WEIGHTS, diagnostics={"needy": lambda *_: batch.extra("teacher", reader="needy")})
    with pytest.raises(BatchContractError, match="needy needs the batch extra 'teacher'"):
        needy(logits, HEAD, batch)


def test_a_filler_pack_adds_nothing_but_keeps_the_graph(logits: torch.Tensor) -> None:
    pack = Pack(segments=(make_segment((1, 2, 3, 4)),), is_filler=True)
    filler = PaddedCollator(pad_token_id=0, image_token_id=1, merge_size=2)(pack)
    objective = Stage1Objective(COORD_IDS, weights=WEIGHTS)
    z = logits[:1].clone().requires_grad_()
    result = objective(z, HEAD, filler)
    result.sums.sum().backward()
    assert result.sums.tolist() == [0.0, 0.0]
    assert result.metrics == {}
    assert objective.denominators(filler).tolist() == [0.0, 0.0]
    assert z.grad is not None
    assert z.grad.abs().max() == 0
