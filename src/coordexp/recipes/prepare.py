"""Annotations as they are found → record files that training and inference read: import, rescale, filter, coordinate tokens, validate.

Each step is done once: what its settings and the bytes that it reads say already is reused. `val` comes first, so that `train` can be kept apart from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordexp.config.loading import Loaded
from coordexp.config.prepare import PrepareConfig, SplitSource
from coordexp.data.cards import write_card
from coordexp.data.convert import convert_file, converted_path
from coordexp.data.filtering import FilterSettings, filter_file, filtered_path
from coordexp.data.image_files import no_empty_folders
from coordexp.data.importers.run import import_source
from coordexp.data.presets import RescalePreset, parse_preset
from coordexp.data.rescale import rescale_dataset
from coordexp.data.validate import validate_file
from coordexp.pipeline.steps import StepChain
from coordexp.recipes.prepare_sources import import_options, open_source, source_stamp, tree_stamp
from coordexp.types.errors import DataError
from coordexp.types.files import claim, file_sha256, translate_os_errors
from coordexp.types.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class DoneStep:
    """Example: `DoneStep("rescale", Path("out/rescale_32_768/train.jsonl"), "20 images, …", is_reused=False)`"""

    name: str
    output: Path
    sentence: str
    is_reused: bool


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One split with what each step counted."""

    name: str
    path: Path
    """The record file in coordinate tokens."""
    num_images: int
    num_objects: int
    steps: tuple[DoneStep, ...]

    def sentence(self) -> str:
        """For people, with numbers: a line for the split and one for each step."""
        lines = [f"  {step.name}: {step.sentence}{' (unchanged, reused)' if step.is_reused else ''}" for step in self.steps]
        return "\n".join([f"{self.name}: {self.num_images} images, {self.num_objects} objects -> {self.path}", *lines])


@dataclass(slots=True)
class _Chain:
    """The steps of one split, each from the output of the one before."""

    steps: StepChain
    command: str
    sources: tuple[Path, ...]
    workers: int
    done: list[DoneStep]

    def run(self, name: str, output: Path, *, settings: dict[str, Any], work: Callable[[], str], images: Path | None = None, key: str) -> dict[str, Any]:
        """Do a step unless it is done; `work` makes `output` and says what it counted; `images` is the folder of images that it makes too."""

        def measure() -> dict[str, Any]:
            return {"sha256": file_sha256(output), "images": tree_stamp(images) if images is not None and images.is_dir() else ""}

        def make() -> dict[str, Any]:
            sentence = work()
            before = self.done[-1].output if self.done else None
            sources = self.sources if before is None else [before]
            write_card(output, command=f"{self.command} ({name})", sentence=sentence, sources=sources, workers=self.workers)
            return {"sentence": sentence, **measure()}

        def is_current(result: dict[str, Any]) -> bool:
            return all(result[name] == value for name, value in measure().items())

        record = self.steps.run(f"{key}/{name}", settings=settings, outputs=[output], work=make, check=is_current)
        self.done.append(DoneStep(name, output, record.result["sentence"], record.is_reused))
        return record.result


def run_prepare(loaded: Loaded[PrepareConfig], *, command: str | None = None, progress: Progress | None = None) -> tuple[PreparedSplit, ...]:
    """Prepare every split of the file.

    Args:
        loaded: the preparation.
        command: what the cards name as the command; by default that of the file without overrides.
        progress: shows the long loops.

    Raises:
        DataError: what the import, the rescale, the filter or the validation refuses.
        OutputError: the output folder cannot be written.
    """
    config = loaded.config
    preset = parse_preset(config.preset, min_blocks=config.min_blocks)
    said = command or f"coordexp data prepare {loaded.path or ''}".strip()
    progress = progress or NoProgress()
    prepared: dict[str, PreparedSplit] = {}
    with no_empty_folders(config.output), translate_os_errors(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        with claim(config.output, who="preparation", fix="wait for it, or choose another output folder"):
            for name, source in (("val", config.splits.val), ("train", config.splits.train)):
                if source is not None:
                    against = _filtered(prepared["val"]) if name == "train" and "val" in prepared and _keeps_apart(config) else None
                    prepared[name] = _prepare_split(source, name=name, config=config, preset=preset, against=against, command=said, progress=progress)
    return tuple(prepared[name] for name in ("train", "val") if name in prepared)


def _filtered(split: PreparedSplit) -> Path:
    return next(step.output for step in split.steps if step.name == "filter")


def _keeps_apart(config: PrepareConfig) -> bool:
    return config.filter is not None and config.filter.duplicates is not None and config.filter.against_val


def _prepare_split(
    source: SplitSource, *, name: str, config: PrepareConfig, preset: RescalePreset, against: Path | None, command: str, progress: Progress
) -> PreparedSplit:
    options = import_options(source, max_objects=preset.max_objects)
    opened = open_source(source, name=name)
    chain = _Chain(StepChain(config.output / ".steps" / name), command, opened.inputs or (source.instances,), config.workers, [])
    pixels = config.output / "source" / f"{name}.jsonl"
    settings = {"source": source.model_dump(mode="json"), "options": asdict(options), "files": source_stamp(source, opened, output=config.output)}
    chain.run(
        "import",
        pixels,
        settings=settings,
        work=lambda: import_source(opened, output=pixels, options=options, workers=config.workers, progress=progress).sentence(),
        images=pixels.parent / "images" / name,
        key="source",
    )
    scaled = config.output / preset.name / f"{name}.jsonl"
    chain.run(
        "rescale",
        scaled,
        settings={"preset": asdict(preset)},
        work=lambda: rescale_dataset(pixels, scaled, preset=preset, workers=config.workers, progress=progress).sentence(),
        images=scaled.parent / "images" / name,
        key=preset.name,
    )
    kept = _filter(chain, scaled, config, against=against, key=preset.name, progress=progress)
    tokens = converted_path(kept, "token")
    chain.run(
        "coord",
        tokens,
        settings={"rounding": config.box_rounding, "source": file_sha256(kept)},
        work=lambda: convert_file(kept, to="token", rounding=config.box_rounding, workers=config.workers, progress=progress).sentence(),
        key=preset.name,
    )
    return _validate(chain, tokens, name=name, key=preset.name, progress=progress)


def _filter(chain: _Chain, scaled: Path, config: PrepareConfig, *, against: Path | None, key: str, progress: Progress) -> Path:
    """The file that goes on: `scaled` itself without a filter."""
    section = config.filter
    if section is None:
        return scaled
    settings = FilterSettings(
        min_objects=section.min_objects,
        max_label_share=section.max_label_share,
        share_from=section.share_from,
        duplicates=section.duplicates,
        against=() if against is None else (against,),
    )
    output = filtered_path(scaled, settings)
    earlier = "" if against is None else file_sha256(against) + tree_stamp(against.parent / "images" / "val")  # another picture may have the same record
    chain.run(
        "filter",
        output,
        settings={**asdict(settings), "against": earlier, "source": file_sha256(scaled)},
        work=lambda: filter_file(scaled, settings, output=output, workers=config.workers, progress=progress).sentence(),
        key=key,
    )
    return output


def _validate(chain: _Chain, tokens: Path, *, name: str, key: str, progress: Progress) -> PreparedSplit:
    def work() -> str:
        report = validate_file(tokens, check_images=True, workers=chain.workers, progress=progress)
        if not report.is_valid:
            raise DataError(report.summary(), fix=f"run 'coordexp data validate {tokens}' to list all")
        return f"{report.num_records} records, {report.num_objects} objects, no errors"

    result = chain.run("validate", tokens, settings={"source": file_sha256(tokens)}, work=work, key=key)
    num_images, num_objects = (int(part.split()[0]) for part in result["sentence"].split(", ")[:2])
    return PreparedSplit(name, tokens, num_images, num_objects, tuple(chain.done))
