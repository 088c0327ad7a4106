"""Sections that say how to generate, as the generation room takes them."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.codec.prompts import CoordMode
from coordexp.config.infer import InferSection
from coordexp.config.rollout import RepeatTerminateSection, RolloutMatchingSection
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import ConfigError
from coordexp.types.rollouts import GenerationSettings, RepeatLimits


def repeat_limits(section: RepeatTerminateSection) -> RepeatLimits | None:
    """The loop guard's settings; None: it is off."""
    return RepeatLimits(**section.model_dump(exclude={"enabled"})) if section.enabled else None


def infer_constraint(section: InferSection, *, mode: CoordMode, categories: Sequence[str]) -> ConstraintSpec | None:
    """What constrained decoding allows, with the categories of the data file; None: it is off.

    Raises:
        ConfigError: all categories of a file that has none are asked for.
    """
    if section.constrain == "off":
        return None
    labels = tuple(dict.fromkeys(categories)) if section.labels == "all" else section.labels
    if section.labels == "all" and not labels:
        raise ConfigError(f"{section.gt_jsonl} has no categories", where="infer.labels", fix="give names, or remove it")
    return ConstraintSpec(
        field_order=section.object_field_order,
        coord_mode=mode,
        kinds=section.geometry_kinds,
        labels=labels,
        max_objects=section.max_objects,
        max_desc_tokens=section.max_desc_tokens,
    )


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
