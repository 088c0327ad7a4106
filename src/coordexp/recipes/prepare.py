"""Annotations as they are found → record files that training and inference read: import, rescale, coordinate tokens, validate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.config.loading import Loaded
from coordexp.config.prepare import PrepareConfig, SplitSource
from coordexp.data.convert import to_tokens
from coordexp.data.importers.coco import import_coco
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.presets import RescalePreset, parse_preset
from coordexp.data.rescale import RescaleSummary, rescale_dataset
from coordexp.data.validate import ValidationReport, validate_file
from coordexp.geometry.bins import Rounding
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One split with what each step counted."""

    name: str
    path: Path
    """The record file in coordinate tokens."""
    imported: ImportSummary
    rescaled: RescaleSummary
    report: ValidationReport

    def sentence(self) -> str:
        """For people, with numbers."""
        return (
            f"{self.name}: {self.imported.num_images} images, {self.imported.num_objects} objects ({self.imported.num_lost} annotations left out,"
            f" {self.imported.num_clamped} clamped at the border), {self.rescaled.num_resized} images resized -> {self.path}"
        )


def run_prepare(loaded: Loaded[PrepareConfig], *, progress: Progress | None = None) -> tuple[PreparedSplit, ...]:
    """Prepare every split of the file.

    Raises:
        DataError: what the import, the rescale or the validation refuses.
        OutputError: the output folder cannot be written.
    """
    config = loaded.config
    progress = progress or NoProgress()
    preset = parse_preset(config.preset, min_blocks=config.min_blocks)
    sources = {"train": config.splits.train, "val": config.splits.val}
    return tuple(
        prepare_split(source, name=name, output=config.output, preset=preset, rounding=config.box_rounding, progress=progress)
        for name, source in sources.items()
        if source is not None
    )


def prepare_split(source: SplitSource, *, name: str, output: Path, preset: RescalePreset, rounding: Rounding, progress: Progress) -> PreparedSplit:
    """The four steps for one split."""
    pixels = output / "source" / f"{name}.jsonl"
    options = ImportOptions(geometry=source.geometry, skip_invalid=source.skip_invalid)
    imported = import_coco(source.instances, images=source.images, output=pixels, options=options, progress=progress)
    scaled = output / preset.name / f"{name}.jsonl"
    rescaled = rescale_dataset(pixels, scaled, preset=preset, progress=progress)
    tokens = scaled.with_name(f"{name}.coord.jsonl")
    records = progress.track(iter_records(scaled), "coordinate tokens", total=imported.num_images)
    write_records(tokens, (to_tokens(record, rounding=rounding) for record in records))
    report = validate_file(tokens, check_images=True, progress=progress)
    if not report.is_valid:
        raise DataError(report.summary(), fix=f"run 'coordexp data validate {tokens}' to list all")
    return PreparedSplit(name, tokens, imported, rescaled, report)
