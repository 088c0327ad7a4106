"""Writes synthetic scenes as an ordinary COCO data set, so that they enter by the same door as a user's own: images/*.png and instances_<split>.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from coordexp.data.synthetic.digits import DIGIT_NAMES, render_digits_scene
from coordexp.data.synthetic.scenes import Scene, SceneSettings
from coordexp.data.synthetic.shapes import SHAPE_NAMES, render_shapes_scene
from coordexp.types.errors import DataError
from coordexp.types.files import atomic_folder
from coordexp.types.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """What was written."""

    instances: Path
    images: Path
    num_images: int
    num_objects: int
    sha256: str
    """Of every scene's pixels and objects: independent of the PNG compressor."""


def category_names(settings: SceneSettings) -> tuple[str, ...]:
    """Class names in the order of their COCO ids, which begin with 1."""
    return SHAPE_NAMES if settings.kind == "shapes" else DIGIT_NAMES


def render_scene(settings: SceneSettings, index: int, *, num_objects: int | None = None) -> Scene:
    """Scene `index` of a split of either kind."""
    render = render_shapes_scene if settings.kind == "shapes" else render_digits_scene
    return render(settings, index, num_objects=num_objects)


def scene_digest(scene: Scene) -> bytes:
    """sha256 of shape, pixels, objects and outlines."""
    objects = [[item.desc, list(item.points)] for item in scene.objects]
    digest = hashlib.sha256(json.dumps([list(scene.image.shape), objects, [ring and list(ring) for ring in scene.rings]]).encode())
    digest.update(scene.image.tobytes())
    return digest.digest()


def hash_split(settings: SceneSettings) -> str:
    """The `sha256` that `write_coco_dataset` reports, without writing anything."""
    digest = hashlib.sha256()
    for index in range(settings.num_scenes):
        digest.update(scene_digest(render_scene(settings, index)))
    return digest.hexdigest()


def write_coco_dataset(settings: SceneSettings, out_dir: Path, *, sha256: str | None = None, progress: Progress | None = None) -> SplitInfo:
    """Write `out_dir/images/*.png` and `out_dir/instances_<name>.json`; the folder appears complete or not at all.

    `sha256` is what the scenes must hash to, when scores are quoted for them.

    Raises:
        DataError: the scenes have another hash.
        OutputError: the folder cannot be written.
        BackendError: digits without scikit-learn.
    """
    progress = progress or NoProgress()
    ids = {name: number for number, name in enumerate(category_names(settings), start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    file_name = f"instances_{settings.name}.json"
    with atomic_folder(out_dir) as folder:
        (folder / "images").mkdir()
        for index in progress.track(range(settings.num_scenes), f"draw {settings.name}", total=settings.num_scenes):
            scene = render_scene(settings, index)
            digest.update(scene_digest(scene))
            name = f"{index:06d}.png"
            Image.fromarray(scene.image).save(folder / "images" / name, format="PNG")
            images.append({"id": index + 1, "file_name": name, "width": settings.width, "height": settings.height})
            annotations += _annotations(scene, image_id=index + 1, first_id=len(annotations) + 1, ids=ids)
        _check_hash(settings.name, drawn=digest.hexdigest(), quoted=sha256)
        categories = [{"id": number, "name": name, "supercategory": settings.kind} for name, number in ids.items()]
        document = {
            "info": {"description": f"coordexp synthetic {settings.name}", "sha256": digest.hexdigest()},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (folder / file_name).write_text(json.dumps(document) + "\n", encoding="utf-8")
    return SplitInfo(out_dir / file_name, out_dir / "images", len(images), len(annotations), digest.hexdigest())


def _check_hash(name: str, *, drawn: str, quoted: str | None) -> None:
    if quoted not in (None, drawn):
        raise DataError(
            f"the scenes drawn here are not those that scores are quoted for ({drawn[:12]} is not {quoted[:12]})",
            where=name,
            fix="install the pinned versions (pip install -c constraints.txt)",
        )


def _annotations(scene: Scene, *, image_id: int, first_id: int, ids: dict[str, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for offset, (item, ring) in enumerate(zip(scene.objects, scene.rings, strict=True)):
        x1, y1, x2, y2 = (int(value) for value in item.points)
        row: dict[str, Any] = {"id": first_id + offset, "image_id": image_id, "category_id": ids[item.desc], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        row |= {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        if ring is not None:
            row["segmentation"] = [list(ring)]
        rows.append(row)
    return rows
