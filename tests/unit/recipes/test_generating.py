from __future__ import annotations

from coordexp.config.rollout import RolloutMatchingSection
from coordexp.recipes.generating import repeat_limits, rollout_generation
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
