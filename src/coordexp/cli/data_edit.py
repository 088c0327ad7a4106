"""`coordexp data filter`, `sample` and `merge`: record files to other record files."""

from __future__ import annotations

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
