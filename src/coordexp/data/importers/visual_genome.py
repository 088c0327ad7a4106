"""Visual Genome's `objects.json`: a list of images with objects x, y, w, h and their names. Sizes are those of the image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from coordexp.data.coco_file import map_json
from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Problem, Source, SourceImage, SourceObject
from coordexp.data.importers.urls import name_from_url
from coordexp.geometry.boxes import xywh_to_xyxy
from coordexp.types.errors import DataError
from coordexp.types.progress import Progress


class _Object(msgspec.Struct):
    x: float
    y: float
    w: float
    h: float
    names: list[str] = []
    name: str = ""
    object_id: int | None = None
    id: int | None = None
    """Of the first release."""


class _Image(msgspec.Struct):
    objects: list[_Object]
    image_id: int | None = None
    id: int | None = None
    image_url: str = ""


def import_visual_genome(
    objects: Path, *, images: Path, output: Path, options: ImportOptions | None = None, workers: int = 1, progress: Progress | None = None
) -> ImportSummary:
    """Write the record file `output` from Visual Genome's objects (`import_source` tells the errors). There are boxes only.

    Args:
        objects: `objects.json` of any release.
        images: folder with `VG_100K/` and `VG_100K_2/`, or the folder of the images themselves.
        output: the JSONL to write, in pixels.
        options: what to take.
        workers: processes, with the same bytes for every number; 0: one a processor.
        progress: shows the loop.
    """
    return import_source(open_visual_genome(objects, images=images), output=output, options=options or ImportOptions(), workers=workers, progress=progress)


def open_visual_genome(objects: Path, *, images: Path) -> Source:
    """The images of the file, in its order. One image is decoded at a time; the file itself is mapped, not read, into memory.

    Raises:
        DataError: no such file, or no list of images.
    """
    rows = _split(objects)
    return Source(str(objects), images, lambda: _images(rows, objects, images), inputs=(objects,), num_images=len(rows))


def _split(path: Path) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(map_json(path), type=list[msgspec.Raw])
    except OSError as error:
        what = "the file does not exist" if isinstance(error, FileNotFoundError) else f"the file cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not a JSON list of images ({error})", where=str(path), fix="give objects.json of Visual Genome") from error


def _images(rows: list[msgspec.Raw], path: Path, root: Path) -> Iterator[SourceImage]:
    decoder = msgspec.json.Decoder(_Image)
    for position, row in enumerate(rows):
        try:
            image = decoder.decode(row)
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$")
            fix = "an image has image_id and objects with x, y, w, h and names"
            raise DataError(what, where=f"{path}: [{position}]{place.rstrip('`')}", fix=fix) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"not JSON in UTF-8 ({error})", where=f"{path}: [{position}]", fix="correct the file") from error
        number = image.id if image.image_id is None else image.image_id
        where = f"{path}: [{position}] (image_id {number})"
        url = image.image_url or (f"VG_100K/{number}.jpg" if (root / f"VG_100K/{number}.jpg").is_file() else f"VG_100K_2/{number}.jpg")
        objects = [_to_object(item, f"{path}: [{position}].objects[{index}] (object_id {_number(item)})") for index, item in enumerate(image.objects)]
        yield SourceImage(name_from_url(url, root, where=where), where, objects, metadata={"source": path.name, "image_id": number})


def _to_object(item: _Object, where: str) -> SourceObject:
    label = next((name for name in [*item.names, item.name] if name.strip()), "")
    if item.w < 0 or item.h < 0:
        return SourceObject(label, where, problem=Problem("negative_size", f"w={item.w:g}, h={item.h:g} is a negative width or height"))
    return SourceObject(label, where, box=xywh_to_xyxy((item.x, item.y, item.w, item.h)))


def _number(item: _Object) -> int | None:
    return item.id if item.object_id is None else item.object_id
