"""Annotations of two splits become record files in one command's worth of code; what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data import chunks
from coordexp.data.cards import card_path
from coordexp.data.jsonl import read_records
from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.geometry.bins import pixels_to_bins
from coordexp.recipes.prepare import PreparedSplit, run_prepare
from coordexp.recipes.prepare_sources import tree_stamp
from coordexp.types.errors import ConfigError
from coordexp.types.files import file_sha256


def _overrides(folder: Path, *splits: str) -> list[str]:
    values = [f"output={folder / 'out'}", "preset=rescale_16_36"]
    for split in splits:
        if not (folder / split).exists():
            write_coco_dataset(SceneSettings(name=split, kind="shapes", seed=1, num_scenes=3, min_objects=2, max_objects=6), folder / split)
        values += [f"splits.{split}.instances={folder / split / f'instances_{split}.json'}", f"splits.{split}.images={folder / split / 'images'}"]
    return values


def prepare(folder: Path, *extra: str, splits: tuple[str, ...] = ("train",)) -> tuple[PreparedSplit, ...]:
    return run_prepare(load_config(None, PrepareConfig, [*_overrides(folder, *splits), *extra]))


def redone(split: PreparedSplit) -> list[str]:
    return [step.name for step in split.steps if not step.is_reused]


def test_both_splits_arrive_at_the_size_of_the_preset_with_the_bins_of_their_source(tmp_path: Path) -> None:
    train, val = prepare(tmp_path, splits=("train", "val"))
    assert (train.path, val.path) == tuple(tmp_path / "out" / "rescale_16_36" / f"{name}.coord.jsonl" for name in ("train", "val"))
    source = read_records(tmp_path / "out" / "source" / "train.jsonl")
    for before, after in zip(source, read_records(train.path), strict=True):
        assert (after.width, after.height, after.coord_space) == (96, 96, "token")
        assert [item.points for item in after.objects] == [
            pixels_to_bins(item.points, kind="bbox_2d", width=before.width, height=before.height) for item in before.objects
        ]
    assert train.num_objects == sum(len(record.objects) for record in source)
    assert train.sentence().startswith(f"train: 3 images, {train.num_objects} objects -> {train.path}\n  import: 3 images (")


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    (first,) = prepare(tmp_path)
    assert redone(first) == ["import", "rescale", "coord", "validate"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    (second,) = prepare(tmp_path)
    assert redone(second) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    assert [(step.name, step.sentence) for step in second.steps] == [(step.name, step.sentence) for step in first.steps]
    assert "  rescale: 3 images, " in second.sentence()
    assert second.sentence().count("(unchanged, reused)") == 4


def test_the_number_of_processes_changes_no_byte_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 200)  # a record each
    prepare(tmp_path / "one")
    (split,) = prepare(tmp_path / "two", "workers=2")
    assert len(redone(split)) == 4

    def contents(folder: Path) -> dict[str, bytes]:
        kept = [path for path in (folder / "out").rglob("*.*") if path.is_file() and ".steps" not in path.parts and path.name != ".imported"]
        return {str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"") for path in kept}

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert redone(prepare(tmp_path / "two")[0]) == []


def test_a_changed_option_repeats_only_what_depends_on_it(tmp_path: Path) -> None:
    prepare(tmp_path, "filter.min_objects=1")
    (rounded,) = prepare(tmp_path, "filter.min_objects=1", "box_rounding=outward")
    assert redone(rounded) == ["coord", "validate"]
    (filtered,) = prepare(tmp_path, "filter.min_objects=2", "box_rounding=outward")
    assert redone(filtered) == ["filter", "coord", "validate"]
    assert filtered.path.name == "train.min2.coord.jsonl"
    (resized,) = prepare(tmp_path, "preset=rescale_32_36")
    assert redone(resized) == ["rescale", "coord", "validate"]
    (smaller,) = prepare(tmp_path, "preset=rescale_32_36", "splits.train.min_side=20")
    assert redone(smaller) == ["import", "rescale", "coord", "validate"]


@pytest.mark.parametrize("change", ["annotations", "image", "result", "picture", "interrupted"])
def test_changed_or_lost_bytes_are_noticed(tmp_path: Path, change: str) -> None:
    (split,) = prepare(tmp_path)
    if change == "annotations":
        path = tmp_path / "train" / "instances_train.json"
        document = json.loads(path.read_text())
        document["annotations"].pop()
        path.write_text(json.dumps(document))
    elif change == "image":
        path = next((tmp_path / "train" / "images").glob("*.png"))
        Image.open(path).rotate(180).save(path.with_suffix(".new"), format="PNG")
        path.with_suffix(".new").replace(path)
    elif change == "result":
        split.path.write_text(split.path.read_text().splitlines()[0] + "\n")
    elif change == "picture":
        next((tmp_path / "out/rescale_16_36/images/train").rglob("*.png")).unlink()
    else:
        (tmp_path / "out/rescale_16_36/train.jsonl").unlink()
    (again,) = prepare(tmp_path)
    assert "import" in redone(again) if change in ("annotations", "image") else "import" not in redone(again)
    fresh = run_prepare(load_config(None, PrepareConfig, [*_overrides(tmp_path, "train"), f"output={tmp_path / 'fresh'}"]))[0]
    assert again.path.read_bytes() == fresh.path.read_bytes()
    for name in ("out", "fresh"):
        assert len(list((tmp_path / name / "rescale_16_36/images/train").rglob("*.png"))) == 3
    pictures = [{path.name: file_sha256(path) for path in (tmp_path / name / "rescale_16_36/images").rglob("*.png")} for name in ("out", "fresh")]
    assert pictures[0] == pictures[1]


def test_training_images_that_resemble_validation_images_are_dropped(tmp_path: Path) -> None:
    _overrides(tmp_path, "train", "val")
    theirs, ours = (sorted((tmp_path / name / "images").glob("*.png"))[0] for name in ("val", "train"))
    Image.open(theirs).save(ours)
    train, val = prepare(tmp_path, "filter.duplicates=2", splits=("train", "val"))
    assert (val.num_images, train.num_images) == (3, 2)
    (dropped,) = map(json.loads, train.path.with_name("train.unique.dropped.jsonl").read_text().splitlines())
    assert dropped["what"].startswith("resembles val.unique.jsonl: images/val/")
    (kept, _) = prepare(tmp_path, "filter.duplicates=2", "filter.against_val=no", splits=("train", "val"))
    assert kept.num_images == 3


def test_another_validation_picture_of_the_same_record_is_kept_apart_too(tmp_path: Path) -> None:
    _overrides(tmp_path, "train", "val")
    theirs, ours = (sorted((tmp_path / name / "images").glob("*.png"))[0] for name in ("val", "train"))
    (train, _) = prepare(tmp_path, "filter.duplicates=2", splits=("train", "val"))
    assert train.num_images == 3
    Image.open(ours).save(theirs)
    train, val = prepare(tmp_path, "filter.duplicates=2", splits=("train", "val"))
    assert (val.num_images, train.num_images) == (3, 2)


def test_the_limit_in_the_name_of_the_preset_is_kept(tmp_path: Path) -> None:
    (split,) = prepare(tmp_path, "preset=rescale_16_36_bbox_max1", "splits.train.over_limit=first")
    counts = [len(record.objects) for record in read_records(split.path)]
    assert counts == [1, 1, 1]
    assert "objects left out, beyond 1 of an image" in split.sentence()


def test_other_formats_come_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "yolo/images/train").mkdir(parents=True)
    (tmp_path / "yolo/labels/train").mkdir(parents=True)
    Image.new("RGB", (96, 96)).save(tmp_path / "yolo/images/train/a.png")
    (tmp_path / "yolo/labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "yolo/data.yaml").write_text("train: images/train\nnames: [cat]\n")
    # the output lies inside the data set: what it writes must not count as a change of its source
    flags = [f"output={tmp_path}/yolo/out", "preset=rescale_16_36", "splits.train.kind=yolo", f"splits.train.instances={tmp_path}/yolo/data.yaml"]
    (split,) = run_prepare(load_config(None, PrepareConfig, flags))
    assert read_records(split.path)[0].objects[0].desc == "cat"
    (again,) = run_prepare(load_config(None, PrepareConfig, flags))
    assert redone(again) == []
    (tmp_path / "yolo/labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.25\n")
    (changed,) = run_prepare(load_config(None, PrepareConfig, flags))
    assert redone(changed) == ["import", "rescale", "coord", "validate"]


def write_sources(root: Path) -> None:
    """One picture with one box 8, 8 to 40, 40, in five formats."""
    (root / "pictures").mkdir()
    Image.new("RGB", (96, 96)).save(root / "pictures/a.png")
    image = {"id": 1, "coco_url": "http://x.org/pictures/a.png", "width": 96, "height": 96, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 32, 32], "segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]]}
    (root / "lvis.json").write_text(json.dumps({"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}))
    genome = {"image_id": 1, "image_url": "http://x.org/pictures/a.png", "objects": [{"object_id": 1, "names": ["cat"], "x": 8, "y": 8, "w": 32, "h": 32}]}
    (root / "objects.json").write_text(json.dumps([genome]))
    (root / "rows.jsonl").write_text(json.dumps({"images": ["a.png"], "objects": {"ref": ["cat"], "bbox": [[8, 8, 40, 40]]}}))
    box = "<bndbox><xmin>8</xmin><ymin>8</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>"
    (root / "pictures/a.xml").write_text(f"<annotation><filename>a.png</filename><object><name>cat</name>{box}</object></annotation>")
    rows = [{"image": str(root / "pictures/a.png"), "boxes": [[8.0, 8.0, 40.0, 40.0]], "names": ["cat"]}]
    (root / "rows.json").write_text("\n".join(map(json.dumps, rows)))


KINDS = {
    "lvis": ["instances={}/lvis.json", "images={}/pictures"],
    "visual_genome": ["instances={}/objects.json", "images={}/pictures"],
    "swift": ["instances={}/rows.jsonl", "images={}/pictures"],
    "voc": ["instances={}/pictures", "first_pixel=0"],
    "hf": ["instances={}/rows.json", "columns.box_format=xyxy", "columns.bbox=boxes", "columns.label=names"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_arrives_at_the_same_bins(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "hf":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_sources(tmp_path)
    own = [f"splits.train.{flag.format(tmp_path)}" for flag in [f"kind={kind}", *KINDS[kind]]]
    (split,) = run_prepare(load_config(None, PrepareConfig, [f"output={tmp_path}/out", "preset=rescale_16_36", *own]))
    (record,) = read_records(split.path)
    assert [(item.desc, item.points) for item in record.objects] == [("cat", pixels_to_bins((8, 8, 40, 40), kind="bbox_2d", width=96, height=96))]


def test_folders_behind_links_are_looked_at_once(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.txt").write_text("one")
    (tmp_path / "set/images").symlink_to(tmp_path / "disk")
    (tmp_path / "set/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/nowhere").symlink_to(tmp_path / "gone")
    before = tree_stamp(tmp_path / "set")
    assert tree_stamp(tmp_path / "set") == before
    (tmp_path / "disk/a.txt").write_text("two!")
    assert tree_stamp(tmp_path / "set") != before


def test_the_card_tells_the_way_from_the_annotations_to_the_tokens(tmp_path: Path) -> None:
    (split,) = prepare(tmp_path, "filter.min_objects=1")
    text = card_path(split.path).read_text(encoding="utf-8")
    assert f"sha256 | `{file_sha256(split.path)}`" in text
    assert f"| objects | {split.num_objects} ({split.num_objects} bbox_2d) |" in text
    steps = ["(import)", "(rescale)", "(filter)", "(coord)", "(validate)"]
    assert [line.rstrip().rpartition(" ")[2].removesuffix("`") for line in text.splitlines() if line[:1].isdigit()] == steps
    instances = tmp_path / "train" / "instances_train.json"
    assert f"- `{instances}`: {instances.stat().st_size:,} bytes, sha256 `{file_sha256(instances)}`" in text


def test_a_file_without_splits_is_refused() -> None:
    with pytest.raises(ConfigError, match="splits: names no split; give"):
        load_config(None, PrepareConfig, ["output=x", "preset=rescale_16_36", "splits={}"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["splits.train.instances=a.json"], "splits.train.images: is required; give the folder"),
        (["splits.train.instances=a", "splits.train.kind=hf"], "splits.train.columns: is required; give at least columns.box_format"),
        (["splits.train.instances=a", "splits.train.kind=voc", "splits.train.only_mapped=yes"], "splits.train.only_mapped: needs a label map"),
        (["splits.train.instances=a", "splits.train.kind=voc", "filter.duplicates=9"], "filter.duplicates"),
    ],
)
def test_a_source_that_lacks_something_is_refused(flags: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, PrepareConfig, ["output=x", "preset=rescale_16_36", *flags])
