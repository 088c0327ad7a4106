"""`coordexp data import <kind>`: one command a format; the options that all share are added to each by `_with_options`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordexp.cli.data_options import Workers, finish

if TYPE_CHECKING:
    from coordexp.data.importers.options import ImportOptions, ImportSummary

app = typer.Typer(help="Import annotations of other formats.", no_args_is_help=True, rich_markup_mode=None)


class Geometry(StrEnum):
    BBOX_2D = "bbox_2d"
    POLY = "poly"


class Outline(StrEnum):
    LARGEST = "largest"
    HULL = "hull"


class OverLimit(StrEnum):
    DROP = "drop"
    LARGEST = "largest"
    FIRST = "first"


class Part(StrEnum):
    ALL = "all"
    TRAIN = "train"
    VAL = "val"


class BoxFormat(StrEnum):
    XYWH = "xywh"
    XYXY = "xyxy"
    CXCYWH = "cxcywh"


class Unit(StrEnum):
    PIXEL = "pixel"
    FRACTION = "fraction"
    THOUSANDTH = "thousandth"


Images = Annotated[Path, typer.Option("--images", help="Folder that the file names of the images are relative to.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Record file to write, in pixels.")]


@app.callback()
def _root() -> None:
    """Import annotations of other formats."""


def _shared_options(
    geometry: Annotated[Geometry, typer.Option("--geometry", help="Take boxes or polygons.")] = Geometry.BBOX_2D,
    outline: Annotated[Outline, typer.Option("--outline", help="Polygons of several parts: the largest, or the convex hull of all.")] = Outline.LARGEST,
    max_vertices: Annotated[int | None, typer.Option("--max-vertices", min=3, help="Simplify polygons with more vertices.")] = None,
    max_deviation: Annotated[float, typer.Option("--max-deviation", min=0.0, help="Pixels that simplifying may move an outline.")] = 2.0,
    labels: Annotated[Path | None, typer.Option("--labels", help="Label map (YAML or JSON): `old: new`; `old: null` leaves its objects out.")] = None,
    only_mapped: Annotated[bool, typer.Option("--only-mapped", help="Leave out labels that the label map does not name.")] = False,
    min_side: Annotated[float, typer.Option("--min-side", min=0.0, help="Leave out objects with a shorter side, in pixels.")] = 0.0,
    max_objects: Annotated[int | None, typer.Option("--max-objects", min=1, help="Limit of an image.")] = None,
    over_limit: Annotated[OverLimit, typer.Option("--over-limit", help="Beyond it: drop the image, keep the largest, or the first objects.")] = OverLimit.DROP,
    part: Annotated[Part, typer.Option("--part", help="Of a source without splits: the part to take.")] = Part.ALL,
    val_share: Annotated[float, typer.Option("--val-share", help="Share of the images that `--part val` takes and `--part train` leaves.")] = 0.05,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the two parts.")] = 0,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Skip and count annotations that cannot be used, instead of ending.")] = False,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Skip and count images that are missing, damaged or of another size, instead of ending.")
    ] = False,
) -> ImportOptions:
    from coordexp.data.importers.options import ImportOptions, read_label_map

    return ImportOptions(
        geometry=geometry.value,
        outline=outline.value,
        max_vertices=max_vertices,
        max_deviation=max_deviation,
        labels={} if labels is None else read_label_map(labels),
        only_mapped=only_mapped,
        min_side=min_side,
        max_objects=max_objects,
        over_limit=over_limit.value,
        part=part.value,
        val_share=val_share,
        seed=seed,
        skip_invalid=skip_invalid,
        skip_bad_images=skip_bad_images,
    )


def _with_options(command: Callable[..., ImportSummary]) -> Callable[..., None]:
    """The command with the shared options behind its own; it is called with `output` and `options` and says what it did."""
    own, shared = inspect.signature(command, eval_str=True, locals=_TYPES), inspect.signature(_shared_options, eval_str=True, locals=_TYPES)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = _shared_options(**{name: values.pop(name) for name in shared.parameters})
        summary = command(**values, options=options)
        finish(values["output"], summary.sentence(), sources=[Path(values[next(iter(own.parameters))])], workers=values["workers"])

    parameters = [parameter for name, parameter in own.parameters.items() if name not in ("options", "workers")]
    run.__signature__ = inspect.Signature([*parameters, *shared.parameters.values(), own.parameters["workers"]])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return run


class _Lazy:
    """Stands for the two types that only exist once something is imported."""


_TYPES = {"ImportOptions": _Lazy, "ImportSummary": _Lazy}


def _progress() -> Any:
    from coordexp.cli.progress import console_progress

    return console_progress()


@app.command("coco")
@_with_options
def import_coco(
    annotations: Annotated[Path, typer.Argument(help="A COCO instances file.", show_default=False)],
    images: Images,
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
    strip_components: Annotated[int, typer.Option("--strip-components", min=0, help="Leading folders of file names to leave out (Objects365: 2).")] = 0,
) -> ImportSummary:
    """COCO instances, and what is written in its form (Objects365). Crowd regions are skipped, boxes past the border clamped, both counted."""
    from coordexp.data.importers import coco

    return coco.import_coco(
        annotations, images=images, output=output, strip_components=strip_components, options=options, workers=workers, progress=_progress()
    )


@app.command("lvis")
@_with_options
def import_lvis(
    annotations: Annotated[Path, typer.Argument(help="An LVIS file, as lvis_v1_train.json.", show_default=False)],
    images: Images,
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
) -> ImportSummary:
    """LVIS; which categories are absent or not completely annotated goes to the metadata of each record."""
    from coordexp.data.importers import lvis

    return lvis.import_lvis(annotations, images=images, output=output, options=options, workers=workers, progress=_progress())


@app.command("visual-genome")
@_with_options
def import_visual_genome(
    objects: Annotated[Path, typer.Argument(help="objects.json of Visual Genome.", show_default=False)],
    images: Images,
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
) -> ImportSummary:
    """Visual Genome's objects: boxes with the first of their names."""
    from coordexp.data.importers import visual_genome

    return visual_genome.import_visual_genome(objects, images=images, output=output, options=options, workers=workers, progress=_progress())


@app.command("yolo")
@_with_options
def import_yolo(
    data_yaml: Annotated[Path, typer.Argument(help="The data set's data.yaml.", show_default=False)],
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
) -> ImportSummary:
    """YOLO folders, of detection and of segmentation."""
    from coordexp.data.importers import yolo

    return yolo.import_yolo(data_yaml, split=split, output=output, options=options, workers=workers, progress=_progress())


@app.command("voc")
@_with_options
def import_voc(
    root: Annotated[Path, typer.Argument(help="Folder with Annotations/ and JPEGImages/, or of XML files.", show_default=False)],
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images, if it is another one.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of ImageSets/Main; without it every XML file is taken.")] = None,
    first_pixel: Annotated[int, typer.Option("--first-pixel", min=0, max=1, help="What the first pixel of a row is called: VOC says 1, some tools 0.")] = 1,
    skip_difficult: Annotated[bool, typer.Option("--skip-difficult", help="Leave out objects that are marked as difficult.")] = False,
) -> ImportSummary:
    """Pascal VOC; polygons come from SegmentationObject/."""
    from coordexp.data.importers import voc

    return voc.import_voc(
        root,
        output=output,
        images=images,
        split=split,
        first_pixel=first_pixel,
        skip_difficult=skip_difficult,
        options=options,
        workers=workers,
        progress=_progress(),
    )


@app.command("swift")
@_with_options
def import_swift(
    rows: Annotated[Path, typer.Argument(help="A grounding file (JSONL) as ms-swift takes it.", show_default=False)],
    images: Images,
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
    merge_rows: Annotated[bool, typer.Option("--merge-rows", help="One record of all rows about an image.")] = False,
) -> ImportSummary:
    """Grounding rows of ms-swift: images and objects (ref, bbox, bbox_type) beside a conversation."""
    from coordexp.data.importers import swift

    return swift.import_swift(rows, images=images, output=output, merge_rows=merge_rows, options=options, workers=workers, progress=_progress())


@app.command("hf")
@_with_options
def import_hf(
    dataset: Annotated[str, typer.Argument(help="A saved data set, a Parquet, Arrow or JSON file, or a name on the hub.", show_default=False)],
    box_format: Annotated[BoxFormat, typer.Option("--box-format", help="What the four numbers of a box are.")],
    output: Output,
    options: ImportOptions,
    workers: Workers = 1,
    split: Annotated[str, typer.Option("--split", help="The split to take.")] = "train",
    config: Annotated[str | None, typer.Option("--config", help="Configuration of a data set that has several.")] = None,
    image: Annotated[str, typer.Option("--image", help="Column of the picture.")] = "image",
    bbox: Annotated[str, typer.Option("--bbox", help="Column of the boxes; dots lead into structs.")] = "objects.bbox",
    label: Annotated[str, typer.Option("--label", help="Column of the labels.")] = "objects.category",
    segmentation: Annotated[str | None, typer.Option("--segmentation", help="Column of the polygons.")] = None,
    unit: Annotated[Unit, typer.Option("--unit", help="Of the numbers: pixels, 0..1, or 0..1000.")] = Unit.PIXEL,
) -> ImportSummary:
    """Data sets of the library datasets (Hugging Face), by a mapping of columns."""
    from coordexp.data.importers import hugging_face

    columns = hugging_face.HfColumns(box_format=box_format.value, image=image, bbox=bbox, label=label, segmentation=segmentation, unit=unit.value)
    return hugging_face.import_hugging_face(
        dataset, output=output, columns=columns, split=split, config=config, options=options, workers=workers, progress=_progress()
    )
