"""Schema of the section `stage2_ab`: Channel A, Channel B and their schedule."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from coordexp.config.evaluation import SENTENCE_ENCODER
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
    """Let desc tokens agree by meaning; without effect while `desc_ce_weight_matched` is 0."""
    threshold: Share = 0.5
    """Cosine from which on two names agree."""
    model_name_or_path: Text = SENTENCE_ENCODER
    """Sentence encoder."""
    revision: Text | None = None
    """Of the encoder on the hub."""


class AsyncSection(Section):
    queue_limit: Positive = 6
    """Ready packs that each learner rank holds at most."""
    prefetch_target_packs: Positive = 2
    """Ready packs that the actor aims at."""
    version_window: Count = 2
    """A pack is used while its policy version is at most this many syncs old."""
    sync_every_steps: Positive = 1
    """Optimizer steps between weight syncs."""
    wait_timeout_s: PositiveNumber = 1800.0
    """Longest wait of the learner for packs or for rollouts under way, in seconds; then the run ends with an error that says what it waited for."""


class ChannelBSection(Section):
    mode: Literal["sync", "async", "micro", "step"] = "sync"
    """`micro` and `step` are read as `sync`."""
    async_: AsyncSection = Field(default_factory=AsyncSection, alias="async")
    rollouts_per_step: Positive | None = None
    """Samples of one Channel B step; absent: the effective batch size."""
    wait_for_b: Switch = False
    """Wait for ready packs instead of running Channel A."""
    max_skipped_b: Positive = 20
    """The run stops after this many scheduled Channel B steps in a row without packs."""
    on_starvation: Literal["stop", "a_only"] = "stop"
    """a_only: go on with Channel A instead of stopping."""
    desc_ce_weight_matched: NonNegative = 0.0
    """Of cross-entropy on predicted desc tokens that agree with the ground truth."""
    semantic_desc_gate: SemanticDescGateSection = Field(default_factory=SemanticDescGateSection)
    geometry_reduction: Literal["split", "pooled"] = "split"
    """split: mean over matched plus mean over missed; pooled: one mean."""
    closure_ce: OnOff = "on"
    """Supervise the outermost brace and the end token."""
    key_ce: OnOff = "off"
    """Supervise the digits of the model's own keys."""
    prefix: Literal["raw", "clean"] = "raw"
    """raw: the target goes on from what the model wrote; clean: repeated objects (same name, IoU above 0.9 with an earlier one) and objects that cannot be read
    are taken out first."""
    fn_position: Literal["tail", "sorted"] = "tail"
    """Where missed objects are written: behind the model's own, or at their place in the sorted order."""
    cut_out_of_sequence_keys: Switch = False
    """End the prefix before the first key that is not the one after its predecessor."""
    cut_surplus: Switch = False
    """End the prefix where nothing matched follows and it has as many objects as the ground truth."""
    matched_names: Literal["any", "same"] = "any"
    """same: a matched object with another name counts as unmatched, and its annotation as missed, so that it is taught whole."""
    unmatched: Literal["keep", "drop"] = "keep"
    """keep: predictions that match nothing stay in the prefix, neither taught nor punished; drop: they leave it. drop is right only where every object of the
    named kinds is annotated."""
    renumber_keys: Switch = False
    """Write the keys of the target as 1, 2, 3, …, also those of the model's own objects; else its own stay, and missed objects take the next free ones."""
    drop_invalid_struct_ce_multiplier: Annotated[Number, Field(ge=1, le=4)] = 1.0
    """Raises structure cross-entropy of samples with dropped objects."""


class Stage2ABSection(Section):
    schedule: ScheduleSection
    n_softctx_iter: Positive = 2
    """Forwards of Channel A; from the second on, coordinate embeddings are expectations."""
    softctx_grad_mode: Literal["unroll", "em_detach"] = "unroll"
    """Whether gradients flow through those expectations."""
    softctx_temperature: PositiveNumber = 1.0
    """Of the softmax in those expectations."""
    desc_ce_weight: NonNegative = 1.0
    """Of cross-entropy on desc tokens."""
    bbox_smoothl1_weight: NonNegative = 1.0
    """Of SmoothL1 on decoded boxes."""
    bbox_smoothl1_beta: PositiveNumber = 0.1
    """Where SmoothL1 turns from quadratic to linear, in [0, 1] space."""
    bbox_ciou_weight: NonNegative = 1.0
    """Of CIoU on decoded boxes."""
    coord_ce_weight: NonNegative = 0.0
    """Of cross-entropy on coordinate slots."""
    coord_soft_ce_weight: NonNegative = 0.0
    """Of the cross-entropy with a Gaussian target (`custom.coord_soft_ce_w1.target_sigma`) on coordinate slots."""
    coord_w1_weight: NonNegative = 0.0
    """Of the distance between cumulative distributions on coordinate slots."""
    coord_gate_weight: NonNegative = 0.0
    """Of keeping probability on coordinate tokens at coordinate slots."""
    coord_el1_weight: NonNegative = 0.0
    """Of the expected distance on coordinate slots."""
    coord_ehuber_weight: NonNegative = 0.0
    """Of the expected Huber distance on coordinate slots."""
    coord_entropy_weight: NonNegative = 0.0
    """Of the entropy on coordinate slots."""
    channel_b: ChannelBSection = Field(default_factory=ChannelBSection)
    """Training on the model's own rollouts."""
