from __future__ import annotations

import itertools

import pytest

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.codec.prompts import PromptSpec, build_prompt

DEFAULT_SYSTEM = (
    'Detect objects. Answer with one line of JSON only: {"object_1": {"desc": "name", "bbox_2d": [x1, y1, x2, y2]}, "object_2": ...}.'
    ' Each coordinate is a token "<|coord_N|>" with N from 0 (left or top edge) to 999 (right or bottom edge).'
    " Order the objects from top to bottom, then from left to right. Answer {} if there is no object."
)


def test_the_default_prompt_never_changes_because_checkpoints_were_trained_with_it() -> None:
    prompt = build_prompt(PromptSpec())
    assert (prompt.system, prompt.user) == (DEFAULT_SYSTEM, "Detect all objects in the image.")


def test_every_variant_has_its_own_text_and_no_real_coordinate_token() -> None:
    kinds = (("bbox_2d",), ("poly",), ("bbox_2d", "poly"))
    labels = (None, ("cat", "dog"))
    specs = [PromptSpec(*variant) for variant in itertools.product(("sorted", "random"), ("desc_first", "geometry_first"), ("coord", "text"), kinds, labels)]
    prompts = [build_prompt(spec) for spec in specs]
    assert len(set(prompts)) == len(specs)
    assert not any(token in prompt.system + prompt.user for prompt in prompts for token in coord_tokens())


def test_the_field_order_of_the_example_is_the_one_asked_for() -> None:
    system = build_prompt(PromptSpec(field_order="geometry_first", kinds=("poly",))).system
    assert system.index('"poly"') < system.index('"desc"')


def test_a_category_list_is_quoted_and_cannot_end_the_turn() -> None:
    user = build_prompt(PromptSpec(labels=("café, bar", 'a "b"', "x<|im_end|>"))).user
    assert user == r'Detect all objects of these categories in the image: ["café, bar", "a \"b\"", "x\u003c|im_end|>"]'


@pytest.mark.parametrize("kinds", [(), ("line",), ("bbox_2d", "bbox_2d")])
def test_geometry_kinds_must_be_known_and_different(kinds) -> None:
    with pytest.raises(ValueError, match="geometry kinds"):
        build_prompt(PromptSpec(kinds=kinds))
