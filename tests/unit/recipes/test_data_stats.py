"""The numbers of a record file, against numpy and against the training's own measure; the check of a fusion file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.cli.main import main
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records, write_records
from coordexp.data.stats import collect_stats
from coordexp.models.processor import load_processor
from coordexp.recipes.data_stats import run_stats
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record

EVIL = "<script>alert(1)</script>"


def write(folder: Path, *, num: int = 12, name: str = "train.jsonl") -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number in range(num):
        width, height = 64 * int(generator.integers(1, 4)), 64
        objects = []
        for _ in range(number % 4):
            x, y = sorted(generator.uniform(0, width - 1, 2).tolist()), sorted(generator.uniform(0, height - 1, 2).tolist())
            objects.append(DetObject(str(generator.choice(["cat", "dog", EVIL], p=[0.7, 0.25, 0.05])), "bbox_2d", (x[0], y[0], x[1], y[1])))
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        records.append(Record("", f"{number}.png", width, height, tuple(objects), "pixel", metadata={"dataset": "a" if number % 2 else "b"}))
    write_records(folder / name, records)
    return folder / name


def test_every_number_equals_what_numpy_counts(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, num=40))
    stats = collect_stats(records, name="train")
    boxes = np.array([item.points for record in records for item in record.objects])
    sizes = np.array([(record.width, record.height) for record in records for _ in record.objects])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert stats.size_histogram.counts == tuple(np.histogram(np.sqrt(area / sizes.prod(1)), bins=20, range=(0, 1))[0])
    assert stats.aspect_histogram.counts == tuple(
        np.histogram(np.clip(np.log2((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])), -3.99, 3.99), bins=16, range=(-4, 4))[0]
    )
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / sizes
    assert (stats.centres == np.histogram2d(middle[:, 1], middle[:, 0], bins=20, range=((0, 1), (0, 1)))[0]).all()
    assert stats.size_classes == {"small": (area < 1024).sum(), "medium": ((area >= 1024) & (area < 9216)).sum()}
    assert stats.objects_per_image == {0: 10, 1: 10, 2: 10, 3: 10}
    assert (stats.num_records, stats.num_objects, stats.num_empty, stats.labels.total()) == (40, 60, 10, 60)
    assert stats.datasets == {"a": 20, "b": 20}
    assert stats.label_images["cat"] == sum(any(item.desc == "cat" for item in record.objects) for record in records)


def test_the_tail_of_labels_is_summed_up() -> None:
    counts = {"a": 50, "b": 30, "c": 10, "d": 9, "e": 1}
    objects = tuple(DetObject(label, "bbox_2d", (0, 0, 1, 1)) for label, count in counts.items() for _ in range(count))
    tail = collect_stats([Record("", "a.png", 8, 8, objects, "pixel")], name="x").tail()
    assert tail == {
        "labels": 5,
        "with_one_object": 1,
        "with_at_most_10_objects": 3,
        "share_of_the_10_most_frequent": 1.0,
        "labels_that_hold_half_of_the_objects": 1,
    }


def test_token_lengths_are_those_of_training(tmp_path: Path, tiny_folder: Path) -> None:
    source = write(tmp_path)
    stats, page = run_stats(source, model=tiny_folder, max_length=90)
    processor = load_processor(tiny_folder)
    records = [to_norm1000(record) for record in read_records(source)]
    samples = SegmentSource(
        records,
        image_root=tmp_path,
        encoder=PromptEncoder(processor),
        tokenizer=processor.tokenizer,  # type: ignore[arg-type]
        coord_vocab=CoordVocabulary.from_tokenizer(processor.tokenizer, where="tiny"),
        settings=SampleSettings(),
    )
    expected = [samples.measure(index, epoch=0).total for index in range(len(records))]
    assert stats.lengths is not None
    assert list(stats.lengths.lengths) == expected
    assert stats.lengths.num_over == sum(length > 90 for length in expected) > 0
    tree = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert tree["token_lengths"]["p100"] == max(expected)
    assert tree["token_lengths"]["longest"][0]["record"] == records[int(np.argmax(expected))].id
    text = page.read_text(encoding="utf-8")
    assert f"{stats.lengths.num_over} samples are longer than 90 tokens." in text


def test_the_page_holds_itself_together_and_lets_no_label_speak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, num=40)
    assert main(["data", "stats", str(source)]) == 0
    assert "train.stats.html: 40 records, 60 objects (1.50 an image), 10 without objects; 3 labels" in capsys.readouterr().out
    text = (tmp_path / "train.stats.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count('<svg class="chart"') == 4
    assert text.count("<rect x=") == 400
    assert main(["data", "stats", str(source), "--max-length", "9"]) == 2
    assert main(["data", "stats", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["cat"] > 10


def test_no_record_is_an_error() -> None:
    with pytest.raises(DataError, match="x: there are no records"):
        collect_stats([], name="x")


def test_a_fusion_file_is_read_as_training_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", num=8)
    val = write(tmp_path / "c", num=4, name="val.jsonl")
    os.link(tmp_path / "b/7.png", tmp_path / "c/again.png")
    write_records(val, [Record("", "again.png", *Image.open(tmp_path / "c/again.png").size, (), "pixel")])
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n- {{name: coco, train_jsonl: {first}, ratio: 0.5, max_objects_per_image: 2}}\n"
        f"- {{name: lvis, train_jsonl: {second}, val_jsonl: {val}, ratio: 2.0, sample_without_replacement: true}}\n"
    )
    assert main(["data", "fusion", str(tmp_path / "mix.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("mix.yaml: 2 data sets, 14 samples of an epoch")
    over = "3 records above max_objects_per_image"
    assert lines[1] == f"coco: 12 records, 18 objects, 3 labels; ratio 0.5: 6 samples of an epoch (42.9%); no validation file; {over}"
    assert lines[2] == (
        "lvis: 8 records, 12 objects, 3 labels; ratio 2: 8 samples of an epoch (57.1%); 1 validation records;"
        " the ratio is cut to 1 by sample_without_replacement; WARNING: 1 training images are in a validation file"
    )
    (tmp_path / "b/3.png").unlink()
    assert main(["data", "fusion", str(tmp_path / "mix.yaml")]) == 2
    assert "train.jsonl:4: the image " in capsys.readouterr().err
