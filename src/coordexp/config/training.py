"""Schema of the section `training`: names of Hugging Face TrainingArguments pass through, beside settings of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from coordexp.config.hf_arguments import HF_ARGUMENTS
from coordexp.config.sections import Count, FilePath, KeyProblem, NonNegative, Positive, PositiveNumber, Section, Seed, Share, Switch, Text, Whole

_KIND_TYPES: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "dict": (dict,), "list": (list, tuple)}
_KIND_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", "dict": "a section", "list": "a list"}

Strategy = Literal["no", "steps", "epoch"]


class TrainingSection(Section):
    """Declared here: what recipes read, what has a default of its own, and what is decisive. Every other name of TrainingArguments is checked and passed on."""

    model_config = ConfigDict(extra="allow")
    passthrough: ClassVar[frozenset[str]] = frozenset(HF_ARGUMENTS)
    ours: ClassVar[frozenset[str]] = frozenset(
        {
            "effective_batch_size",
            "packing",
            "packing_buffer",
            "packing_min_fill_ratio",
            "packing_drop_last",
            "eval_packing",
            "optimizer",
            "vit_lr",
            "aligner_lr",
            "save_delay_steps",
            "early_stopping_patience",
            "early_stopping_threshold",
            "max_cpu_seconds",
            "logging_dir",
        }
    )
    managed: ClassVar[frozenset[str]] = frozenset(
        {"do_train", "do_eval", "do_predict", "local_rank", "remove_unused_columns", "label_names", "auto_find_batch_size"}
    )
    """TrainingArguments that the trainer sets itself."""
    replaced: ClassVar[dict[str, str]] = {
        "evaluation_strategy": "write eval_strategy",
        "warmup_ratio": "write warmup_steps: a value below 1 is a share of all steps",
        "no_cuda": "write use_cpu",
        "group_by_length": "write train_sampling_strategy: group_by_length",
        "per_gpu_train_batch_size": "write per_device_train_batch_size",
        "overwrite_output_dir": "remove it: every run has a new folder",
    }

    output_dir: FilePath
    """Folder for runs: each makes `v<N>-<date>-<time>/<run_name>` in it. No default."""
    run_name: Text
    """Last part of the run folder. No default."""
    learning_rate: PositiveNumber
    """No default: it decides the experiment."""
    max_steps: Whole = -1
    """Optimizer steps; -1: `num_train_epochs` decides."""
    num_train_epochs: PositiveNumber | None = None
    """Used when `max_steps` is not given."""
    max_cpu_seconds: PositiveNumber | None = None
    """Training also ends after the step in which so many processor seconds are spent, evaluations and checkpoints not counted: for comparisons at equal
    compute, with a schedule that does not depend on the number of steps. absent: no limit."""
    per_device_train_batch_size: Positive = 1
    """Samples of one forward on one device."""
    per_device_eval_batch_size: Positive = 1
    """Samples of one forward in evaluation."""
    gradient_accumulation_steps: Positive | None = None
    """Derived from `effective_batch_size` when that is given; else 1."""
    effective_batch_size: Positive | None = None
    """Samples (with `packing`: rows) of one optimizer step over all devices; accumulation is derived (rounded up) and logged."""
    lr_scheduler_type: Text = "cosine"
    """A schedule of transformers."""
    warmup_steps: NonNegative = 0
    """Optimizer steps; a value below 1 is a share of all steps."""
    weight_decay: NonNegative = 0.0
    """Of the optimizer."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    seed: Seed = 42
    """Of data order, dropout and everything else that is random."""
    eval_strategy: Strategy = "no"
    """When to evaluate."""
    eval_steps: PositiveNumber | None = None
    """Optimizer steps between evaluations."""
    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    """When to write a checkpoint."""
    save_steps: PositiveNumber = 500
    """Optimizer steps between checkpoints."""
    save_total_limit: Positive | None = None
    """Older checkpoints beyond this number are deleted. absent: none is."""
    logging_steps: PositiveNumber = 10
    """Optimizer steps between log events."""
    resume_from_checkpoint: Text | bool | None = None
    """Folder of a checkpoint, or true for the newest one of this run's output_dir and run_name."""
    use_cpu: Switch = False
    """Train on the CPU even when there is a GPU."""
    bf16: Switch = False
    """Mixed precision with bfloat16."""
    fp16: Switch = False
    """Mixed precision with float16."""
    fsdp: Literal["full_shard", "shard_grad_op"] | None = None
    """FSDP2: weights, gradients and optimizer state split over the processes; with `shard_grad_op` weights stay whole between forward and backward."""
    dataloader_num_workers: Count = 0
    """Processes that prepare samples; 0: the main one."""
    logging_dir: FilePath | None = None
    """TensorBoard events; absent: `runs` inside the run folder."""

    packing: Switch = False
    """Join whole samples into rows of at most `global_max_length` tokens, without padding and without attention between them. A forward is one row, and an
    optimizer step `effective_batch_size` rows. Rows are planned anew for each epoch, from the lengths of all samples and the seed."""
    packing_buffer: Positive | None = None
    """Samples that the packer looks at together, in their shuffled order. absent: the whole epoch, and 1024 with `data.streaming`."""
    packing_min_fill_ratio: Share = 0.6
    """With `packing_buffer` or `data.streaming`: rows filled less wait for later samples, until the buffer holds nothing that fills a row better. With
    `packing_drop_last`: see there."""
    packing_drop_last: Switch = False
    """Plan an epoch with one row less when its least filled row holds less than `packing_min_fill_ratio`: other samples are left out in each epoch."""
    eval_packing: Switch = False
    """Pack in evaluation too: the whole validation set at once, every sample."""
    optimizer: Literal["multimodal"] | None = None
    """`multimodal`: learning rates by part of the model. Absent: the optimizer that `optim` names."""
    vit_lr: PositiveNumber | None = None
    """`multimodal` only: learning rate of the vision tower; absent: `learning_rate`."""
    aligner_lr: PositiveNumber | None = None
    """`multimodal` only: learning rate of the merger; absent: `learning_rate`."""
    save_delay_steps: Count = 0
    """No checkpoint before this step, and no evaluation before it counts as the best."""
    early_stopping_patience: Positive | None = None
    """Training ends after so many evaluations in a row without a better `metric_for_best_model` (`eval_loss` when absent). absent: it does not."""
    early_stopping_threshold: NonNegative = 0.0
    """A better value is one that is better by more than this."""

    @model_validator(mode="after")
    def _check_passthrough(self) -> TrainingSection:
        errors: list[InitErrorDetails] = []
        for name, expected in self.passthrough_problems(self.__pydantic_extra__ or {}):
            value = (self.__pydantic_extra__ or {})[name]
            kind = PydanticCustomError("passthrough", "expected {words}", {"words": expected}) if expected else "extra_forbidden"
            errors.append({"type": kind, "loc": (name,), "input": value})
        if errors:
            raise ValidationError.from_exception_data("training", errors)
        return self

    @classmethod
    def passthrough_problems(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
        """Names that are not declared here: (name, what was expected), or None for a name that TrainingArguments do not have either."""
        for name, value in values.items():
            if name in cls.model_fields:
                continue
            if name not in HF_ARGUMENTS:
                yield name, None
            elif not _is_of_kind(value, HF_ARGUMENTS[name]):
                yield name, " or ".join(_KIND_WORDS[kind] for kind in HF_ARGUMENTS[name])

    def hf_arguments(self) -> dict[str, Any]:
        """What goes to `TrainingArguments` by name: passed-through names and the declared ones that are theirs; nothing of ours, nothing that is None.

        Paths are text; the caller sets what depends on the run (output_dir, accumulation, evaluation).
        """
        values = self.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in values.items() if name not in self.ours}

    def problems(self) -> Iterator[KeyProblem]:
        """What is wrong between settings of this section."""
        if self.max_steps <= 0 and self.num_train_epochs is None:
            yield KeyProblem("training.max_steps", "the length of the training is missing", "set training.max_steps or training.num_train_epochs")
        if self.effective_batch_size is not None and self.gradient_accumulation_steps is not None:
            yield KeyProblem("training.gradient_accumulation_steps", "is derived from training.effective_batch_size", "give one of them")
        if self.eval_strategy == "steps" and self.eval_steps is None:
            yield KeyProblem("training.eval_steps", "is required when training.eval_strategy is steps", "set the number of steps between evaluations")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            yield KeyProblem("training.early_stopping_patience", "needs evaluations, and training.eval_strategy is 'no'", "set training.eval_strategy")
        if ((self.__pydantic_extra__ or {}).get("data_seed") or 0) < 0:
            yield KeyProblem("training.data_seed", "must be at least 0", "remove it: training.seed decides then")
        if self.fsdp is not None and self.fp16:
            yield KeyProblem("training.fp16", "is not tested with training.fsdp", "set training.bf16: true in its place")
        if self.bf16 and self.fp16:
            yield KeyProblem("training.fp16", "bf16 and fp16 are both true", "choose one")
        for name in sorted(name for name, value in (self.__pydantic_extra__ or {}).items() if name in self.managed and value is not None):
            yield KeyProblem(f"training.{name}", "is set by the trainer itself", "remove it")


def _is_of_kind(value: Any, kinds: tuple[str, ...]) -> bool:
    if value is None:
        return True
    if isinstance(value, bool):
        return "bool" in kinds
    return any(isinstance(value, _KIND_TYPES[kind]) for kind in kinds)
