"""What of the model a Stage-1 run trains, from the sections `tuner` and `custom.coord_offset`, and how its checkpoints and its `final` are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from coordexp.config.train import TrainConfig
from coordexp.models.adapter_files import CONFIG_NAME, AdapterBase, check_base, check_settings, check_weights, fingerprint_weights, save_adapter
from coordexp.models.adapters import AdapterSpec, LoraSpec, RowsSpec, add_adapter
from coordexp.models.export import save_checkpoint
from coordexp.models.load import LoadedModel
from coordexp.models.merge import merge_adapter
from coordexp.models.parts import PARTS, PartSize, freeze_parts, measure_parts
from coordexp.training.checkpoints import link_model
from coordexp.training.optimizer import PartRates
from coordexp.training.trainer import ModelWriter
from coordexp.types.errors import CheckpointError, ConfigError
from coordexp.types.files import atomic_folder
from coordexp.types.progress import Progress

ADAPTER_NAME = "final-adapter"

_BYTES_PER_WEIGHT = 4
"""float32; less when the checkpoint is smaller."""
_BYTES_PER_PARAMETER = 12
"""float32 weights and the two moments of the optimizer, in a checkpoint."""


@dataclass(frozen=True, slots=True)
class TunedAdapter:
    """An adapter in training, and what it lies on."""

    model: PeftModel
    base: AdapterBase


@dataclass(frozen=True, slots=True)
class Tuned:
    """The model as it is trained."""

    trained: nn.Module
    """What the trainer gets: the model itself, or the `PeftModel` around it."""
    sizes: tuple[PartSize, ...]
    adapter: TunedAdapter | None

    @property
    def num_total(self) -> int:
        return sum(size.total for size in self.sizes)

    @property
    def num_trainable(self) -> int:
        return sum(size.trainable for size in self.sizes)

    @property
    def disk_bytes(self) -> int:
        """What a checkpoint takes, and the merged model of an adapter."""
        if self.adapter is None:
            return _BYTES_PER_PARAMETER * self.num_total
        return _BYTES_PER_PARAMETER * self.num_trainable + _BYTES_PER_WEIGHT * self.num_total


def tune_model(config: TrainConfig, loaded: LoadedModel, *, resume: Path | None = None) -> Tuned:
    """Freeze parts, or put an adapter into the model; a checkpoint to resume from must hold the same kind.

    Raises:
        ConfigError: nothing is left to train, or the settings do not fit the model.
        CheckpointError: `resume` holds something else.
    """
    spec = adapter_spec(config, coord_ids=loaded.coord_vocab.ids)
    if resume is not None and (resume / CONFIG_NAME).is_file() != (spec is not None):
        what = "holds all weights" if spec is not None else "holds an adapter"
        raise CheckpointError(
            f"the checkpoint to resume {what}, and tuner.train_type is {config.tuner.train_type}", where=str(resume), fix="use the settings of its run"
        )
    if spec is None:
        tuned = Tuned(loaded.model, _freeze(config, loaded.model), None)
    else:
        adapted = add_adapter(loaded.model, spec, base=loaded.path, seed=config.training.seed)
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        base = AdapterBase(path=str(loaded.path.resolve()), fingerprint=fingerprint_weights(loaded.path), dtype=dtype)
        if resume is not None:
            check_base(resume, base)
            check_weights(adapted, resume)
            check_settings(adapted, resume)
        tuned = Tuned(adapted, measure_parts(adapted), TunedAdapter(adapted, base))
    _check_rates(config, tuned.sizes)
    return tuned


def preview_parts(config: TrainConfig, model: PreTrainedModel, *, coord_ids: tuple[int, ...], base: Path) -> tuple[PartSize, ...]:
    """What would be trained of a model, counted; the model, which may have no memory behind its weights, is changed.

    Raises:
        ConfigError: nothing is left to train, or the settings do not fit the model.
    """
    spec = adapter_spec(config, coord_ids=coord_ids)
    if spec is None:
        return _freeze(config, model)
    return measure_parts(add_adapter(model, spec, base=base, seed=config.training.seed))


def adapter_spec(config: TrainConfig, *, coord_ids: tuple[int, ...]) -> AdapterSpec | None:
    """None: all weights of the parts that are not frozen."""
    tuner, offset = config.tuner, config.custom.coord_offset
    rows = RowsSpec(coord_ids, tie_head=offset.tie_head) if offset.enabled else None
    if tuner.train_type != "lora":
        return None if rows is None else AdapterSpec(rows=rows)
    frozen = frozenset(part for part in PARTS if getattr(tuner, f"freeze_{part}"))
    lora = LoraSpec(
        rank=tuner.lora_rank,
        alpha=tuner.lora_alpha,
        dropout=tuner.lora_dropout,
        use_dora=tuner.use_dora,
        target_modules=tuner.target_modules,
        frozen_parts=frozen,
    )
    return AdapterSpec(lora=lora, rows=rows)


def part_rates(config: TrainConfig) -> PartRates | None:
    """None: one learning rate for all."""
    training = config.training
    return None if training.optimizer is None else PartRates(vit=training.vit_lr, aligner=training.aligner_lr)


def checkpoint_writer(loaded: LoadedModel, tuned: Tuned) -> ModelWriter:
    """Writes what a checkpoint holds: the adapter alone when one is trained, else the whole model."""
    adapter = tuned.adapter
    if adapter is None:
        return lambda folder, state: save_checkpoint(loaded, folder, state=state)
    return lambda folder, state: write_adapter(adapter, folder, state=state)


def write_adapter(adapter: TunedAdapter, dst: Path, *, state: Mapping[str, Tensor] | None = None) -> Path:
    """The adapter as a folder, replaced as a whole; `state` as in `save_adapter`."""
    with atomic_folder(dst) as folder:
        save_adapter(adapter.model, folder, base=adapter.base, state=state)
        for file in folder.iterdir():
            file.chmod(0o644)
    return dst


def write_final(checkpoint: Path, dst: Path, *, config: TrainConfig, progress: Progress) -> Path:
    """The model of a training checkpoint for inference; an adapter is merged, and kept beside as `final-adapter`."""
    if not (checkpoint / CONFIG_NAME).is_file():
        return link_model(checkpoint, dst)
    adapter = checkpoint if checkpoint.name == ADAPTER_NAME else link_model(checkpoint, dst.with_name(ADAPTER_NAME))
    merge_adapter(adapter, dst, base=Path(config.model.model))
    progress.say(f"merged the adapter {adapter} into {dst}")
    return dst


def describe_adapter(adapter: TunedAdapter | None) -> dict[str, Any] | None:
    """For run_metadata.json."""
    if adapter is None:
        return None
    settings = next(iter(adapter.model.peft_config.values())).to_dict()
    shown = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_dora", "target_modules")
    return {"base_fingerprint": adapter.base.fingerprint, **{name: _plain(settings[name]) for name in shown if name in settings}}


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    return value if isinstance(value, (int, float, list)) else str(getattr(value, "value", value))


def _freeze(config: TrainConfig, model: nn.Module) -> tuple[PartSize, ...]:
    tuner = config.tuner
    return freeze_parts(model, llm=tuner.freeze_llm, vit=tuner.freeze_vit, aligner=tuner.freeze_aligner)


def _check_rates(config: TrainConfig, sizes: tuple[PartSize, ...]) -> None:
    trained = {size.name for size in sizes if size.trainable}
    for part in ("vit", "aligner"):
        if getattr(config.training, f"{part}_lr") is not None and part not in trained:
            raise ConfigError(f"nothing of the {part} is trained", where=f"training.{part}_lr", fix=f"remove it, or tuner.freeze_{part}")
