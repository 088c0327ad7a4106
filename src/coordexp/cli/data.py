"""`coordexp data`: from annotations to a data file that can be trained on. Each command ends with one sentence that holds the numbers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordexp.cli import data_edit, data_export, data_import
from coordexp.cli.command_line import said_command
from coordexp.cli.data_options import Source, Space, SpaceOption, Workers, finish, space_value

if TYPE_CHECKING:
    from coordexp.data.synthetic import SceneSettings

app = typer.Typer(help="Import, rescale, convert and validate data sets.", no_args_is_help=True, rich_markup_mode=None)
make_app = typer.Typer(help="Make data sets that need no download, as COCO files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_import.app, name="import")
app.add_typer(data_export.app, name="export")
app.add_typer(make_app, name="make")
app.command("filter")(data_edit.filter_records)
app.command("sample")(data_edit.sample)
app.command("merge")(data_edit.merge)
app.command("stats")(data_edit.stats)
app.command("fusion")(data_edit.fusion)


class BoxRounding(StrEnum):
    NEAREST = "nearest"
    OUTWARD = "outward"


@app.callback()
def _root() -> None:
    """Import, rescale, convert and validate data sets."""


@app.command("prepare")
def prepare(
    config: Annotated[Path, typer.Argument(help="Preparation file (YAML).", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file.")] = None,
) -> None:
    """The whole chain for each split: import, rescale, filter, coordinate tokens, validate. A step that is done already is reused."""
    from coordexp.cli.progress import console_progress
    from coordexp.config.loading import load_config
    from coordexp.config.prepare import PrepareConfig

    loaded = load_config(config, PrepareConfig, overrides or [])
    from coordexp.recipes.prepare import run_prepare

    for split in run_prepare(loaded, command=said_command(), progress=console_progress()):
        typer.echo(split.sentence())


@app.command("rescale")
def rescale(
    source: Source,
    into: Annotated[Path, typer.Option("--into", help="Folder of the data set; the output lands in INTO/PRESET/.")],
    preset: Annotated[
        str, typer.Option("--preset", help="rescale_<multiple>_<blocks>[_bbox|_poly][_max<objects>]: sides are multiples, area at most so many blocks.")
    ] = "rescale_32_768",
    min_blocks: Annotated[
        int | None, typer.Option("--min-blocks", min=1, help="Smallest area in blocks (64, or the preset's maximum if that is less).")
    ] = None,
    coord_space: SpaceOption = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that make images; 0: one a processor.")] = 0,
) -> None:
    """Rescale images and geometry together, to sizes that the model's processor leaves as they are."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.presets import parse_preset
    from coordexp.data.rescale import rescale_dataset

    chosen = parse_preset(preset, min_blocks=min_blocks)
    output = into / chosen.name / source.name
    summary = rescale_dataset(source, output, preset=chosen, coord_space=space_value(coord_space), workers=workers, progress=console_progress())
    finish(output, summary.sentence(), sources=[source])


@app.command("coord")
def coord(
    source: Source,
    to: Annotated[Space, typer.Option("--to", help="Space to write.")] = Space.TOKEN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="In the folder of the source; NAME.coord.jsonl by default for tokens.")] = None,
    box_rounding: Annotated[BoxRounding, typer.Option("--box-rounding", help="outward: floor x1, y1 and ceil x2, y2.")] = BoxRounding.NEAREST,
    reorder_polygons: Annotated[bool, typer.Option("--reorder-polygons", help="Put polygons in canonical order instead of refusing them.")] = False,
    coord_space: SpaceOption = None,
    workers: Workers = 1,
) -> None:
    """Convert coordinates to norm1000 integers, coordinate tokens, or back to pixels."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.convert import convert_file

    summary = convert_file(
        source,
        to=to.value,
        output=output,
        rounding=box_rounding.value,
        coord_space=space_value(coord_space),
        reorder=reorder_polygons,
        workers=workers,
        progress=console_progress(),
    )
    finish(summary.output, summary.sentence(), sources=[source], workers=workers)


@app.command("validate")
def validate(
    source: Source,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Also check that every image exists and has the size of its record.")] = True,
    coord_space: SpaceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON report with all errors.")] = False,
    max_errors: Annotated[int, typer.Option("--max-errors", min=0, help="Errors to print; 0 prints all.")] = 50,
    workers: Workers = 1,
) -> None:
    """List every rule that a record file breaks; exit code 2 when there is one."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.validate import describe_violation, validate_file

    most = None if as_json else max_errors or None
    report = validate_file(source, coord_space=space_value(coord_space), check_images=images, max_errors=most, workers=workers, progress=console_progress())
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        for violation in report.violations:
            typer.echo(describe_violation(source, violation))
        if len(report.violations) < report.num_errors:
            typer.echo(f"... and {report.num_errors - len(report.violations)} more errors (--max-errors 0 prints all)")
        for remark in report.remarks():
            typer.echo(f"note: {remark}")
        typer.echo(report.summary())
    raise typer.Exit(0 if report.is_valid else 2)


@make_app.callback()
def _make_root() -> None:
    """Make data sets that need no download, as COCO files."""


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write: images/ and instances_NAME.json.")]
Name = Annotated[str, typer.Option("--name", help="Of the split; part of the seed, so that two splits never share a scene.")]
NumScenes = Annotated[int, typer.Option("--scenes", min=1, help="Number of images.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Size = Annotated[int, typer.Option("--size", min=8, help="Width and height of the images in pixels.")]
MinObjects = Annotated[int, typer.Option("--min-objects", min=0, help="Fewest objects of an image.")]
MaxObjects = Annotated[int, typer.Option("--max-objects", min=0, help="Most objects of an image.")]
MinSide = Annotated[int, typer.Option("--min-side", min=8, help="Shortest longer side of an object in pixels.")]
MaxSide = Annotated[int, typer.Option("--max-side", min=8, help="Longest longer side of an object in pixels.")]


class Fold(StrEnum):
    TRAIN = "train"
    VAL = "val"


@make_app.command("digits")
def make_digits(
    output: Output,
    name: Name = "digits",
    scenes: NumScenes = 200,
    seed: Seed = 0,
    size: Size = 192,
    min_objects: MinObjects = 0,
    max_objects: MaxObjects = 6,
    min_side: MinSide = 28,
    max_side: MaxSide = 72,
    fold: Annotated[Fold, typer.Option("--fold", help="Which of the original handwritten samples may be used.")] = Fold.TRAIN,
) -> None:
    """Handwritten digits over textures."""
    from coordexp.data.synthetic import SceneSettings

    settings = SceneSettings(
        name=name,
        kind="digits",
        seed=seed,
        num_scenes=scenes,
        width=size,
        height=size,
        min_objects=min_objects,
        max_objects=max_objects,
        min_side=min_side,
        max_side=max_side,
        fold=fold.value,
    )
    _make(settings, output)


@make_app.command("shapes")
def make_shapes(
    output: Output,
    name: Name = "shapes",
    scenes: NumScenes = 200,
    seed: Seed = 0,
    size: Size = 192,
    min_objects: MinObjects = 0,
    max_objects: MaxObjects = 6,
    min_side: MinSide = 28,
    max_side: MaxSide = 72,
    polygons: Annotated[bool, typer.Option("--polygons", help="Also write outlines.")] = False,
) -> None:
    """Drawn shapes in six colours; up to 60 of them with a small --max-side."""
    from coordexp.data.synthetic import SceneSettings

    settings = SceneSettings(
        name=name,
        kind="shapes",
        seed=seed,
        num_scenes=scenes,
        width=size,
        height=size,
        min_objects=min_objects,
        max_objects=max_objects,
        min_side=min_side,
        max_side=max_side,
        with_polygons=polygons,
    )
    _make(settings, output)


@make_app.command("split")
def make_split(name: Annotated[str, typer.Argument(help="Name of a split of the package, as digits-val.", show_default=False)], output: Output) -> None:
    """One of the splits that scores are quoted for."""
    from coordexp.data.synthetic import load_split

    _make(load_split(name).settings, output)


def _make(settings: SceneSettings, output: Path) -> None:
    from coordexp.cli.progress import console_progress
    from coordexp.data.synthetic import write_coco_dataset
    from coordexp.types.errors import OutputError

    foreign = [path.name for path in output.iterdir() if path.name != "images" and not path.name.startswith("instances_")] if output.is_dir() else []
    if foreign:
        raise OutputError(f"the folder would be replaced, but it holds {foreign[0]}", where=str(output), fix="choose a new folder")
    info = write_coco_dataset(settings, output, progress=console_progress())
    typer.echo(f"wrote {info.instances}: {info.num_images} images, {info.num_objects} objects, sha256 {info.sha256[:16]}")
