"""Sections that say how to generate, as the generation room takes them."""

from __future__ import annotations

from coordexp.config.rollout import RepeatTerminateSection, RolloutMatchingSection
from coordexp.types.rollouts import GenerationSettings, RepeatLimits


def repeat_limits(section: RepeatTerminateSection) -> RepeatLimits | None:
    """The loop guard's settings; None: it is off."""
    return RepeatLimits(**section.model_dump(exclude={"enabled"})) if section.enabled else None


def rollout_generation(section: RolloutMatchingSection) -> GenerationSettings:
    """How rollouts are generated; their seeds belong to the requests."""
    return GenerationSettings(
        max_new_tokens=section.max_new_tokens,
        temperature=section.decoding.temperature,
        top_p=section.decoding.top_p,
        top_k=section.decoding.top_k,
        repetition_penalty=section.repetition_penalty,
        num_beams=section.num_beams if section.decode_mode == "beam" else 1,
        repeat=repeat_limits(section.repeat_terminate),
    )
