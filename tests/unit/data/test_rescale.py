"""Rescaling: sizes, pixels, geometry, repetition, and what is left behind when it fails."""

from __future__ import annotations

import fcntl
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.data.convert import to_tokens
from coordexp.data.jsonl import read_records, write_records
from coordexp.data.parallel import choose_workers, map_in_order
from coordexp.data.presets import RescalePreset, parse_preset, plan_size
from coordexp.data.rescale import output_names, rescale_dataset, rescale_record
from coordexp.types.errors import BackendError, DataError, OutputError
from coordexp.types.records import DetObject, Record

PRESET = RescalePreset(multiple=32, max_blocks=12, min_blocks=4)


def record(image: str, width: int, height: int, *objects: DetObject) -> Record:
    return Record("", image, width, height, objects, "pixel")


def picture(path: Path, width: int, height: int, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def source(folder: Path) -> Path:
    picture(folder / "in" / "images" / "a.png", 200, 100)
    picture(folder / "in" / "images" / "b.jpg", 96, 96)
    box, ring = DetObject("cat", "bbox_2d", (20, 10, 199, 99)), DetObject("sail", "poly", (50, 0, 95, 95, 0, 95))
    write_records(folder / "in" / "train.jsonl", [record("images/a.png", 200, 100, box), record("images/b.jpg", 96, 96, ring)])
    return folder / "in" / "train.jsonl"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        pytest.param(640, 480, (640, 480), id="fits"),
        pytest.param(500, 375, (512, 384), id="aspect-kept-exactly"),
        pytest.param(4000, 3000, (1024, 768), id="too-large"),
        pytest.param(64, 64, (256, 256), id="too-small"),
        pytest.param(1, 1, (256, 256), id="one-pixel"),
        pytest.param(100_000, 1, (24_576, 32), id="a-line"),
    ],
)
def test_the_size_is_snapped_within_the_budget(width: int, height: int, expected: tuple[int, int]) -> None:
    assert plan_size(width, height, RescalePreset()) == expected


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.sampled_from([RescalePreset(), RescalePreset(16, 96, 24), RescalePreset(28, 50, 50)]))
def test_every_size_meets_the_preset_and_keeps_the_aspect_ratio_to_a_block(width: int, height: int, preset: RescalePreset) -> None:
    columns, rows = (side / preset.multiple for side in plan_size(width, height, preset))
    assert columns == int(columns)
    assert rows == int(rows)
    assert preset.min_blocks <= columns * rows <= preset.max_blocks
    ratio = width / height
    if preset.min_blocks < preset.max_blocks and 1 / 4 <= ratio <= 4:
        assert abs(math.log(columns / rows / ratio)) <= 2 * math.log1p(1 / min(columns, rows))


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("rescale_32_768", RescalePreset(32, 768)),
        ("rescale_32_768_bbox_max60", RescalePreset(32, 768, kind="bbox_2d", max_objects=60)),
        ("rescale_16_36_poly", RescalePreset(16, 36, min_blocks=36, kind="poly")),
    ],
)
def test_a_preset_is_spelled_in_its_folder_name(name: str, preset: RescalePreset) -> None:
    assert parse_preset(name) == preset
    assert preset.name == name


@pytest.mark.parametrize(
    ("name", "min_blocks", "sentence"),
    [
        ("rescale_32", None, "'rescale_32' is not a preset; name it rescale_<multiple>_<blocks>"),
        ("rescale_32_768_line", None, "is not a preset"),
        ("rescale_32_768", 800, "multiple=32, min_blocks=800, max_blocks=768; use multiple >= 1 and 1 <= min_blocks <= max_blocks"),
        ("rescale_0_768", None, "multiple=0"),
    ],
)
def test_a_preset_that_cannot_be_met_is_refused(name: str, min_blocks: int | None, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        parse_preset(name, min_blocks=min_blocks)


def test_images_and_geometry_are_scaled_together(tmp_path: Path) -> None:
    path = source(tmp_path)
    summary = rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=PRESET)
    first, second = read_records(tmp_path / "out" / "train.jsonl")
    assert [(item.image, item.width, item.height) for item in (first, second)] == [("images/train/a.png", 128, 64), ("images/train/b.png", 96, 96)]
    assert first.objects[0].points == pytest.approx((20 * 127 / 199, 10 * 63 / 99, 127, 63))
    assert (summary.num_images, summary.num_objects, summary.num_resized, summary.num_reused) == (2, 2, 1, 0)
    with Image.open(tmp_path / "out" / "images" / "train" / "a.png") as image, Image.open(tmp_path / "in" / "images" / "a.png") as original:
        expected = original.convert("RGB").resize((128, 64), Image.Resampling.BICUBIC, reducing_gap=None)
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.tobytes() == expected.tobytes()


def test_bins_do_not_change_when_a_record_is_rescaled() -> None:
    box, ring = DetObject("a", "bbox_2d", (3, 7.5, 80, 50)), DetObject("b", "poly", (50, 0, 99, 49, 0, 49))
    original = record("a.png", 100, 51, box, ring)
    scaled = rescale_record(original, width=256, height=192)
    assert to_tokens(scaled).objects == to_tokens(original).objects
    tokens = to_tokens(original)
    assert rescale_record(tokens, width=256, height=192).objects == tokens.objects


def test_a_repeated_rescale_reuses_every_image_and_changes_no_byte(tmp_path: Path) -> None:
    path, output = source(tmp_path), tmp_path / "out" / "train.jsonl"
    rescale_dataset(path, output, preset=PRESET)
    before = files_in(output.parent)
    stamps = {name: (output.parent / name).stat().st_mtime_ns for name in before if name.endswith(".png")}
    assert rescale_dataset(path, output, preset=PRESET).num_reused == 2
    assert files_in(output.parent) == before
    assert {name: (output.parent / name).stat().st_mtime_ns for name in stamps} == stamps


def test_a_rescale_stopped_in_the_middle_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    path = source(tmp_path)
    rescale_dataset(path, tmp_path / "whole" / "train.jsonl", preset=PRESET)

    class Stop:
        def track(self, items, description, *, total=None, count=None):  # type: ignore[no-untyped-def]
            for position, item in enumerate(items):
                if description == "rescale" and position == 0:
                    raise KeyboardInterrupt
                yield item

        def say(self, sentence: str) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=PRESET, progress=Stop())
    assert list(files_in(tmp_path / "out")) == ["images/train/a.png"]
    assert rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=PRESET).num_reused == 1
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_a_changed_source_or_size_is_made_anew(tmp_path: Path) -> None:
    path, output = source(tmp_path), tmp_path / "out" / "train.jsonl"
    rescale_dataset(path, output, preset=PRESET)
    Image.new("RGB", (96, 96), "red").save(tmp_path / "in" / "images" / "b.jpg")
    assert rescale_dataset(path, output, preset=PRESET).num_reused == 1
    with Image.open(output.parent / "images" / "train" / "b.png") as image:
        assert image.getpixel((5, 5)) == (254, 0, 0)
    assert rescale_dataset(path, output, preset=RescalePreset(32, 12, 12)).num_reused == 0


def test_exif_rotation_is_applied_and_removed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "in" / "a.jpg", 96, 64, exif=exif)
    write_records(tmp_path / "in" / "train.jsonl", [record("a.jpg", 64, 96)])
    rescale_dataset(tmp_path / "in" / "train.jsonl", tmp_path / "out" / "train.jsonl", preset=PRESET)
    with Image.open(tmp_path / "in" / "a.jpg") as original, Image.open(tmp_path / "out" / "images" / "train" / "a.png") as image:
        assert image.size == (64, 96)
        assert image.tobytes() == original.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert not image.getexif()


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (64, 64), 9).save(tmp_path / "in" / "grey.png")
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "in" / "clear.png")
    write_records(tmp_path / "in" / "train.jsonl", [record("grey.png", 64, 64), record("clear.png", 64, 64)])
    rescale_dataset(tmp_path / "in" / "train.jsonl", tmp_path / "out" / "train.jsonl", preset=PRESET)
    for name, colour in (("grey.png", (9, 9, 9)), ("clear.png", (255, 255, 255))):
        with Image.open(tmp_path / "out" / "images" / "train" / name) as image:
            assert (image.mode, image.getpixel((0, 0))) == ("RGB", colour)


def test_two_images_that_would_get_the_same_name_stay_apart() -> None:
    images = ["a.jpg", "a.png", "./a.bmp", "x/../b.jpeg", "b.jpg", "a_.png", "images/train/a.png", "images/a.png", "deep/a.png"]
    names = output_names(images, stem="train")
    assert (names["a.jpg"], names["x/../b.jpeg"], names["deep/a.png"]) == ("images/train/a.png", "images/train/b.png", "images/train/deep/a.png")
    assert len(set(names.values())) == len(images)


def test_splits_with_equal_image_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for split, colour in (("train", "red"), ("val", "blue")):
        (tmp_path / split).mkdir()
        Image.new("RGB", (96, 96), colour).save(tmp_path / split / "a.png")
        write_records(tmp_path / split / f"{split}.jsonl", [record("a.png", 96, 96)])
        rescale_dataset(tmp_path / split / f"{split}.jsonl", tmp_path / "out" / f"{split}.jsonl", preset=PRESET)
    for split, colour in (("train", (255, 0, 0)), ("val", (0, 0, 255))):
        (item,) = read_records(tmp_path / "out" / f"{split}.jsonl")
        with Image.open(tmp_path / "out" / item.image) as image:
            assert image.getpixel((0, 0)) == colour


def broken(folder: Path, name: str) -> tuple[Path, RescalePreset]:
    path = source(folder)
    if name == "missing":
        (folder / "in" / "images" / "b.jpg").unlink()
    elif name == "size":
        picture(folder / "in" / "images" / "b.jpg", 97, 96)
    elif name == "damaged":
        content = (folder / "in" / "images" / "b.jpg").read_bytes()
        (folder / "in" / "images" / "b.jpg").write_bytes(content[: len(content) // 3])
    elif name == "record":
        path.write_text(path.read_text() + '{"images": []}\n')
    preset = {"kind": RescalePreset(32, 12, 4, kind="bbox_2d"), "objects": RescalePreset(32, 12, 4, max_objects=0)}.get(name, PRESET)
    return path, preset


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", r"train\.jsonl:2: the image .*b\.jpg does not exist"),
        ("size", r"train\.jsonl:2: the image .*b\.jpg is 97x96 \(upright\), but the annotations say 96x96"),
        ("damaged", r"the image .*b\.jpg cannot be decoded"),
        ("record", r"train\.jsonl:3: images: not a list with one path"),
        ("kind", r"train\.jsonl:2: objects\[0\]: a poly, but the preset says bbox_2d only; choose another preset"),
        ("objects", r"train\.jsonl:1: 1 objects, but the preset says at most 0; choose another preset"),
    ],
)
def test_a_failed_rescale_leaves_nothing_behind(tmp_path: Path, name: str, sentence: str, workers: int) -> None:
    path, preset = broken(tmp_path, name)
    with pytest.raises(DataError, match=sentence):
        rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=preset, workers=workers)
    assert not (tmp_path / "out").exists()


def many(folder: Path, count: int) -> Path:
    """Records of `count` images of several sizes and kinds; the first image has a second record."""
    sizes = ((200, 100), (96, 160), (64, 64), (150, 149))
    names = [f"{number}.{'jpg' if number % 3 else 'png'}" for number in range(count)]
    for number, name in enumerate(names):
        picture(folder / "in" / name, *sizes[number % 4])
    records = [record(name, *sizes[number % 4], DetObject("cat", "bbox_2d", (1, 2, 60.5, 63))) for number, name in enumerate(names)]
    write_records(folder / "in" / "train.jsonl", [*records, records[0]])
    return folder / "in" / "train.jsonl"


def test_every_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    path = many(tmp_path, 21)
    sentences = [rescale_dataset(path, tmp_path / str(workers) / "train.jsonl", preset=PRESET, workers=workers).sentence() for workers in (1, 2, 3)]
    assert len(set(sentences)) == 1
    assert files_in(tmp_path / "1") == files_in(tmp_path / "2") == files_in(tmp_path / "3")
    assert len(files_in(tmp_path / "1")) == 22


def test_workers_are_started_for_as_many_images_as_repay_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [choose_workers(0, num_items=count) for count in (0, 63, 130, 10_000)] == [1, 1, 2, 4]
    assert choose_workers(3, num_items=1) == 3


def test_a_second_rescale_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    path, images = source(tmp_path), tmp_path / "out" / "images" / "train"
    images.mkdir(parents=True)
    first = os.open(images, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match=r"images/train: another rescale is writing here; wait for it, or choose another folder"):
        rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=PRESET)
    os.close(first)
    assert rescale_dataset(path, tmp_path / "out" / "train.jsonl", preset=PRESET).num_images == 2


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    with pytest.raises(BackendError, match="a worker process was killed; use fewer --workers if memory ran out"):
        list(map_in_order(_die, range(3), workers=2))


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_output_cannot_lie_among_its_sources(tmp_path: Path) -> None:
    path = source(tmp_path)
    with pytest.raises(DataError, match="the output would lie among its own source images; choose another folder"):
        rescale_dataset(path, path.with_name("other.jsonl"), preset=PRESET)
