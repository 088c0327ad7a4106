"""The data of a Stage-1 run: record files, one or a mixture, to sources of samples, as the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordexp.batching.prompt import PromptEncoder
from coordexp.config.fusion import FusionConfig, FusionDataset
from coordexp.config.loading import Loaded, load_config
from coordexp.config.train import TrainConfig
from coordexp.data.augmentation import Augmentation, Colour, Crop, ZoomOut
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.data.mixture import Mixture, Pool
from coordexp.data.record_file import RecordFile
from coordexp.models.load import LoadedModel
from coordexp.training.joined import JoinedSource, SampleSource
from coordexp.training.samples import DEFAULT_CACHE_BYTES, SampleSettings, SegmentSource
from coordexp.types.errors import ConfigError, DataError
from coordexp.types.files import file_sha256
from coordexp.types.records import Record


@dataclass(frozen=True, slots=True)
class DataFile:
    """One record file, read."""

    name: str
    path: Path
    records: Sequence[Record]
    dataset: FusionDataset | None = None
    """Its entry in the fusion file."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads."""

    train: tuple[DataFile, ...]
    val: tuple[DataFile, ...]
    """Empty without evaluation."""
    fusion: Loaded[FusionConfig] | None = None
    mixture: Mixture | None = None


def read_data(config: TrainConfig) -> RunData:
    """All records of a run, in bins.

    Raises:
        UserError: a broken or empty file, bins that would be normalized once more, a fusion file that cannot be used. With `data.streaming` a broken training
            record raises when it is read.
    """
    custom, needs_val = config.custom, config.training.eval_strategy != "no"
    if custom.fusion_config is None:
        train = (_read(config, custom.train_jsonl, limit=custom.train_sample_limit, streaming=config.data.streaming),)
        return RunData(train, (_read(config, custom.val_jsonl, limit=custom.val_sample_limit),) if needs_val else ())
    fusion = load_config(custom.fusion_config, FusionConfig)
    datasets = fusion.config.datasets
    train = tuple(_read(config, item.train_jsonl, limit=custom.train_sample_limit, dataset=item) for item in datasets)
    val: tuple[DataFile, ...] = ()
    if needs_val and custom.val_jsonl is not None:
        val = (_read(config, custom.val_jsonl, limit=custom.val_sample_limit),)
    elif needs_val:
        val = tuple(_read(config, item.val_jsonl, limit=custom.val_sample_limit, dataset=item) for item in datasets if item.val_jsonl is not None)
        if not val:
            what = "no data set has a val_jsonl, and training.eval_strategy asks for evaluations"
            raise ConfigError(what, where=str(fusion.path), fix="give one a val_jsonl")
    pools = [
        Pool(item.name, len(file.records), ratio=item.ratio, with_replacement=not item.sample_without_replacement)
        for item, file in zip(datasets, train, strict=True)
    ]
    if not any(pool.quota for pool in pools):
        raise ConfigError("an epoch of this mixture holds no sample", where=str(fusion.path), fix="raise a ratio")
    return RunData(train, val, fusion, Mixture(pools, seed=data_seed(config)))


def build_sources(config: TrainConfig, model: LoadedModel, data: RunData) -> tuple[SampleSource, SampleSource | None]:
    """(training samples, evaluation samples); pictures are augmented and objects limited in training only."""
    encoder = PromptEncoder(model.processor)
    labels = {file.name: _categories(config, file) for file in data.train}
    everything = sorted({label for own in labels.values() for label in own})

    def build(file: DataFile, *, is_training: bool) -> SegmentSource:
        return SegmentSource(
            file.records,
            image_root=file.path.parent,
            encoder=encoder,
            tokenizer=model.tokenizer,  # pyright: ignore[reportArgumentType]
            coord_vocab=model.coord_vocab,
            settings=_sample_settings(config, file.dataset, is_training=is_training),
            labels=everything if file.dataset is None else labels[file.name],
            cache_bytes=DEFAULT_CACHE_BYTES // len(data.train if is_training else data.val),
        )

    train = _join([build(file, is_training=True) for file in data.train], data.train)
    return train, _join([build(file, is_training=False) for file in data.val], data.val) if data.val else None


def data_facts(data: RunData, train: SampleSource, val: SampleSource | None) -> dict[str, Any]:
    """For `run_metadata.json`: which bytes are trained and evaluated on."""
    facts: dict[str, Any] = {"train": _split_facts(data.train, train)}
    if val is not None:
        facts["val"] = _split_facts(data.val, val)
    if data.fusion is not None and data.mixture is not None:
        facts["train"] |= {"fusion_config": str(data.fusion.path), "samples_per_epoch": len(data.mixture)}
        for entry, pool in zip(facts["train"]["datasets"], data.mixture.pools, strict=True):
            entry |= {"ratio": pool.ratio, "with_replacement": pool.with_replacement, "samples_per_epoch": pool.quota}
    return facts


def describe_data(data: RunData) -> list[str]:
    """Sentences for the start of a run; none for a single data set."""
    if data.mixture is None:
        return []
    parts = ", ".join(f"{pool.name} {pool.quota} of {pool.size}" for pool in data.mixture.pools)
    said = [f"an epoch mixes {len(data.mixture)} samples: {parts}"]
    for file in data.train:
        most = file.dataset.max_objects_per_image if file.dataset is not None else None
        over = 0 if most is None else sum(len(record.objects) > most for record in file.records)
        if over:
            said.append(f"{file.name}: {over} of {len(file.records)} records hold more than {most} objects, of which {most} are drawn in each epoch")
    return said


def build_augmentation(config: TrainConfig) -> Augmentation | None:
    """What may happen to training pictures; None: nothing."""
    section = config.custom.augmentation
    if section is None:
        return None
    crop, zoom, colour = section.crop, section.zoom_out, section.colour
    return Augmentation(
        hflip=section.hflip,
        vflip=section.vflip,
        crop=None if crop is None else Crop(**crop.model_dump()),
        zoom_out=None if zoom is None else ZoomOut(probability=zoom.probability, min_scale=zoom.min_scale, fill=(zoom.fill[0], zoom.fill[1], zoom.fill[2])),
        colour=None if colour is None else Colour(**colour.model_dump()),
        min_visible=section.min_visible,
    )


def data_seed(config: TrainConfig) -> int:
    """Of data order and everything that is drawn for a sample."""
    seed = extra_setting(config, "data_seed", None)
    return config.training.seed if seed is None else int(seed)


def extra_setting(config: TrainConfig, name: str, default: Any) -> Any:
    """A passed-through training setting that the recipe reads."""
    return (config.training.model_extra or {}).get(name, default)


def _read(config: TrainConfig, path: Path | None, *, limit: int, dataset: FusionDataset | None = None, streaming: bool = False) -> DataFile:
    """With `streaming` each record is read when it is asked for."""
    assert path is not None, "the configuration requires it"
    name = path.stem if dataset is None else dataset.name
    space = (dataset.coord_space if dataset is not None else None) or config.data.coord_space
    # files of several data sets often have the same name: their records must not
    prefix, takes_bins = "" if dataset is None else f"{name}/", config.custom.coord_tokens.skip_bbox_norm

    def convert(record: Record) -> Record:
        if not takes_bins and record.coord_space != "pixel":
            what = f"{path} already holds bins, which would be normalized once more"
            raise ConfigError(what, where="custom.coord_tokens.skip_bbox_norm", fix="remove it or set it to true")
        return replace(to_norm1000(record), id=prefix + record.id)

    if streaming:
        records: Sequence[Record] = RecordFile(path, coord_space=space, limit=limit, dataset=name, convert=convert)
    else:
        records = [convert(record) for record in read_records(path, coord_space=space, limit=limit, dataset=name)]
    if not records:
        raise DataError("there are no records", where=str(path), fix="check the file")
    return DataFile(name, path, records, dataset)


def _categories(config: TrainConfig, file: DataFile) -> list[str]:
    """All categories of a set, when prompts need them: that takes a pass over a streamed file."""
    wanted = (file.dataset.prompt_labels if file.dataset is not None else None) or config.data.prompt_labels
    if wanted not in ("all", "gt+negatives"):
        return []
    return sorted({item.desc for record in file.records for item in record.objects})


def _sample_settings(config: TrainConfig, dataset: FusionDataset | None, *, is_training: bool) -> SampleSettings:
    custom, data, template = config.custom, config.data, config.template
    settings = SampleSettings(
        ordering=custom.object_ordering,
        field_order=custom.object_field_order,
        coord_mode="coord" if custom.coord_tokens.enabled else "text",
        kinds=data.geometry_kinds,
        prompt_labels=data.prompt_labels,
        max_length=config.global_max_length,
        truncation=template.truncation_strategy,
        min_pixels=template.min_pixels,
        max_pixels=template.max_pixels,
        seed=data_seed(config),
        augmentation=build_augmentation(config) if is_training else None,
    )
    if dataset is None:
        return settings
    return replace(
        settings,
        ordering=dataset.object_ordering or settings.ordering,
        field_order=dataset.object_field_order or settings.field_order,
        kinds=dataset.geometry_kinds or settings.kinds,
        prompt_labels=dataset.prompt_labels or settings.prompt_labels,
        max_objects=dataset.max_objects_per_image if is_training else None,
    )


def _join(sources: Sequence[SegmentSource], files: Sequence[DataFile]) -> SampleSource:
    return sources[0] if len(sources) == 1 else JoinedSource({file.name: source for file, source in zip(files, sources, strict=True)})


def _split_facts(files: Sequence[DataFile], source: SampleSource) -> dict[str, Any]:
    entries = [{"path": str(file.path), "sha256": file_sha256(file.path), "records": len(file.records)} for file in files]
    if len(files) == 1 and files[0].dataset is None:
        return entries[0]
    datasets = []
    for file, entry in zip(files, entries, strict=True):
        prompt = source.prompt(file.records[0], epoch=0)
        datasets.append({"name": file.name, **entry, "prompt": {"system": prompt.system, "user": prompt.user}})
    return {"records": len(source), "datasets": datasets}
