"""The data of a Stage-1 run: record files to sources of samples, as the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordexp.batching.prompt import PromptEncoder
from coordexp.config.train import TrainConfig
from coordexp.data.augmentation import Augmentation, Colour, Crop, ZoomOut
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.data.record_file import RecordFile
from coordexp.models.load import LoadedModel
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import ConfigError, DataError
from coordexp.types.records import Record


def read_split(config: TrainConfig, path: Path | None, *, limit: int, streaming: bool = False) -> Sequence[Record]:
    """The records of a file, in bins; with `streaming` each is read when it is asked for.

    Raises:
        UserError: a broken or empty file, or bins that would be normalized once more. With `streaming` a broken record raises when it is read.
    """
    assert path is not None, "the configuration requires it"
    takes_bins = config.custom.coord_tokens.skip_bbox_norm

    def convert(record: Record) -> Record:
        if not takes_bins and record.coord_space != "pixel":
            what = f"{path} already holds bins, which would be normalized once more"
            raise ConfigError(what, where="custom.coord_tokens.skip_bbox_norm", fix="remove it or set it to true")
        return to_norm1000(record)

    if streaming:
        records: Sequence[Record] = RecordFile(path, coord_space=config.data.coord_space, limit=limit, dataset=path.stem, convert=convert)
    else:
        records = [convert(record) for record in read_records(path, coord_space=config.data.coord_space, limit=limit, dataset=path.stem)]
    if not records:
        raise DataError("there are no records", where=str(path), fix="check the file")
    return records


def prompt_categories(config: TrainConfig, records: Sequence[Record]) -> list[str]:
    """All categories of a set, when prompts need them: that takes a pass over a streamed file."""
    if config.data.prompt_labels not in ("all", "gt+negatives"):
        return []
    return sorted({item.desc for record in records for item in record.objects})


def build_source(
    config: TrainConfig, model: LoadedModel, records: Sequence[Record], path: Path | None, labels: Sequence[str], *, is_training: bool = False
) -> SegmentSource:
    """Encodes records of the file `path`; pictures are augmented in training only."""
    assert path is not None, "the configuration requires it"
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
    return SegmentSource(
        records,
        image_root=path.parent,
        encoder=PromptEncoder(model.processor),
        tokenizer=model.tokenizer,  # pyright: ignore[reportArgumentType]
        coord_vocab=model.coord_vocab,
        settings=settings,
        labels=labels,
    )


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
