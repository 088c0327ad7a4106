"""`coordexp data filter`, `sample`, `merge`, `stats` and `fusion`: what is done with record files that are there."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coordexp.cli.data_import import Geometry, OverLimit
from coordexp.cli.data_options import Source, SpaceOption, finish, space_value


class Strata(StrEnum):
    NONE = "none"
    LABEL = "label"
    NUM_OBJECTS = "num_objects"


Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that look at images; 0: one a processor.")]


def filter_records(
    source: Source,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="In the folder of the source; NAME.<rules>.jsonl by default.")] = None,
    geometry: Annotated[Geometry | None, typer.Option("--geometry", help="Drop images that hold another one.")] = None,
    min_objects: Annotated[int, typer.Option("--min-objects", min=0, help="Drop images with fewer.")] = 0,
    max_objects: Annotated[int | None, typer.Option("--max-objects", min=1, help="Limit of an image.")] = None,
    over_limit: Annotated[OverLimit, typer.Option("--over-limit", help="Beyond it: drop the image, keep the largest, or the first objects.")] = OverLimit.DROP,
    max_label_share: Annotated[float | None, typer.Option("--max-label-share", help="Drop images in which one label has a larger share.")] = None,
    share_from: Annotated[int, typer.Option("--share-from", min=2, help="Fewest objects of an image for --max-label-share.")] = 10,
    duplicates: Annotated[
        int | None,
        typer.Option("--duplicates", min=0, max=8, help="Drop images that resemble an earlier one: differing bits of 64 (0: copies, 4: recompressed)."),
    ] = None,
    against: Annotated[list[Path] | None, typer.Option("--against", help="Record file whose images count as earlier, as the validation set.")] = None,
    workers: Workers = 0,
    coord_space: SpaceOption = None,
) -> None:
    """Drop images by rules; what goes is listed with its reason in NAME.dropped.jsonl."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.filtering import FilterSettings, filter_file

    settings = FilterSettings(
        kind=None if geometry is None else geometry.value,
        min_objects=min_objects,
        max_objects=max_objects,
        over_limit=over_limit.value,
        max_label_share=max_label_share,
        share_from=share_from,
        duplicates=duplicates,
        against=tuple(against or ()),
    )
    summary = filter_file(source, settings, output=output, coord_space=space_value(coord_space), workers=workers, progress=console_progress())
    finish(summary.output, summary.sentence(), sources=[source, *settings.against])


def sample(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="Record file to write, in the folder of the source.")],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Records to draw.")],
    by: Annotated[Strata, typer.Option("--by", help="Draw from the whole, or a share of each stratum: rarest label, or number of objects.")] = Strata.NONE,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one gives another draw.")] = 0,
    rest: Annotated[Path | None, typer.Option("--rest", help="Record file for what was not drawn.")] = None,
    coord_space: SpaceOption = None,
) -> None:
    """Draw records, the same ones for the same seed."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.sampling import sample_file

    summary = sample_file(source, output, num=num, strata=by.value, seed=seed, rest=rest, coord_space=space_value(coord_space), progress=console_progress())
    finish(summary.output, summary.sentence(), sources=[source])
    if rest is not None:
        finish(rest, f"the {summary.num_source - summary.num_records} records that {output.name} left", sources=[source])


def merge(
    sources: Annotated[list[str], typer.Argument(metavar="[NAME=]FILE…", help="Record files; the name is by default that of the folder.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Record file to write.")],
    coord_space: SpaceOption = None,
) -> None:
    """One file of several; images from elsewhere are linked into its folder."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.merging import merge_files
    from coordexp.types.errors import DataError

    named: dict[str, Path] = {}
    for text in sources:
        name, is_named, path = text.rpartition("=")
        file = Path(path)
        key = name if is_named else file.resolve().parent.name
        if key in named:
            raise DataError(f"two files are called {key!r}", where="merge", fix="write NAME=FILE with another name for each")
        named[key] = file
    summary = merge_files(named, output, coord_space=space_value(coord_space), progress=console_progress())
    finish(output, summary.sentence(), sources=list(named.values()))


def stats(
    source: Source,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; NAME.stats.html beside the source by default.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Checkpoint for whose tokens lengths are counted.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=1, help="global_max_length of the training.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    coord_space: SpaceOption = None,
) -> None:
    """Counts, sizes, positions, the tail of labels and token lengths: one HTML page, and its numbers as JSON beside it."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.data_stats import run_stats
    from coordexp.types.errors import DataError

    if max_length is not None and model is None:
        raise DataError("a length is counted in tokens of a checkpoint", where="--max-length", fix="give --model too")
    found, page = run_stats(source, model=model, max_length=max_length, output=output, coord_space=space_value(coord_space), progress=console_progress())
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        typer.echo(f"wrote {page}: {found.sentence()}")


def fusion(
    config: Annotated[Path, typer.Argument(help="Fusion file (YAML).", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file.")] = None,
) -> None:
    """Check a fusion file: read every record of every set, say what an epoch draws from each, and whether training images are in a validation file."""
    from coordexp.cli.progress import console_progress
    from coordexp.config.fusion import FusionConfig
    from coordexp.config.loading import load_config
    from coordexp.recipes.fusion_check import check_fusion

    checked = check_fusion(load_config(config, FusionConfig, overrides or []), progress=console_progress())
    total = sum(found.pool.quota for found in checked)
    typer.echo("\n".join([f"{config}: {len(checked)} data sets, {total} samples of an epoch", *(found.sentence(total) for found in checked)]))
