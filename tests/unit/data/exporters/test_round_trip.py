"""Records to COCO and YOLO and back: the same records up to the rounding that is promised, and the libraries of those formats read the same objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import yaml
from PIL import Image
from pycocotools.coco import COCO

from coordexp.cli.main import main
from coordexp.data.convert import to_pixels, to_tokens
from coordexp.data.exporters.coco import export_coco
from coordexp.data.exporters.yolo import export_yolo
from coordexp.data.importers.coco import import_coco
from coordexp.data.importers.lvis import import_lvis
from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.yolo import import_yolo
from coordexp.data.jsonl import read_records, write_records
from coordexp.geometry.polygons import canonical_ring
from coordexp.types.errors import OutputError
from coordexp.types.records import DetObject, GeometryKind, Record

LABELS = ("chat écaillé", "猫", "7", "no: yes", "black  cat")


def draw(folder: Path, kind: GeometryKind, *, seed: int = 0, num: int = 12) -> Path:
    """Random objects, whole and broken pixels, some of no width; images in folders, one name with two suffixes."""
    generator = np.random.default_rng(seed)
    records: list[Record] = []
    for number in range(num):
        width, height = (int(side) for side in generator.integers(1, 700, 2))
        name = f"images/{'deep/' if number % 2 else ''}{number // 2}.{'png' if number % 3 else 'jpg'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(folder / name)
        objects: list[DetObject] = []
        for index in range(int(generator.integers(0, 5))):
            points = generator.uniform(0, 1, (4 if kind == "bbox_2d" else 10,)).reshape(-1, 2) * [width - 1, height - 1]
            points = np.round(points) if index % 2 else points
            if kind == "bbox_2d":
                corners = np.sort(points, axis=0)
                corners[1, 0] = corners[0, 0] if index == 3 else corners[1, 0]
                values = tuple(float(value) for value in corners.ravel())
            else:
                values = canonical_ring(tuple(float(value) for value in points.ravel()))
            objects.append(DetObject(LABELS[int(generator.integers(len(LABELS)))], kind, values))
        records.append(Record("", name, width, height, tuple(objects), "pixel", metadata={"image_id": 100 - number}))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def assert_same(before: list[Record], after: list[Record], *, within: float) -> None:
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        assert [(item.desc, item.kind) for item in one.objects] == [(item.desc, item.kind) for item in other.objects]
        for item, found in zip(one.objects, other.objects, strict=True):
            assert found.points == pytest.approx(item.points, abs=within)


@pytest.mark.parametrize("kind", ["bbox_2d", "poly"])
def test_records_survive_coco_and_pycocotools_reads_the_same(tmp_path: Path, kind: GeometryKind) -> None:
    source = draw(tmp_path, kind)
    summary = export_coco(source, tmp_path / "instances.json")
    import_coco(tmp_path / "instances.json", images=tmp_path, output=tmp_path / "again.jsonl", options=ImportOptions(geometry=kind))
    before = read_records(source)
    after = read_records(tmp_path / "again.jsonl")
    assert_same(before, after, within=1e-9)
    assert [record.image for record in before] == [record.image for record in after]
    coco = COCO(str(tmp_path / "instances.json"))
    assert sorted(coco.imgs) == sorted(100 - number for number in range(12))
    assert (summary.num_images, summary.num_objects) == (len(coco.imgs), len(coco.anns))
    for record in before:
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=record.metadata["image_id"]))
        assert [coco.cats[row["category_id"]]["name"] for row in theirs] == [item.desc for item in record.objects]
        for item, row in zip(record.objects, theirs, strict=True):
            if kind == "bbox_2d":
                assert row["area"] == pytest.approx((item.points[2] - item.points[0]) * (item.points[3] - item.points[1]))
            else:
                assert row["segmentation"] == [list(item.points)]


@pytest.mark.parametrize("kind", ["bbox_2d", "poly"])
def test_records_survive_yolo_and_supervision_reads_the_same(tmp_path: Path, kind: GeometryKind) -> None:
    train, val = draw(tmp_path / "a", kind), draw(tmp_path / "b", kind, seed=1)
    export_yolo({"train": train, "val": val}, tmp_path / "yolo")
    options = ImportOptions(geometry=kind)
    for split, source in (("train", train), ("val", val)):
        import_yolo(tmp_path / "yolo/data.yaml", split=split, output=tmp_path / f"again/{split}.jsonl", options=options)
        before = sorted(read_records(source), key=lambda record: record.image.removeprefix("images/"))
        after = sorted(read_records(tmp_path / f"again/{split}.jsonl"), key=lambda record: record.image.partition(f"{split}/images/{split}/")[2])
        assert_same(before, after, within=1e-4)
        for one, other in zip(before, after, strict=True):
            assert (source.parent / one.image).samefile(tmp_path / "again" / other.image)
    if kind == "bbox_2d":
        tree = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))
        flat = sv.DetectionDataset.from_yolo(str(tmp_path / "yolo/images/train"), str(tmp_path / "yolo/labels/train"), str(tmp_path / "yolo/data.yaml"))
        assert flat.classes == list(tree["names"].values()) == sorted({item.desc for file in (train, val) for r in read_records(file) for item in r.objects})
        records = {Path(record.image).name: record for record in read_records(train) if "deep" not in record.image}
        for path, found in flat.annotations.items():
            record = records[Path(path).name.replace("_.", ".")]
            assert [flat.classes[number] for number in found.class_id] == [item.desc for item in record.objects]
            assert found.xyxy == pytest.approx(np.array([item.points for item in record.objects]).reshape(-1, 4), abs=1e-3)


def test_tokens_are_exported_as_the_pixels_of_their_bins(tmp_path: Path) -> None:
    source = draw(tmp_path, "bbox_2d")
    records = [to_tokens(record) for record in read_records(source)]
    write_records(tmp_path / "train.coord.jsonl", records)
    assert main(["data", "export", "coco", str(tmp_path / "train.coord.jsonl"), "--output", str(tmp_path / "instances.json")]) == 0
    import_coco(tmp_path / "instances.json", images=tmp_path, output=tmp_path / "again.jsonl")
    after = read_records(tmp_path / "again.jsonl")
    assert_same([to_pixels(record) for record in records], after, within=1e-9)
    assert [to_tokens(record).objects for record in after] == [record.objects for record in records]


def test_what_lvis_says_about_absent_categories_survives(tmp_path: Path) -> None:
    (record, *_) = read_records(draw(tmp_path, "bbox_2d", num=1))
    told = {"neg_categories": ["zebra", "猫"], "not_exhaustive_categories": ["7"], "neg_category_ids": [4, 5]}
    write_records(tmp_path / "train.jsonl", [replace(record, metadata=told)])
    export_coco(tmp_path / "train.jsonl", tmp_path / "lvis.json")
    document = json.loads((tmp_path / "lvis.json").read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in document["categories"]}
    assert [names[number] for number in document["images"][0]["neg_category_ids"]] == ["zebra", "猫"]
    assert document["images"][0]["id"] == 1
    import_lvis(tmp_path / "lvis.json", images=tmp_path / "images", output=tmp_path / "again.jsonl")
    (again,) = read_records(tmp_path / "again.jsonl")
    assert (again.metadata["neg_categories"], again.metadata["not_exhaustive_categories"]) == (["zebra", "猫"], ["7"])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("export yolo train.jsonl --output out", "'train.jsonl' is not SPLIT=FILE with a split of its own; write train=train.jsonl"),
        ("export yolo a=train.jsonl a=train.jsonl --output out", "'a=train.jsonl' is not SPLIT=FILE"),
        ("export yolo train=gone.jsonl --output out", "gone.jsonl:1: the image gone.png does not exist; check that the images lie"),
        ("export yolo train=twice.jsonl --output out", "twice.jsonl:2: an earlier record is about a.png too; make one record of all"),
        ("export coco empty.jsonl --output out/a.json", "empty.jsonl: there are no records; check the file"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("a.png")
    row: dict[str, Any] = {"images": ["a.png"], "objects": [], "width": 4, "height": 4, "coord_space": "pixel"}
    Path("train.jsonl").write_text(json.dumps(row))
    Path("twice.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    Path("gone.jsonl").write_text(json.dumps(row | {"images": ["gone.png"]}))
    Path("empty.jsonl").write_text("\n")
    assert main(["data", *line.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_export_to_yolo_replaces_nothing_that_it_did_not_write(tmp_path: Path) -> None:
    source = draw(tmp_path / "set", "bbox_2d", num=2)
    before = sorted((path, path.stat().st_size) for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=rf"is the folder of {source.name} and its images"):
        export_yolo({"train": source}, source.parent)
    assert sorted((path, path.stat().st_size) for path in tmp_path.rglob("*")) == before
    (tmp_path / "other/images").mkdir(parents=True)
    (tmp_path / "other/images/mine.png").touch()
    with pytest.raises(OutputError, match="holds images, which no export wrote"):
        export_yolo({"train": source}, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").rglob("*")] == ["images", "mine.png"]
    for _ in range(2):
        export_yolo({"train": source}, tmp_path / "yolo")
