from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.models.load import load_model
from coordexp.models.parts import freeze_parts, part_of
from coordexp.types.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", "vit"),
        ("model.visual.patch_embed.proj.bias", "vit"),
        ("model.visual.merger.norm.weight", "aligner"),
        ("model.visual.deepstack_merger_list.0.linear_fc1.weight", "aligner"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "llm"),
        ("lm_head.weight", "llm"),
    ],
)
def test_a_parameter_belongs_to_one_part(name: str, part: str) -> None:
    assert part_of(name) == part


def test_frozen_parts_are_not_trained(tiny_folder: Path) -> None:
    model = load_model(tiny_folder).model
    sizes = {size.name: size for size in freeze_parts(model, vit=True, aligner=True)}
    assert (sizes["vit"].trainable, sizes["aligner"].trainable) == (0, 0)
    assert sizes["llm"].trainable == sizes["llm"].total > 0
    assert all(parameter.requires_grad == (part_of(name) == "llm") for name, parameter in model.named_parameters())
    assert sum(size.total for size in sizes.values()) == model.num_parameters()


def test_something_must_be_left_to_train(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="every part of the model is frozen"):
        freeze_parts(load_model(tiny_folder).model, llm=True, vit=True, aligner=True)
