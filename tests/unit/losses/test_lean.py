"""The lean reading of a head against the plain one: same numbers, same gradients, for every kind of head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from coordexp.losses.coordinates import CoordLossWeights, coordinate_terms
from coordexp.losses.lean import lean_rows
from coordexp.losses.rows import HeadProducts, OutputHead, Product, RowFunction, RowQuery, RowResult, RowStats, plain_rows
from coordexp.models.head import Head

torch.set_num_threads(1)
VOCAB, WIDTH, BINS = 1103, 24, 1000
COORD_IDS = torch.randperm(VOCAB - 30, generator=torch.Generator().manual_seed(2))[:BINS]
SMALL = 5
"""Rows of a chunk."""
WEIGHTS = CoordLossWeights(soft_ce=0.9, w1=1.3, ce=0.2, gate=0.7)


@dataclass(frozen=True)
class Case:
    hidden: Tensor
    query: RowQuery
    bins: Tensor
    slot_weight: Tensor


def make_case(*, num_text: int = 17, num_coord: int = 12, dtype: torch.dtype = torch.float32, **query: Any) -> Case:
    """Hidden states of 3 rows with 13 columns; some rows predict nothing, one text token and one slot have weight 0."""
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(39, generator=generator)
    weight, slot_weight = torch.rand(num_text, generator=generator), torch.rand(num_coord, generator=generator)
    weight[:1], slot_weight[:1] = 0.0, 0.0
    bins = torch.rand(num_coord, generator=generator) * 999
    return Case(
        hidden=(2 * torch.randn(3, 13, WIDTH, generator=generator)).to(dtype),
        query=RowQuery(
            text_rows=order[:num_text],
            text_targets=torch.randint(VOCAB, (num_text,), generator=generator),
            text_weight=weight,
            coord_rows=order[num_text : num_text + num_coord],
            coord_targets=COORD_IDS[bins.round().long()],
            **query,
        ),
        bins=bins,
        slot_weight=slot_weight,
    )


def linear(*, bias: bool = False, frozen: bool = False) -> nn.Module:
    torch.manual_seed(11)
    return nn.Linear(WIDTH, VOCAB, bias=bias).requires_grad_(not frozen)


def adapted(**settings: Any) -> nn.Module:
    """A head as PEFT leaves it inside a model, its new weights away from their start."""
    torch.manual_seed(11)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(WIDTH, WIDTH))
    model.add_module("lm_head", nn.Linear(WIDTH, VOCAB, bias=False))
    head = get_peft_model(model, LoraConfig(**{"target_modules": ["lm_head"], "r": 4, "lora_alpha": 7, **settings})).base_model.model.lm_head
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return head


def trained_tokens(ids: list[int]) -> nn.Module:
    return adapted(target_modules=["body"], trainable_token_indices={"lm_head": ids})


HEADS: dict[str, Callable[[], nn.Module]] = {
    "trained": linear,
    "frozen": lambda: linear(frozen=True),
    "bias": lambda: linear(bias=True),
    "lora": adapted,
    "lora beside a trained weight": lambda: adapted().requires_grad_(),
    "dora": lambda: adapted(use_dora=True),
    "coordinate rows": lambda: trained_tokens(COORD_IDS.tolist()),
    "some rows of both kinds": lambda: trained_tokens([VOCAB - 1, int(COORD_IDS[3]), int(COORD_IDS[999]), VOCAB - 7]),
    "coordinate rows beside a trained weight": lambda: trained_tokens(COORD_IDS.tolist()[:700]).requires_grad_(),
    "saved module": lambda: adapted(target_modules=["body"], modules_to_save=["lm_head"]),
    "of another kind": lambda: nn.Sequential(linear()),
}


@dataclass(frozen=True)
class Outcome:
    loss: Tensor
    result: RowResult
    gradients: dict[str, Tensor]


def run(rows: RowFunction, head: nn.Module, case: Case, *, weights: CoordLossWeights = WEIGHTS, scale: float = 1.0, **settings: Any) -> Outcome:
    """Loss and gradients as training forms them: both sums over denominators of their own."""
    head.zero_grad()
    hidden = case.hidden.clone().requires_grad_()
    result = rows(hidden, Head(head), case.query, coord_ids=COORD_IDS, **settings)
    terms = coordinate_terms(result.coord_logits, result.coord_lse, case.bins, case.slot_weight, weights=weights)
    loss = result.text_sum / 31 + terms.total / 17
    (loss * scale).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert hidden.grad is not None
    return Outcome(loss.detach(), result, {"hidden": hidden.grad, **gradients})


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative, in the norm of the whole tensor."""
    scale = expected.double().norm().item()
    return (found.double() - expected.double()).norm().item() / scale if scale else found.double().norm().item()


def assert_same(found: Outcome, expected: Outcome, *, tolerance: float) -> None:
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=tolerance)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert found.gradients[name].dtype == gradient.dtype
        assert distance(found.gradients[name], gradient) < tolerance, name
    for name in ("text_sum", "text_ce", "coord_logits", "coord_lse"):
        assert distance(getattr(found.result, name), getattr(expected.result, name)) < tolerance, name
    for part in ("text", "coord"):
        for field in fields(RowStats):
            pair = [getattr(getattr(outcome.result, part), field.name) for outcome in (found, expected)]
            assert distance(*pair) < tolerance, f"{part}.{field.name}"


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.filterwarnings("ignore:this output head")
def test_loss_gradients_and_diagnostics_equal_the_plain_ones(name: str, temperature: float) -> None:
    head, case = HEADS[name](), make_case(temperature=temperature)
    assert_same(run(lean_rows, head, case, chunk_rows=SMALL), run(plain_rows, head, case), tolerance=1e-5)


@pytest.mark.parametrize("name", ["trained", "frozen", "lora", "coordinate rows"])
@pytest.mark.parametrize(("num_text", "num_coord"), [(0, 12), (17, 0), (0, 0), (1, 1)])
def test_no_text_and_no_slots(name: str, num_text: int, num_coord: int) -> None:
    head, case = HEADS[name](), make_case(num_text=num_text, num_coord=num_coord)
    assert_same(run(lean_rows, head, case, chunk_rows=SMALL), run(plain_rows, head, case), tolerance=1e-5)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("factor", [1.0, 0.7])
@pytest.mark.parametrize("num_text", [17, 0])
@pytest.mark.filterwarnings("ignore:this output head")
def test_known_shares_of_the_slots_change_nothing_even_when_they_are_wrong(name: str, factor: float, num_text: int) -> None:
    head, case = HEADS[name](), make_case(num_text=num_text, temperature=1.3)
    share = case.slot_weight * WEIGHTS.gate * 31 / 17
    share[0] += 1 - factor
    found = run(lean_rows, head, replace(case, query=replace(case.query, lse_share=share)), chunk_rows=SMALL)
    assert_same(found, run(plain_rows, head, case), tolerance=1e-5)


def test_known_shares_of_the_slots_spare_the_second_way_through_the_head() -> None:
    """A weight that changes between forward and backward is not seen."""
    case = make_case()
    right = case.slot_weight * WEIGHTS.gate * 31 / 17
    for share, is_spared in ((right, True), (right * 1.1, False), (None, False)):
        weight = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
        result = lean_rows(case.hidden, Weight(weight), replace(case.query, lse_share=share), coord_ids=COORD_IDS, chunk_rows=SMALL)
        loss = result.text_sum / 31 + (case.slot_weight * result.coord_lse).sum() * WEIGHTS.gate / 17
        weight.data.fill_(float("nan"))
        (gradient,) = torch.autograd.grad(loss, weight)
        assert bool(gradient.isfinite().all()) == is_spared


@pytest.mark.parametrize("name", ["trained", "frozen", "lora", "coordinate rows"])
def test_a_gate_without_weight_has_no_gradient(name: str) -> None:
    head, case = HEADS[name](), make_case(is_lse_trained=False)
    weights = replace(WEIGHTS, gate=0.0)
    assert_same(run(lean_rows, head, case, weights=weights, chunk_rows=SMALL), run(plain_rows, head, case, weights=weights), tolerance=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_frozen_weight_gets_no_gradient(name: str) -> None:
    head = HEADS[name]().requires_grad_(False)
    with pytest.warns(UserWarning, match="this output head") if name == "of another kind" else nullcontext():
        found = run(lean_rows, head, make_case(), chunk_rows=SMALL)
    assert found.gradients.keys() == {"hidden"}


@pytest.mark.parametrize("chunk_rows", [1, 7, None])
def test_the_size_of_chunks_changes_nothing(chunk_rows: int) -> None:
    head, case = linear(), make_case()
    assert_same(run(lean_rows, head, case, chunk_rows=chunk_rows), run(plain_rows, head, case), tolerance=1e-5)


def test_only_the_rows_asked_for_get_a_gradient() -> None:
    case = make_case()
    gradient = run(lean_rows, linear(), case).gradients["hidden"].flatten(0, 1)
    asked = torch.cat((case.query.text_rows[1:], case.query.coord_rows[1:]))
    others = torch.ones(len(gradient), dtype=torch.bool)
    others[asked] = False
    assert gradient[others].abs().max() == 0
    assert gradient[asked].abs().amax(-1).min() > 0


@dataclass(frozen=True)
class Weight:
    """A head of one weight."""

    weight: Tensor

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight.t()

    def products(self, hidden: Tensor) -> HeadProducts:
        return HeadProducts((Product(hidden, self.weight),))


def test_float64_gradients_equal_numeric_ones() -> None:
    case, generator = make_case(num_text=3, num_coord=3), torch.Generator().manual_seed(5)
    query = replace(case.query, text_weight=case.query.text_weight.double(), temperature=1.3)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        result = lean_rows(hidden, Weight(weight), query, coord_ids=COORD_IDS, chunk_rows=SMALL)
        terms = coordinate_terms(result.coord_logits, result.coord_lse, case.bins.double(), case.slot_weight.double(), weights=WEIGHTS)
        return result.text_sum / 31 + terms.total / 17

    point = [case.hidden.double().requires_grad_(), torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()]
    direction = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in point]
    gradients = torch.autograd.grad(loss(*point), point)
    analytic = sum((gradient * step).sum().item() for gradient, step in zip(gradients, direction, strict=True))
    ends = [loss(*(value.detach() + sign * 1e-6 * step for value, step in zip(point, direction, strict=True))).item() for sign in (1, -1)]
    assert analytic == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("name", ["trained", "frozen", "lora", "coordinate rows", "dora"])
def test_half_precision_weights_are_within_their_rounding(name: str) -> None:
    """Against float64: no farther away than twice what the plain way is."""
    head, case = HEADS[name]().bfloat16(), make_case(dtype=torch.bfloat16)
    found, plain = run(lean_rows, head, case, chunk_rows=SMALL), run(plain_rows, head, case)
    exact = run(plain_rows, head.double(), replace(case, hidden=case.hidden.double()))
    assert found.loss.item() == pytest.approx(exact.loss.item(), rel=1e-2)
    for key, gradient in exact.gradients.items():
        assert distance(found.gradients[key], gradient) < 2 * distance(plain.gradients[key], gradient) + 1e-3, key


@pytest.mark.parametrize("name", ["trained", "frozen", "lora", "coordinate rows", "dora"])
@pytest.mark.parametrize("hidden", [torch.float32, torch.bfloat16])
def test_autocast_equals_the_plain_way_within_its_rounding(name: str, hidden: torch.dtype) -> None:
    head, case = HEADS[name](), make_case(dtype=hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, plain = run(lean_rows, head, case, chunk_rows=SMALL), run(plain_rows, head, case)
    exact = run(plain_rows, head, replace(case, hidden=case.hidden.float()))
    assert found.result.text_sum.dtype == found.result.coord_lse.dtype == torch.float32
    for key, gradient in exact.gradients.items():
        assert found.gradients[key].dtype == plain.gradients[key].dtype
        assert distance(found.gradients[key], gradient) < 2 * distance(plain.gradients[key], gradient) + 1e-3, key


def test_float16_keeps_small_gradients_as_the_plain_way_does() -> None:
    """The scale that training puts on the loss reaches the small ones before they are rounded. Most tokens of a sure model have such gradients."""
    head, case, scale = linear(), make_case(), 65536.0
    sure = replace(case, hidden=12 * case.hidden)
    exact = run(plain_rows, head, sure).gradients["weight"]
    with torch.autocast("cpu", dtype=torch.float16):
        found, plain = (run(rows, head, sure, scale=scale).gradients["weight"] / scale for rows in (_small_chunks, plain_rows))
    size = exact.norm(dim=1)
    is_small = size < size.quantile(0.25)
    assert size[is_small].max() < 1e-7
    assert distance(plain[is_small], exact[is_small]) < 0.02
    assert distance(found[is_small], exact[is_small]) < 1.5 * distance(plain[is_small], exact[is_small])


def _small_chunks(hidden: Tensor, head: OutputHead, query: RowQuery, *, coord_ids: Tensor) -> RowResult:
    return lean_rows(hidden, head, query, coord_ids=coord_ids, chunk_rows=SMALL)


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        result = lean_rows(make_case().hidden, Head(linear()), make_case().query, coord_ids=COORD_IDS, chunk_rows=SMALL)
    assert not result.text_sum.requires_grad
    assert result.text_sum.item() == pytest.approx(run(plain_rows, linear(), make_case()).result.text_sum.item(), rel=1e-6)


def test_going_backward_twice_is_refused() -> None:
    result = lean_rows(make_case().hidden.requires_grad_(), Head(linear()), make_case().query, coord_ids=COORD_IDS)
    result.text_sum.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward"):
        result.text_sum.backward()


def test_dropout_of_a_lora_head_is_drawn_once_for_each_row() -> None:
    """With equal rows the masks differ, and the gradient is that of the masks that the loss saw."""
    head = adapted(lora_dropout=0.5).train()
    case = make_case()
    torch.manual_seed(3)
    found = run(lean_rows, head, case, chunk_rows=SMALL)
    order = torch.cat((case.query.text_rows, case.query.coord_rows))
    rows = case.hidden.flatten(0, 1)[order][None]
    places = torch.arange(len(order))
    query = replace(case.query, text_rows=places[:17], coord_rows=places[17:])
    torch.manual_seed(3)
    plain = run(plain_rows, head, replace(case, hidden=rows, query=query))
    assert found.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert distance(found.gradients["hidden"].flatten(0, 1)[order], plain.gradients["hidden"][0]) < 1e-5


def test_equal_rows_may_be_text_and_slot_at_once() -> None:
    case = make_case()
    query = replace(case.query, coord_rows=case.query.text_rows[:12])
    both = replace(case, query=query)
    assert_same(run(lean_rows, linear(), both, chunk_rows=SMALL), run(plain_rows, linear(), both), tolerance=1e-5)
