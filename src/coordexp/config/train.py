"""Schema of a training file: every section, for Stage-1 and Stage-2 alike. `TrainConfig` is what recipes read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from coordexp.config.rollout import RolloutMatchingSection
from coordexp.config.sections import (
    Count,
    FilePath,
    FileSection,
    KeyProblem,
    NonNegative,
    Positive,
    PositiveNumber,
    Section,
    Share,
    Switch,
    Text,
)
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.training import TrainingSection
from coordexp.config.unbuilt import TRAIN, Unbuilt


class ModelSection(Section):
    model: Text
    """Folder or hub id of the checkpoint. No default: it decides the experiment."""
    torch_dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_impl: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Preferred attention implementation; one that is missing falls back with a notice."""


class TunerSection(Section):
    train_type: Literal["full", "lora"] = "full"
    use_dora: Switch = False
    lora_rank: Positive = 16
    lora_alpha: PositiveNumber = 32.0
    lora_dropout: Share = 0.0
    target_modules: tuple[Text, ...] | Literal["all-linear"] = "all-linear"
    freeze_llm: Switch = False
    freeze_vit: Switch = False
    freeze_aligner: Switch = False


class TemplateSection(Section):
    truncation_strategy: Literal["raise", "right"] = "raise"
    """What happens to a sample longer than `global_max_length`: an error, or a cut on the right."""
    max_pixels: Positive | None = None
    """Pixel limit of an image; a larger one is an error: rescale the data set first. None: no limit."""
    min_pixels: Positive | None = None


class DataSection(Section):
    coord_space: Literal["pixel", "norm1000", "token"] | None = None
    """For data files that do not say in which space their coordinates are."""
    prompt_labels: Literal["none", "all", "gt", "gt+negatives"] = "none"
    """The category list in the prompt."""
    geometry_kinds: tuple[Literal["bbox_2d", "poly"], ...] = ("bbox_2d",)
    """Kinds of geometry that the prompt asks for and the data may hold."""


class CoordTokensSection(Section):
    enabled: Switch = True
    """true: coordinates are coordinate tokens; false: plain integers 0..999."""
    skip_bbox_norm: Switch = True
    """Bins in data files are taken as they are. (false would normalize them once more.)"""


class CoordSoftCEW1Section(Section):
    """Losses on coordinate slots; weights multiply means over slots."""

    enabled: Switch = True
    soft_ce_weight: NonNegative = 1.0
    w1_weight: NonNegative = 1.0
    ce_weight: NonNegative = 0.0
    gate_weight: NonNegative = 1.0
    temperature: PositiveNumber = 1.0
    target_sigma: PositiveNumber = 2.0
    """Standard deviation of the Gaussian target, in bins."""
    target_truncate: Positive = 16
    """The Gaussian target is cut at this distance, in bins, and renormalized."""


class CoordOffsetSection(Section):
    enabled: Switch = False
    """Train only the coordinate rows of embedding and head."""
    tie_head: Switch = True


class TokenTypeMetricsSection(Section):
    enabled: Switch = True
    """Fractions and accuracies by token type, and the coordinate monitors."""


class ExtraSection(Section):
    rollout_matching: RolloutMatchingSection | None = None
    """The same section as the top-level `rollout_matching`; only one of them may be given."""


class CustomSection(Section):
    trainer_variant: Literal["rollout_matching_sft", "stage2_ab_training"] | None = None
    """Absent: Stage-1."""
    train_jsonl: FilePath | None = None
    val_jsonl: FilePath | None = None
    fusion_config: FilePath | None = None
    """File that mixes several data sets, in place of `train_jsonl`."""
    object_ordering: Literal["sorted", "random"] = "sorted"
    object_field_order: Literal["desc_first", "geometry_first"] = "desc_first"
    coord_tokens: CoordTokensSection = Field(default_factory=CoordTokensSection)
    coord_soft_ce_w1: CoordSoftCEW1Section = Field(default_factory=CoordSoftCEW1Section)
    coord_offset: CoordOffsetSection = Field(default_factory=CoordOffsetSection)
    token_type_metrics: TokenTypeMetricsSection = Field(default_factory=TokenTypeMetricsSection)
    augmentation: dict[str, Any] | None = None
    train_sample_limit: Count = 0
    """Only the first N records; 0: all."""
    val_sample_limit: Count = 0
    """Only the first N records; 0: all."""
    extra: ExtraSection = Field(default_factory=ExtraSection)


class TrainConfig(FileSection):
    """A training file with everything it extends."""

    unbuilt: ClassVar[tuple[Unbuilt, ...]] = TRAIN

    model: ModelSection
    tuner: TunerSection = Field(default_factory=TunerSection)
    template: TemplateSection = Field(default_factory=TemplateSection)
    data: DataSection = Field(default_factory=DataSection)
    training: TrainingSection
    custom: CustomSection
    stage2_ab: Stage2ABSection | None = None
    rollout_matching: RolloutMatchingSection | None = None
    global_max_length: Positive | None = None
    """Longest sequence in tokens: the row length when packing. None: no limit."""

    @property
    def rollout(self) -> RolloutMatchingSection | None:
        """The rollout section, wherever it stands."""
        return self.rollout_matching or self.custom.extra.rollout_matching

    def problems(self) -> Iterator[KeyProblem]:
        yield from self.training.problems()
        custom = self.custom
        if (custom.train_jsonl is None) == (custom.fusion_config is None):
            what = "is required" if custom.train_jsonl is None else "is given beside custom.fusion_config"
            yield KeyProblem("custom.train_jsonl", what, "name the training file (or custom.fusion_config), not both")
        if self.rollout_matching is not None and custom.extra.rollout_matching is not None:
            yield KeyProblem("rollout_matching", "is the same section as custom.extra.rollout_matching", "give one of them")
        if self.training.eval_strategy != "no" and custom.val_jsonl is None:
            yield KeyProblem("custom.val_jsonl", "is required when training.eval_strategy is not 'no'", "name the validation file")
        losses = custom.coord_soft_ce_w1
        if losses.enabled and not any((losses.soft_ce_weight, losses.w1_weight, losses.ce_weight, losses.gate_weight)):
            yield KeyProblem("custom.coord_soft_ce_w1", "all weights are 0", "give one of them a weight, or set enabled: false")
        if self.training.packing and self.global_max_length is None:
            yield KeyProblem("global_max_length", "is required when training.packing is true", "set the row length in tokens")
        if custom.trainer_variant == "stage2_ab_training" and self.stage2_ab is None:
            yield KeyProblem("stage2_ab", "is required by custom.trainer_variant: stage2_ab_training", "add the section with schedule.b_ratio")
