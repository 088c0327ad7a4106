"""Parameter groups: each trained parameter once, with the rate of its part."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.models.load import load_model
from coordexp.models.parts import freeze_parts, part_of
from coordexp.training.optimizer import PartRates, parameter_groups


def test_every_trained_parameter_is_in_one_group_with_the_rate_of_its_part(tiny_folder: Path) -> None:
    model = load_model(tiny_folder).model
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed = [name for name in names.values() if not name.endswith("bias")]
    groups = parameter_groups(model, rates=PartRates(vit=1e-5, aligner=2e-5), learning_rate=1e-3, weight_decay=0.1, decayed=decayed)
    found = [parameter for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found)) == len(names)
    rates = {"llm": 1e-3, "vit": 1e-5, "aligner": 2e-5}
    for group in groups:
        members = [names[parameter] for parameter in group["params"]]
        assert {rates[part_of(name)] for name in members} == {group["lr"]}
        assert {0.0 if name.endswith("bias") else 0.1 for name in members} == {group["weight_decay"]}
    assert groups[0]["part"] == "llm"


def test_a_part_without_a_rate_has_that_of_the_language_model_and_frozen_parts_have_no_group(tiny_folder: Path) -> None:
    model = load_model(tiny_folder).model
    freeze_parts(model, vit=True)
    groups = parameter_groups(model, rates=PartRates(), learning_rate=0.5, weight_decay=0.0, decayed=[])
    assert {(group["part"], group["lr"]) for group in groups} == {("llm", 0.5), ("aligner", 0.5)}


@pytest.mark.parametrize(("part", "rate"), [("vit", 0.25), ("aligner", 1.0), ("llm", 1.0)])
def test_a_rate_is_looked_up_by_part(part: str, rate: float) -> None:
    assert PartRates(vit=0.25).rate_of(part, default=1.0) == rate
