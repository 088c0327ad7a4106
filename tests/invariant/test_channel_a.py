"""Channel A on the tiny real model: one iteration is Stage-1; more feed the model its own coordinates and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coordexp.batching.collate import PackBatch, PaddedCollator
from coordexp.batching.packed import PackedCollator
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.losses.coordinates import CoordLossWeights
from coordexp.losses.rows import RowQuery, plain_rows
from coordexp.losses.slots import SlotLossWeights
from coordexp.models.load import LoadedModel
from coordexp.models.soft_context import soft_coordinates
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.training.objective import Stage1Objective
from coordexp.training.row_forward import forward_rows
from coordexp.training.stage2_objective import SoftContext, Stage2Objective
from coordexp.types.sequences import Pack, Segment

torch.set_num_threads(1)
MIX = CoordLossWeights(ce=0.1)
BOXES = SlotLossWeights(bbox_smoothl1=1.0, bbox_ciou=1.0)


class Setup:
    """The tiny model, and samples of three image sizes with one to three objects as a padded and as a packed batch."""

    def __init__(self, config: TrainConfig) -> None:
        parts = prepare_stage1(config)
        self.loaded: LoadedModel = parts.loaded_model
        self.model: Any = self.loaded.model
        self.coord_ids = torch.tensor(self.loaded.coord_vocab.ids)
        segments: list[Segment] = [parts.train.encode(index, epoch=0) for index in (1, 2, 3, 5)]
        image_token = int(self.model.config.image_token_id)
        pack = Pack(segments=tuple(segments))
        self.padded = PaddedCollator(pad_token_id=0, image_token_id=image_token, merge_size=2)(pack)
        self.packed = PackedCollator(image_token_id=image_token, merge_size=2, capacity=4096)(pack)

    def objective(self, *, iterations: int, weights: SlotLossWeights = BOXES, grad_mode: Any = "unroll") -> Stage2Objective:
        return Stage2Objective(self.loaded.coord_vocab.ids, weights=weights, soft_context=SoftContext(iterations=iterations, grad_mode=grad_mode))

    def loss(self, objective: Any, batch: PackBatch) -> Tensor:
        return (objective.run(self.model, batch).sums / objective.denominators(batch).clamp_min(1e-8)).sum()

    def gradients(self, objective: Any, batch: PackBatch) -> dict[str, Tensor]:
        self.model.zero_grad()
        self.loss(objective, batch).backward()
        return {name: parameter.grad.clone() for name, parameter in self.model.named_parameters() if parameter.grad is not None}

    def query(self, batch: PackBatch) -> RowQuery:
        nothing = torch.zeros(0, dtype=torch.long)
        rows = batch.supervision.coord_rows
        return RowQuery(nothing, nothing, torch.zeros(0), rows, self.coord_ids[batch.supervision.coord_bins.long()])


@pytest.fixture
def setup(make_stage1: Callable[..., Loaded[TrainConfig]]) -> Setup:
    return Setup(make_stage1().config)


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_one_iteration_is_the_loss_of_stage_1_with_its_gradient(setup: Setup, kind: str) -> None:
    batch = getattr(setup, kind)
    one = setup.objective(iterations=1, weights=SlotLossWeights(distribution=MIX))
    stage1 = Stage1Objective(setup.loaded.coord_vocab.ids, weights=MIX)
    assert setup.loss(one, batch).item() == pytest.approx(setup.loss(stage1, batch).item(), abs=1e-6)
    ours, theirs = setup.gradients(one, batch), setup.gradients(stage1, batch)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_padded_and_packed_rows_have_the_same_loss(setup: Setup, iterations: int) -> None:
    objective = setup.objective(iterations=iterations, weights=SlotLossWeights(distribution=MIX, bbox_smoothl1=1, bbox_ciou=1))
    assert setup.loss(objective, setup.padded).item() == pytest.approx(setup.loss(objective, setup.packed).item(), abs=1e-5)


def test_later_iterations_change_the_embeddings_of_coordinates_and_of_nothing_else(setup: Setup) -> None:
    seen: list[Tensor] = []
    deeper: list[Tensor] = []
    embedding, text = setup.model.get_input_embeddings(), setup.model.model.language_model
    hooks = [
        embedding.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().clone())),
        text.register_forward_pre_hook(lambda _module, _args, inputs: deeper.append(inputs["inputs_embeds"].detach().clone()), with_kwargs=True),
    ]
    setup.objective(iterations=3).run(setup.model, setup.packed)
    for hook in hooks:
        hook.remove()
    ids = setup.packed.model_inputs["input_ids"].flatten()
    at = setup.packed.supervision.coord_positions
    is_image = ids == setup.model.config.image_token_id
    is_other = torch.ones_like(ids, dtype=torch.bool)
    is_other[at] = False
    assert torch.equal(ids[at].sort().values, ids[torch.isin(ids, setup.coord_ids)].sort().values)
    assert len(seen) == len(deeper) == 3
    for stage in (seen, deeper):
        first, *later = (rows.flatten(0, 1) for rows in stage)
        for rows in later:
            assert torch.equal(rows[is_other], first[is_other])
            assert torch.equal(rows[is_image], first[is_image])
            assert (rows[at] != first[at]).any(dim=-1).all()
    assert "forward" not in embedding.__dict__


def test_a_certain_distribution_gives_the_embedding_of_its_token(setup: Setup) -> None:
    batch, sup = setup.packed, setup.packed.supervision
    certain = torch.nn.functional.one_hot(sup.coord_bins.long(), 1000).float()
    plain = forward_rows(setup.model, batch.model_inputs, setup.query(batch), rows=plain_rows, coord_ids=setup.coord_ids)
    with soft_coordinates(setup.model, certain, positions=sup.coord_positions, coord_ids=setup.coord_ids):
        soft = forward_rows(setup.model, batch.model_inputs, setup.query(batch), rows=plain_rows, coord_ids=setup.coord_ids)
    torch.testing.assert_close(soft.coord_logits, plain.coord_logits, atol=1e-5, rtol=1e-5)


def test_unrolled_gradients_reach_earlier_slots_and_only_those(setup: Setup) -> None:
    batch, sup = setup.packed, setup.packed.supervision
    first = forward_rows(setup.model, batch.model_inputs, setup.query(batch), rows=plain_rows, coord_ids=setup.coord_ids)
    with soft_coordinates(setup.model, first.coord_logits.softmax(-1), positions=sup.coord_positions, coord_ids=setup.coord_ids):
        last = forward_rows(setup.model, batch.model_inputs, setup.query(batch), rows=plain_rows, coord_ids=setup.coord_ids)
    rows, order = 7, sup.coord_positions
    (reached,) = torch.autograd.grad(last.coord_logits[rows].square().sum(), first.coord_logits)
    starts = [start for _, start, _ in batch.extras["dataset_segments"]]
    own_start = max(start for start in starts if start <= order[rows])
    is_before = (order < order[rows]) & (order >= own_start)
    assert is_before.sum() >= 2
    assert (reached[is_before] != 0).any(dim=-1).all()
    assert (reached[~is_before] == 0).all()


def test_detached_expectations_pass_no_gradient_back(setup: Setup) -> None:
    batch, sup = setup.packed, setup.packed.supervision
    with torch.no_grad():
        first = forward_rows(setup.model, batch.model_inputs, setup.query(batch), rows=plain_rows, coord_ids=setup.coord_ids)
    constant = first.coord_logits.softmax(-1)

    class Fixed(Stage2Objective):
        """Only the second forward, on constant expectations."""

        def run(self, model, batch, *, denominators=None):
            with soft_coordinates(model, constant, positions=sup.coord_positions, coord_ids=setup.coord_ids):
                return super().run(model, batch)

    supervision = batch.supervision
    kept = {"text_rows": supervision.text_rows[:0], "text_targets": supervision.text_targets[:0], "text_weight": supervision.text_weight[:0]}
    quiet = replace(batch, supervision=replace(supervision, **kept, text_types=supervision.text_types[:0]))
    detached = setup.gradients(setup.objective(iterations=2, grad_mode="em_detach"), quiet)
    fixed = setup.gradients(Fixed(setup.loaded.coord_vocab.ids, weights=BOXES), quiet)
    unrolled = setup.gradients(setup.objective(iterations=2), quiet)
    for name, gradient in fixed.items():
        torch.testing.assert_close(detached[name], gradient, atol=1e-7, rtol=1e-4)
    assert any(not torch.allclose(unrolled[name], fixed[name], atol=1e-6) for name in fixed)


def test_a_filler_adds_nothing_and_reaches_every_parameter(setup: Setup) -> None:
    supervision = setup.padded.supervision
    empty = replace(supervision, text_weight=supervision.text_weight * 0, coord_weight=supervision.coord_weight * 0)
    filler = replace(setup.padded, supervision=empty, is_filler=True)
    objective = setup.objective(iterations=2)
    assert objective.denominators(filler).sum().item() == 0
    gradients = setup.gradients(objective, filler)
    assert gradients.keys() == setup.gradients(objective, setup.padded).keys()
    assert all((gradient == 0).all() for gradient in gradients.values())
