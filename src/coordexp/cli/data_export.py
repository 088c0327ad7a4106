"""`coordexp data export <kind>`: record files to the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordexp.cli.data_options import Source, SpaceOption, finish, space_value

app = typer.Typer(help="Export records to other formats.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Export records to other formats."""


@app.command("coco")
def export_coco(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="COCO instances file to write.")],
    coord_space: SpaceOption = None,
) -> None:
    """One COCO instances file; its file names are relative to the folder of the record file."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.exporters import coco

    summary = coco.export_coco(source, output, coord_space=space_value(coord_space), progress=console_progress())
    finish(output, summary.sentence(), sources=[source])


@app.command("yolo")
def export_yolo(
    splits: Annotated[list[str], typer.Argument(metavar="SPLIT=FILE…", help="train=train.jsonl val=val.jsonl", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write: data.yaml, images/ and labels/.")],
    coord_space: SpaceOption = None,
) -> None:
    """A YOLO folder, for detection (boxes) or segmentation (polygons)."""
    from coordexp.cli.progress import console_progress
    from coordexp.data.exporters import yolo
    from coordexp.types.errors import DataError

    sources: dict[str, Path] = {}
    for split in splits:
        name, _, path = split.partition("=")
        if not name or not path or "/" in name or name in sources:
            raise DataError(f"{split!r} is not SPLIT=FILE with a split of its own", fix="write train=train.jsonl val=val.jsonl")
        sources[name] = Path(path)
    summary = yolo.export_yolo(sources, output, coord_space=space_value(coord_space), progress=console_progress())
    finish(output / "data.yaml", summary.sentence(), sources=list(sources.values()))
