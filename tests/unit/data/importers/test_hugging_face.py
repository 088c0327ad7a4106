"""Import of data sets that the library datasets wrote, by a mapping of columns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from coordexp.data.importers.hugging_face import HfColumns, import_hugging_face
from coordexp.data.importers.options import ImportOptions
from coordexp.types.errors import DataError
from coordexp.types.records import Record


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Tables that the library makes of Parquet files stay out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(width: int, height: int, *, turned: bool = False, kind: str = "JPEG", mode: str = "RGB") -> dict[str, Any]:
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    stream = BytesIO()
    Image.new(mode, (width, height), 80).save(stream, format=kind, exif=exif)
    return {"bytes": stream.getvalue(), "path": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Structs of lists with class labels, as most detection sets of the hub; a grey PNG and a picture that EXIF turns."""
    objects = {
        "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), 4)),
        "category": datasets.Sequence(datasets.ClassLabel(names=["hat", "gant été"])),
    }
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    rows = {
        "image": [encoded(40, 30, kind="PNG", mode="L"), encoded(60, 20, turned=True)],
        "objects": [{"bbox": [[1, 2, 10, 12], [30, 20, 10, 10]], "category": [1, 0]}, {"bbox": [], "category": []}],
    }
    folder = tmp_path_factory.mktemp("hf") / "set"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(str(folder))
    return folder


def test_rows_become_records_with_the_names_of_their_classes_and_pictures_as_they_were(
    saved: Path, tmp_path: Path, read_valid: Callable[[Path], list[Record]]
) -> None:
    summary = import_hugging_face(str(saved), output=tmp_path / "out/hats.jsonl", columns=HfColumns("xywh"))
    first, second = read_valid(tmp_path / "out/hats.jsonl")
    theirs = datasets.load_from_disk(str(saved))["train"]
    names = theirs.features["objects"]["category"].feature.names
    row = theirs[0]["objects"]
    assert [found.desc for found in first.objects] == [names[number] for number in row["category"]]
    for found, (x, y, width, height) in zip(first.objects, row["bbox"], strict=True):
        assert found.points == (x, y, min(x + width, 39), min(y + height, 29))
    assert [(record.image, record.width, record.height) for record in (first, second)] == [
        ("images/hats/0000000.png", 40, 30),
        ("images/hats/0000001.jpg", 20, 60),
    ]
    assert (summary.num_written, summary.num_clamped, summary.num_empty_images) == (2, 1, 1)


def test_lists_of_structs_fractions_texts_and_polygons_are_mapped_too(tmp_path: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    ring = [0.1, 0.1, 0.6, 0.1, 0.6, 0.8]
    rows = [{"photo": encoded(40, 30), "marks": [{"where": [0.35, 0.45, 0.5, 0.7], "what": "猫", "outline": [ring]}]}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "cats.parquet"))
    columns = HfColumns("cxcywh", image="photo", bbox="marks.where", label="marks.what", segmentation="marks.outline", unit="fraction")
    for geometry, expected in (("bbox_2d", (4, 3, 24, 24)), ("poly", (4, 3, 24, 3, 24, 24))):
        options = ImportOptions(geometry=geometry)  # type: ignore[arg-type]
        import_hugging_face(str(tmp_path / "cats.parquet"), output=tmp_path / "out/cats.jsonl", columns=columns, options=options)
        (record,) = read_valid(tmp_path / "out/cats.jsonl")
        assert (record.objects[0].desc, record.objects[0].points) == ("猫", pytest.approx(expected))


def test_what_is_not_there_is_named(saved: Path, tmp_path: Path) -> None:
    output = tmp_path / "out/hats.jsonl"
    with pytest.raises(DataError, match=r"there is no column 'objects.box'; choose among: bbox, category"):
        import_hugging_face(str(saved), output=output, columns=HfColumns("xywh", bbox="objects.box"))
    with pytest.raises(DataError, match=r"there is no split 'test'"):
        import_hugging_face(str(saved), output=output, columns=HfColumns("xywh"), split="test")
    with pytest.raises(DataError, match=r"the data set cannot be loaded"):
        import_hugging_face(str(tmp_path / "none.parquet"), output=output, columns=HfColumns("xywh"))
    datasets.Dataset.from_list([{"image": b"no picture", "bbox": [[1, 1, 2, 2]], "label": [4]}]).to_parquet(str(tmp_path / "odd.parquet"))
    columns = HfColumns("xyxy", bbox="bbox", label="label")
    with pytest.raises(DataError, match=r"row 0: the image .* is not an image file that Pillow reads"):
        import_hugging_face(str(tmp_path / "odd.parquet"), output=output, columns=columns)
    assert not output.parent.exists()


def test_rows_may_name_files_of_their_data_set_alone(tmp_path: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for place in (folder / "images/own.png", tmp_path / "private.png"):
        Image.new("RGB", (20, 20), "red").save(place)
    (folder / "images/link.png").symlink_to(tmp_path / "private.png")
    columns, output = HfColumns("xyxy", bbox="bbox", label="label"), tmp_path / "out/rows.jsonl"

    def import_row(name: str) -> list[Record]:
        datasets.Dataset.from_list([{"image": name, "bbox": [[1, 1, 9, 9]], "label": ["hat"]}]).to_parquet(str(folder / "rows.parquet"))
        import_hugging_face(str(folder / "rows.parquet"), output=output, columns=columns)
        return read_valid(output)

    assert [record.width for record in import_row("images/own.png") + import_row(str(folder / "images/own.png"))] == [20, 20]
    for name in ("../private.png", str(tmp_path / "private.png"), "images/link.png", "/etc/passwd"):
        with pytest.raises(DataError, match="lies outside of the data set"):
            import_row(name)


def test_without_the_library_one_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['datasets'] = None\nfrom coordexp.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    line = ["data", "import", "hf", "x", "--box-format", "xywh", "--output", "out/a.jsonl"]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (2, "error: import hf: the library datasets is not installed; pip install 'coordexp[hf]'\n")
