"""Every command of the pages about data runs as it stands there, on miniatures of the files that the pages begin with."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from coordexp.cli.main import main
from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.validate import validate_file

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "data"
_BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

WIDTH, HEIGHT = 320, 256


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((WIDTH, HEIGHT), 40 + shade).convert("RGB").save(path)


def write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")


def coco_tree(names: list[str], **image: Any) -> dict[str, Any]:
    ring = [10, 10, 60, 10, 60, 50]
    return {
        "images": [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **image} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 10, 50, 40], "iscrowd": 0, "segmentation": [ring]} for number in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


def make_coco(folder: Path) -> None:
    for split in ("train2017", "val2017"):
        names = [f"{number:012d}.jpg" for number in range(2)]
        for shade, name in enumerate(names):
            picture(folder / split / name, shade)
        write_json(folder / f"annotations/instances_{split}.json", coco_tree(names))
    picture(folder / "objects365/val/patch8/objects365_v1_00420917.jpg")
    write_json(folder / "zhiyuan_objv2_val.json", coco_tree(["images/v1/patch8/objects365_v1_00420917.jpg", "images/v1/patch9/gone.jpg"]))


def make_lvis(folder: Path) -> None:
    for split, other in (("train", "train2017"), ("val", "val2017")):
        picture(folder / f"coco/{other}/000000000001.jpg")
        url = {"coco_url": f"http://images.cocodataset.org/{other}/000000000001.jpg", "neg_category_ids": [], "not_exhaustive_category_ids": [1]}
        write_json(folder / f"lvis_v1_{split}.json", coco_tree([""], **url))


def make_visual_genome(folder: Path) -> None:
    rows = []
    for number in range(12):
        picture(folder / f"vg/VG_100K/{number}.jpg", number)
        objects = [{"object_id": number, "names": ["clock"], "x": 4, "y": 5, "w": 10, "h": 12}]
        rows.append({"image_id": number, "image_url": f"https://cs.stanford.edu/people/rak248/VG_100K/{number}.jpg", "objects": objects})
    write_json(folder / "objects.json", rows)


def make_yolo(folder: Path) -> None:
    for shade, split in enumerate(("train", "val")):
        picture(folder / f"images/{split}/a.jpg", 20 * shade)
        (folder / f"labels/{split}").mkdir(parents=True)
        (folder / f"labels/{split}/a.txt").write_text("0 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.6 0.1 0.6 0.8\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n")


def make_voc(folder: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
    text = f"<annotation><filename>a.jpg</filename><object><name>cat</name>{box}</object></annotation>"
    devkit = folder / "VOCdevkit/VOC2012"
    picture(devkit / "JPEGImages/a.jpg")
    picture(folder / "labelimg/a.jpg")
    for path in (devkit / "Annotations/a.xml", folder / "labelimg/a.xml", devkit / "ImageSets/Main/val.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n" if path.suffix == ".txt" else text)


def make_swift(folder: Path) -> None:
    picture(folder / "pictures/cow.jpg")
    page = (PAGES / "swift.md").read_text(encoding="utf-8")
    (folder / "grounding.jsonl").write_text(page.partition("```json\n")[2].partition("```")[0], encoding="utf-8")


def make_hugging_face(folder: Path) -> None:
    import datasets

    picture(folder / "a.jpg")
    content = {"bytes": (folder / "a.jpg").read_bytes(), "path": None}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), 4)),
                "category": datasets.Sequence(datasets.ClassLabel(names=["hat"])),
            },
        }
    )
    rows = {"image": [content], "objects": [{"bbox": [[1, 2, 10, 12]], "category": [0]}]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(str(folder / "saved"))
    datasets.Dataset.from_list([{"photo": content, "marks": [{"where": [0.5, 0.5, 0.5, 0.5], "what": "cat"}]}]).to_parquet(str(folder / "cats.parquet"))


def make_chain(folder: Path) -> None:
    """The first two commands of the chain."""
    for line in blocks("README.md", "bash")[0].splitlines()[:2]:
        assert main(shlex.split(line)[1:]) == 0


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "coco.md": make_coco,
    "importing.md": make_coco,
    "lvis.md": make_lvis,
    "visual-genome.md": make_visual_genome,
    "yolo.md": make_yolo,
    "prepare.md": make_yolo,
    "voc.md": make_voc,
    "swift.md": make_swift,
    "hugging-face.md": make_hugging_face,
    "tools.md": make_chain,
}
ELSEWHERE = {"README.md", "doctor.md"}
"""Pages whose commands are run by other tests."""


def blocks(page: str, language: str) -> list[str]:
    return [code for name, code in _BLOCK.findall((PAGES / page).read_text(encoding="utf-8")) if name == language]


def test_every_page_is_run() -> None:
    assert {path.name for path in PAGES.glob("*.md")} == set(LAYOUTS) | ELSEWHERE


@pytest.mark.parametrize("page", LAYOUTS)
def test_the_commands_of_a_page_run_and_what_they_write_is_valid(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page == "hugging-face.md":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    LAYOUTS[page](tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert commands
    for command in commands:
        assert command.startswith("coordexp data ")
        assert main(shlex.split(command)[1:]) == 0, command
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {})
    written = [path for folder in ("out", "public_data") for path in (tmp_path / folder).rglob("*.jsonl") if not path.name.endswith(".dropped.jsonl")]
    assert written
    for path in written:
        assert validate_file(path, check_images=True).is_valid, path


def test_the_preparation_file_of_its_page_parses() -> None:
    (text,) = blocks("prepare.md", "yaml")
    tree = yaml.safe_load(text)
    flags = [f"{key}={json.dumps(value)}" for key, value in tree.items()]
    config = load_config(None, PrepareConfig, flags).config
    assert config.splits.train is not None
    assert (config.splits.train.over_limit, config.filter is not None) == ("largest", True)
