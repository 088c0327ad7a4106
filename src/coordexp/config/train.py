"""Schema of a training file: every section, for Stage-1 and Stage-2 alike. `TrainConfig` is what recipes read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from coordexp.config.augmentation import AugmentationSection
from coordexp.config.rollout import RolloutMatchingSection
from coordexp.config.sections import (
    Count,
    FilePath,
    FileSection,
    GeometryKinds,
    KeyProblem,
    NonNegative,
    Number,
    Positive,
    PositiveNumber,
    Section,
    Switch,
    Text,
)
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.stage2_problems import stage2_problems
from coordexp.config.training import TrainingSection
from coordexp.config.unbuilt import TRAIN, Unbuilt


class ModelSection(Section):
    model: Text
    """Folder of the checkpoint. No default: it decides the experiment."""
    torch_dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Number format of the weights; `auto`: that of the checkpoint."""
    attn_impl: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Preferred attention implementation; one that is missing falls back with a notice."""
    quantization: Literal["4bit", "8bit"] | None = None
    """QLoRA: the frozen language model in 4 or 8 bits; needs bitsandbytes and an adapter. absent: as `torch_dtype` says."""


class TunerSection(Section):
    train_type: Literal["full", "lora"] = "full"
    """All weights of the parts that are not frozen, or a LoRA adapter on them."""
    use_dora: Switch = False
    """LoRA only: with a learned magnitude."""
    lora_rank: Positive = 16
    """LoRA only."""
    lora_alpha: PositiveNumber = 32.0
    """LoRA only: scale, relative to the rank."""
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """LoRA only; below 1, with which nothing would be learned."""
    target_modules: Annotated[tuple[Text, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """LoRA only: names of modules (`q_proj`), or every linear layer but the head. Frozen parts get none."""
    freeze_llm: Switch = False
    """Keep the language model as it is: no training, no LoRA."""
    freeze_vit: Switch = False
    """Keep the vision tower as it is."""
    freeze_aligner: Switch = False
    """Keep the merger between vision tower and language model as it is."""


class TemplateSection(Section):
    truncation_strategy: Literal["raise", "right"] = "raise"
    """What happens to a sample longer than `global_max_length`: an error, or a cut on the right."""
    max_pixels: Positive | None = None
    """Pixel limit of an image; a larger one is an error: rescale the data set first. absent: no limit."""
    min_pixels: Positive | None = None
    """A smaller image is an error. absent: no limit."""


class DataSection(Section):
    coord_space: Literal["pixel", "norm1000", "token"] | None = None
    """For data files that do not say in which space their coordinates are."""
    prompt_labels: Literal["none", "all", "gt", "gt+negatives"] = "none"
    """The category list in the prompt."""
    on_error: Literal["raise", "skip"] = "raise"
    """What happens to a record whose image cannot be read or is not as the record says: an error that names it, or it is left out, counted
    (`data/skipped_samples`) and named in run_summary.json."""
    geometry_kinds: GeometryKinds = ("bbox_2d",)
    """Kinds of geometry that the prompt asks for and the data may hold."""
    streaming: Switch = False
    """Read training records from the file as they are needed, in place of keeping and checking all of them before the first step: for files of millions of
    records. A record that is wrong stops the training when its turn comes."""


class CoordTokensSection(Section):
    enabled: Switch = True
    """true: coordinates are coordinate tokens; false: plain integers 0..999."""
    skip_bbox_norm: Switch = True
    """Bins in data files are taken as they are. (false would normalize them once more.)"""


class CoordSoftCEW1Section(Section):
    """Losses on coordinate slots; weights multiply means over slots."""

    enabled: Switch = True
    """false: coordinates count as ordinary tokens."""
    soft_ce_weight: NonNegative = 1.0
    """Of the cross-entropy with a Gaussian target."""
    w1_weight: NonNegative = 1.0
    """Of the distance between cumulative distributions."""
    ce_weight: NonNegative = 0.0
    """Of the plain cross-entropy over the 1,000 bins."""
    gate_weight: NonNegative = 1.0
    """Of keeping probability on coordinate tokens at all."""
    temperature: PositiveNumber = 1.0
    """Divides the logits in the gate."""
    target_sigma: PositiveNumber = 2.0
    """Standard deviation of the Gaussian target, in bins."""
    target_truncate: Positive = 16
    """The Gaussian target is cut at this distance, in bins, and renormalized."""


class CoordOffsetSection(Section):
    enabled: Switch = False
    """Of embedding and head, train the 1,000 coordinate rows. With `tuner.train_type: lora` beside the LoRA; with `full` nothing else is trained."""
    tie_head: Switch = True
    """true for a model that uses its embedding as head: one table of rows; false for a model with a head of its own: two."""


class TokenTypeMetricsSection(Section):
    enabled: Switch = True
    """Fractions and accuracies by token type, and the coordinate monitors."""


class EvalDetectionSection(Section):
    """Detection in each evaluation: greedy answers to a sample of the validation set, measured as `coordexp eval` does. Keys: `eval_det_*`."""

    enabled: Switch = False
    """Generate and measure; takes as long as inference on the sample."""
    limit: Count = 200
    """Records of the sample, spread evenly over the validation set, the same each time; 0: all."""
    max_new_tokens: Positive = 1024
    """Longest answer, in tokens."""
    batch_size: Positive = 8
    """Records that are generated together."""


class ExtraSection(Section):
    rollout_matching: RolloutMatchingSection | None = None
    """The same section as the top-level `rollout_matching`; only one of them may be given."""


class CustomSection(Section):
    trainer_variant: Literal["rollout_matching_sft", "stage2_ab_training"] | None = None
    """Absent: Stage-1."""
    train_jsonl: FilePath | None = None
    """Training file. Required, unless `fusion_config` is given."""
    val_jsonl: FilePath | None = None
    """Validation file. Required when training.eval_strategy is not `no`, unless a data set of `fusion_config` has one."""
    fusion_config: FilePath | None = None
    """File that mixes several data sets, in place of `train_jsonl`."""
    object_ordering: Literal["sorted", "random"] = "sorted"
    """Order of the objects in the target: top to bottom then left to right, or seeded by sample and epoch."""
    object_field_order: Literal["desc_first", "geometry_first"] = "desc_first"
    """Order of the fields of an object."""
    loss_impl: Literal["plain", "lean"] = "lean"
    """How losses read the output head: `lean` in chunks, never holding logits over the vocabulary; `plain` through all logits. Equal results."""
    coord_tokens: CoordTokensSection = Field(default_factory=CoordTokensSection)
    coord_soft_ce_w1: CoordSoftCEW1Section = Field(default_factory=CoordSoftCEW1Section)
    coord_offset: CoordOffsetSection = Field(default_factory=CoordOffsetSection)
    token_type_metrics: TokenTypeMetricsSection = Field(default_factory=TokenTypeMetricsSection)
    eval_detection: EvalDetectionSection = Field(default_factory=EvalDetectionSection)
    augmentation: AugmentationSection | None = None
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
    """Longest sequence in tokens: the row length when packing. absent: no limit."""

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
        yield from stage2_problems(self)
        if self.training.eval_strategy != "no" and custom.val_jsonl is None and custom.fusion_config is None:
            yield KeyProblem("custom.val_jsonl", "is required when training.eval_strategy is not 'no'", "name the validation file")
        yield from self._detection_problems()
        losses = custom.coord_soft_ce_w1
        if losses.enabled and not any((losses.soft_ce_weight, losses.w1_weight, losses.ce_weight, losses.gate_weight)):
            yield KeyProblem("custom.coord_soft_ce_w1", "all weights are 0", "give one of them a weight, or set enabled: false")
        yield from self._tuner_problems()
        if self.training.fsdp is not None:
            yield from self._sharding_problems()
        yield from self._packing_problems()

    def _packing_problems(self) -> Iterator[KeyProblem]:
        training = self.training
        for name, size in (("packing", "per_device_train_batch_size"), ("eval_packing", "per_device_eval_batch_size")):
            if not getattr(training, name):
                continue
            if self.global_max_length is None:
                yield KeyProblem("global_max_length", f"is required when training.{name} is true", "set the row length in tokens")
            if getattr(training, size) != 1:
                yield KeyProblem(f"training.{size}", f"is {getattr(training, size)}: with training.{name} a forward is one row", "set it to 1 or remove it")
        if self.data.streaming and training.packing and training.max_steps <= 0:
            what = "is required: how many rows a streamed set makes is not known before"
            yield KeyProblem("training.max_steps", what, "set it, or remove data.streaming")
        if self.data.streaming and self.custom.fusion_config is not None:
            yield KeyProblem("data.streaming", "works on one file, and custom.fusion_config mixes several", "remove one of them")

    @property
    def selects_by_detection(self) -> bool:
        """The best checkpoint is chosen by a number of `custom.eval_detection`."""
        metric = (self.training.model_extra or {}).get("metric_for_best_model") or ""
        return metric.removeprefix("eval_").startswith("det_")

    def _tuner_problems(self) -> Iterator[KeyProblem]:
        is_adapter = self.tuner.train_type == "lora" or self.custom.coord_offset.enabled
        if self.tuner.use_dora and self.tuner.train_type != "lora":
            yield KeyProblem("tuner.use_dora", "is a kind of LoRA, and tuner.train_type is full", "set tuner.train_type: lora")
        if self.model.quantization is not None and not is_adapter:
            yield KeyProblem("model.quantization", "freezes the weights, and tuner.train_type is full", "set tuner.train_type: lora")
        if self.custom.coord_offset.enabled and not self.custom.coord_tokens.enabled:
            what = "trains the rows of coordinate tokens, and custom.coord_tokens.enabled is false"
            yield KeyProblem("custom.coord_offset.enabled", what, "set one of them the other way")
        if self.training.optimizer is None:
            for name in ("vit_lr", "aligner_lr"):
                if getattr(self.training, name) is not None:
                    yield KeyProblem(f"training.{name}", "has no effect without training.optimizer: multimodal", "set it")

    def _sharding_problems(self) -> Iterator[KeyProblem]:
        if self.custom.trainer_variant is not None:
            what = "generates answers while it trains, which does not work with training.fsdp: processes would wait for each other"
            yield KeyProblem("custom.trainer_variant", what, "remove training.fsdp")
        if self.custom.eval_detection.enabled:
            what = "does not work with training.fsdp: processes generate answers of different lengths, and each step needs all of them"
            yield KeyProblem("custom.eval_detection.enabled", what, "set it to false, and run coordexp infer on a checkpoint")
        if self.custom.coord_offset.enabled:
            what = "does not work with training.fsdp: single rows of a table that is split over processes cannot be trained"
            yield KeyProblem("custom.coord_offset.enabled", what, "set it to false, or remove training.fsdp")
        if self.model.quantization is not None:
            yield KeyProblem("model.quantization", "is not tested with training.fsdp", "remove one of them")

    def _detection_problems(self) -> Iterator[KeyProblem]:
        if self.custom.eval_detection.enabled and self.training.eval_strategy == "no":
            yield KeyProblem("custom.eval_detection.enabled", "needs evaluations, and training.eval_strategy is 'no'", "set training.eval_strategy")
        if self.selects_by_detection and not self.custom.eval_detection.enabled:
            what = "is a number of detection in evaluation, which is off"
            yield KeyProblem("training.metric_for_best_model", what, "set custom.eval_detection.enabled: true")
