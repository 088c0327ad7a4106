"""Schema of the section `stage2_ab`: Channel A, Channel B and their schedule."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from coordexp.config.sections import Count, NonNegative, Number, Positive, PositiveNumber, Section, Share, Switch, Text


def _switch_to_word(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else value


OnOff = Annotated[Literal["on", "off"], BeforeValidator(_switch_to_word)]


class ScheduleSection(Section):
    replaced: ClassVar[dict[str, str]] = {"pattern": "write b_ratio: the share of optimizer steps on Channel B"}

    b_ratio: Share
    """Share of optimizer steps on Channel B. No default: it decides the experiment; start low (0.05)."""


class SemanticDescGateSection(Section):
    enabled: Switch = False
    threshold: Share = 0.5
    model_name_or_path: Text = "sentence-transformers/all-MiniLM-L6-v2"
    revision: Text | None = None


class AsyncSection(Section):
    queue_limit: Positive = 6
    """Ready packs that each learner rank holds at most."""
    prefetch_target_packs: Positive = 2
    version_window: Count = 2
    """A pack is used while its policy version is at most this many syncs old."""
    sync_every_steps: Positive = 1


class ChannelBSection(Section):
    mode: Literal["sync", "async", "micro", "step"] = "sync"
    """`micro` and `step` are read as `sync`."""
    async_: AsyncSection = Field(default_factory=AsyncSection, alias="async")
    rollouts_per_step: Positive | None = None
    wait_for_b: Switch = False
    max_skipped_b: Positive = 20
    on_starvation: Literal["stop", "a_only"] = "stop"
    desc_ce_weight_matched: NonNegative = 0.0
    semantic_desc_gate: SemanticDescGateSection = Field(default_factory=SemanticDescGateSection)
    geometry_reduction: Literal["split", "pooled"] = "split"
    closure_ce: OnOff = "on"
    key_ce: OnOff = "off"
    drop_invalid_struct_ce_multiplier: Annotated[Number, Field(ge=1, le=4)] = 1.0


class Stage2ABSection(Section):
    schedule: ScheduleSection
    n_softctx_iter: Positive = 2
    softctx_grad_mode: Literal["unroll", "em_detach"] = "unroll"
    softctx_temperature: PositiveNumber = 1.0
    desc_ce_weight: NonNegative = 1.0
    bbox_smoothl1_weight: NonNegative = 1.0
    bbox_smoothl1_beta: PositiveNumber = 0.1
    """Where SmoothL1 turns from quadratic to linear, in [0, 1] space."""
    bbox_ciou_weight: NonNegative = 1.0
    coord_ce_weight: NonNegative = 0.0
    coord_el1_weight: NonNegative = 0.0
    coord_ehuber_weight: NonNegative = 0.0
    coord_entropy_weight: NonNegative = 0.0
    channel_b: ChannelBSection = Field(default_factory=ChannelBSection)
