from __future__ import annotations

import pytest

from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.rollout import RolloutMatchingSection
from coordexp.recipes.generating import infer_constraint, repeat_limits, rollout_generation
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import ConfigError
from coordexp.types.rollouts import GenerationSettings, RepeatLimits


def test_every_setting_of_decoding_reaches_the_backend() -> None:
    section = RolloutMatchingSection.model_validate(
        {
            "max_new_tokens": 77,
            "decoding": {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
            "repetition_penalty": 1.1,
            "repeat_terminate": {"enabled": True, "min_new_tokens": 9, "ngram_size": 12, "ngram_repeats": 3, "max_object_keys": 40},
        }
    )
    limits = RepeatLimits(min_new_tokens=9, max_consecutive_token_repeats=64, ngram_size=12, ngram_repeats=3, max_object_keys=40)
    assert rollout_generation(section) == GenerationSettings(
        max_new_tokens=77, temperature=0.7, top_p=0.9, top_k=50, repetition_penalty=1.1, num_beams=1, repeat=limits
    )


def test_a_guard_that_is_off_is_none_and_beams_count_in_beam_mode_only() -> None:
    assert repeat_limits(RolloutMatchingSection().repeat_terminate) is None
    beam = RolloutMatchingSection.model_validate({"decode_mode": "beam", "num_beams": 4})
    assert rollout_generation(beam).num_beams == 4


INFER = ["run.name=r", "run.output_dir=o", "infer.gt_jsonl=val.jsonl", "infer.model_checkpoint=m"]


def constraint(*overrides: str, categories: tuple[str, ...] = ("cat", "dog", "cat")) -> ConstraintSpec | None:
    section = load_config(None, InferConfig, [*INFER, *overrides]).config.infer
    assert section is not None
    return infer_constraint(section, mode="coord", categories=categories)


def test_the_settings_of_constrained_decoding_become_one_spec() -> None:
    assert constraint() is None
    assert constraint("infer.constrain=json") == ConstraintSpec()
    assert constraint("infer.constrain=json", "infer.labels=all") == ConstraintSpec(labels=("cat", "dog"))
    more = ["infer.labels=[bird]", "infer.max_objects=7", "infer.max_desc_tokens=20", "infer.geometry_kinds=[poly]", "infer.object_field_order=geometry_first"]
    expected = ConstraintSpec(kinds=("poly",), field_order="geometry_first", labels=("bird",), max_objects=7, max_desc_tokens=20)
    assert constraint("infer.constrain=json", *more) == expected


def test_all_categories_of_a_file_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no categories"):
        constraint("infer.constrain=json", "infer.labels=all", categories=())
