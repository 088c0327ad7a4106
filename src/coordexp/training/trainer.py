"""The one subclass of `transformers.Trainer`: one Trainer step = one optimizer step over a list of packs.

Trainer's own accumulation stays at 1. The packs are looped here, without gradient exchange on all but the last, and every term is divided by its
denominator over the whole step and all ranks, so the result does not depend on how samples are spread over packs, steps of accumulation and devices.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from coordexp.batching.collate import PackBatch
from coordexp.metrics.fold import MetricFold
from coordexp.metrics.registry import REGISTRY
from coordexp.training.guards import refuse_cache_in_training
from coordexp.training.objective import PER_STEP_KEYS, Objective, PackLoss, StepFacts
from coordexp.training.optimizer import PartRates, parameter_groups
from coordexp.training.ranks import gather_objects
from coordexp.training.sharding import check_sharded, force_sharding, gather_weights, save_optimizer
from coordexp.types.errors import ConfigError, UserError
from coordexp.types.files import translate_os_errors
from coordexp.types.metrics import Metric

_TINY = 1e-8
"""Denominator of a term that has no position in the whole step: its sum is 0."""
_MAX_HISTORY = 1000
"""Entries of `log_history`, which memory and the `trainer_state.json` of every checkpoint hold: all of a long run would be gigabytes."""


ModelWriter: TypeAlias = Callable[[Path, Mapping[str, Tensor] | None], object]


class TrainLoader(Protocol):
    """What the trainer pulls from, once per optimizer step."""

    @property
    def packs_per_step(self) -> int: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[PackBatch, ...]]: ...


class EvalPacks(Protocol):
    """The evaluation set of this rank, in packs, encoded anew or kept at each pass; every rank yields equally many."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[PackBatch]: ...


class StepTrainer(Trainer):
    """Turns the crank: targets were decided before, losses are executed by the objective."""

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        objective: Objective,
        write_model: ModelWriter,
        eval_packs: EvalPacks | None = None,
        detect: Callable[[], Mapping[str, float]] | None = None,
        step_metrics: Callable[[], Mapping[str, Metric]] | None = None,
        part_rates: PartRates | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        save_delay_steps: int = 0,
    ) -> None:
        """`loader` is set after construction: it reads the step from this trainer's state.

        write_model: writes a folder that opens as a checkpoint of its own; it gets the weights by name when they are split over processes.
        detect: further numbers of an evaluation, by key without the prefix; called on every rank, the same numbers on all.
        step_metrics: what was measured while the packs of a step were made; read once a step.
        part_rates: learning rates by part of the model; None: one for all.
        save_delay_steps: evaluations before this step do not count as the best: there is no checkpoint of them.
        """
        if args.gradient_accumulation_steps != 1:
            raise ValueError("gradient_accumulation_steps must be 1: the packs of a step are looped inside it")
        # Trainer asks for an evaluation set where `detect` alone evaluates too
        evaluates: Any = eval_packs if eval_packs is not None else () if detect is not None else None
        super().__init__(model=model, args=args, eval_dataset=evaluates, callbacks=list(callbacks))
        # it prints every event; ours go to the log file and the progress display
        self.remove_callback(PrinterCallback)
        refuse_cache_in_training(model)
        self.loader: TrainLoader | None = None
        self._objective = objective
        self._write_model = write_model
        self._eval_packs = eval_packs
        self._detect = detect
        self._step_metrics = step_metrics
        self._part_rates = part_rates
        self._save_delay_steps = save_delay_steps
        self._fold = MetricFold()
        self._begun = time.perf_counter()
        self._num_parameters = sum(parameter.numel() for parameter in model.parameters())

    @property
    def next_step(self) -> int:
        """The 0-based optimizer step that comes next."""
        return self.state.global_step

    def get_train_dataloader(self) -> Any:
        """Our own loader, not wrapped: it knows its rank and its position."""
        assert self.loader is not None, "set loader before train()"
        return self.loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, with learning rates by part of the model when the run has some.

        Raises:
            ConfigError: the optimizer makes its own parameter groups.
        """
        if self._part_rates is not None and self.optimizer is None:
            trained: Any = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
            if not isinstance(optimizer_class, type) or settings.keys() & {"params", "model", "optimizer_dict"}:
                what = f"{self.args.optim} makes its own parameter groups"
                raise ConfigError(what, where="training.optim", fix="use another one, or remove training.optimizer: multimodal")
            groups = parameter_groups(
                trained,
                rates=self._part_rates,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(trained),
            )
            self.optimizer = optimizer_class(groups, **settings)
        return super().create_optimizer(model)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], None]:
        """At most one step; none when a resumed epoch ends before Trainer's count of it."""
        packs = next(epoch_iterator, None)
        return ([packs] if packs is not None else []), None

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over all packs of an optimizer step.

        Returns:
            This rank's share of the loss times the number of ranks: Trainer logs the mean over ranks.

        Raises:
            UserError: the loss is not finite; training stops before the update.
        """
        if self.is_fsdp_enabled:
            check_sharded(self.accelerator, model)
        model.train()
        packs: Sequence[PackBatch] = [batch.to(self.args.device) for batch in inputs]
        denominators = self._reduce(sum(self._objective.denominators(batch) for batch in packs)).clamp_min(_TINY)  # pyright: ignore[reportArgumentType]
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        terms = torch.zeros_like(denominators)
        start = time.perf_counter()
        for number, batch in enumerate(packs):
            is_last = number == len(packs) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                result = self._forward(model, batch, denominators)
                loss = (result.sums / denominators.to(result.sums.dtype)).sum() * self.args.world_size
                self.accelerator.backward(loss)
            total += loss.detach()
            terms += result.sums.detach() / denominators
            self._fold.update(result.metrics)
        self._check_finite(total, packs)
        facts = StepFacts(
            terms=terms,
            num_packs=len(packs),
            packs_planned=self.loader.packs_per_step if self.loader is not None else len(packs),
            world_size=self.args.world_size,
            forward_s=time.perf_counter() - start,
        )
        self._fold.update(self._objective.describe_step(packs[0], facts))
        self._fold.add("data/skipped_samples", total=sum(batch.num_skipped for batch in packs))
        if self._step_metrics is not None:
            self._fold.update(self._step_metrics())
        return total.float()

    def _forward(self, model: nn.Module, batch: PackBatch, denominators: Tensor | None = None) -> PackLoss:
        with self.compute_loss_context_manager():
            return self._objective.run(model, batch, denominators=denominators)

    def _reduce(self, values: Any) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum") if self.args.world_size > 1 else values  # pyright: ignore[reportReturnType]

    def _check_finite(self, loss: Tensor, packs: Sequence[PackBatch]) -> None:
        if torch.isfinite(loss):
            return
        samples = [sample for batch in packs for sample in batch.extra("sample_ids", reader="StepTrainer")]
        shown = ", ".join(samples[:8]) + (" …" if len(samples) > 8 else "")
        raise UserError(
            f"the loss of step {self.next_step + 1} is {loss.item()} (samples {shown})",
            fix="lower the learning rate, raise warmup_steps, or train in float32 or bfloat16",
        )

    def floating_point_ops(self, inputs: Any) -> int:
        """6 operations for each parameter and token, forward and backward."""
        return 6 * self._num_parameters * sum(batch.model_inputs["input_ids"].numel() for batch in inputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was folded since the last event to a training event."""
        if "loss" in logs:
            logs = {**logs, **self._gather(self._fold).values()}
            self._fold = MetricFold()
        super().log(self._measured(logs) if "train_runtime" in logs else logs, start_time)
        # logging.jsonl has them all
        del self.state.log_history[:-_MAX_HISTORY]

    def _measured(self, logs: dict[str, float]) -> dict[str, float]:
        """Trainer takes the time of a training from the clock of the day, which can be set back meanwhile: ours cannot."""
        seconds = time.perf_counter() - self._begun
        speeds = {key: logs[key] * logs["train_runtime"] / seconds for key in ("train_samples_per_second", "train_steps_per_second") if key in logs}
        return logs | {"train_runtime": seconds} | speeds

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss and metrics on the evaluation packs, by the same objective and denominators: `eval_loss` compares with `loss`; and what `detect` finds."""
        assert self._eval_packs is not None or self._detect is not None, "evaluation needs eval_packs or detect"
        start = time.perf_counter()
        values = self._evaluate_packs(self._eval_packs) if self._eval_packs is not None else {}
        values |= self._detect() if self._detect is not None else {}
        values.setdefault("runtime", time.perf_counter() - start)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_packs(self, packs: EvalPacks) -> dict[str, float]:
        start = time.perf_counter()
        was_training = self._model.training
        self._model.eval()
        loss, fold, num_samples = self._measure(packs)
        self._model.train(was_training)
        seconds = time.perf_counter() - start
        speed = {"samples_per_second": num_samples / seconds, "steps_per_second": len(packs) / seconds}
        return {"loss": loss, **self._gather(fold).values(), "runtime": seconds} | speed

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        return self.state.global_step >= self._save_delay_steps and super()._determine_best_metric(metrics, trial)

    @torch.no_grad()
    def _measure(self, batches: Iterable[PackBatch]) -> tuple[float, MetricFold, int]:
        """(loss over all ranks, metrics of this rank, samples over all ranks)."""
        fold, num_samples = MetricFold(), 0
        parts: list[Tensor] = []
        for batch in batches:
            batch = batch.to(self.args.device)
            result = self._forward(self._model, batch)
            fold.add("data/skipped_samples", total=batch.num_skipped)
            # a rank may have fillers only
            part = torch.stack((result.sums.double(), self._objective.denominators(batch)))
            parts.append(torch.zeros_like(part) if batch.is_filler else part)
            if not batch.is_filler:
                num_samples += batch.extra("pack_num_samples", reader="StepTrainer")
                fold.update({key: metric for key, metric in result.metrics.items() if REGISTRY.get(key).in_eval})
        for key in PER_STEP_KEYS:
            fold.add(key, total=0.0, count=1.0 / self.args.world_size)
        sums, denominators = self._reduce(torch.stack(parts).sum(0))
        total = self._reduce(torch.tensor(float(num_samples), device=self.args.device))
        return (sums / denominators.clamp_min(_TINY)).sum().item(), fold, int(total)

    @property
    def _model(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _gather(self, fold: MetricFold) -> MetricFold:
        """The fold of all ranks together."""
        merged = MetricFold()
        for snapshot in gather_objects(fold.snapshot(), world_size=self.args.world_size):
            merged.update(snapshot)
        return merged

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A folder that opens as a checkpoint of its own: weights in safetensors, configuration, tokenizer, image settings. Every rank must call it."""
        state = gather_weights(self.accelerator, self._model) if self.is_fsdp_enabled else None
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)  # pyright: ignore[reportArgumentType]
            with translate_os_errors(folder):
                self._write_model(folder, state)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            force_sharding(self.accelerator, FullyShardedDataParallelPlugin(**dict[str, Any](self.args.fsdp_plugin_args or {})))
            self.is_fsdp_enabled = True

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer does it; the weights of a checkpoint are read before the model is split over processes."""
        self._begun = time.perf_counter()
        if self.is_fsdp_enabled and isinstance(resume_from_checkpoint, str):
            self.is_fsdp_enabled = False
            super()._load_from_checkpoint(resume_from_checkpoint)
            self.is_fsdp_enabled = True
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # `final` is made from the folder of the best checkpoint; split weights need not be read again
        if not self.is_fsdp_enabled:
            super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        schedule: Any = self.lr_scheduler
        save_optimizer(self.accelerator, self.optimizer, self._model, Path(output_dir))
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir) / "scheduler.pt")
