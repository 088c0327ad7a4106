"""Records and annotations of strangers that name pictures outside of their folder, or pictures that unpack to gigabytes: at every command that opens pictures.

The secret is the only magenta picture of the machine. After each command no picture that was written, in a file or inside a page, is magenta.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.models.assets import tiny_checkpoint

SECRET, OWN = (255, 0, 255), (0, 0, 255)
BOX = [8, 8, 60, 60]
ESCAPES = {
    "dots": "../secret.png",
    "dots inside": "images/../../secret.png",
    "backslashes": "..\\secret.png",
    "absolute": "{outside}/secret.png",
    "address": "file://{outside}/secret.png",
    "link": "images/link.png",
    "linked folder": "linked/secret.png",
    "link to a link": "images/second.png",
}
TRIED = list(ESCAPES) if os.environ.get("COORDEXP_LONG") == "1" else ["dots inside", "absolute", "linked folder"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data with pictures and links; the secret lies beside the folder."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (96, 96), SECRET).save(tmp_path / "secret.png")
    for name in ("own", "other"):
        Image.new("RGB", (96, 96), OWN).save(folder / "images" / f"{name}.png")
    (folder / "images/link.png").symlink_to(tmp_path / "secret.png")
    (folder / "images/second.png").symlink_to("link.png")
    (folder / "linked").symlink_to(tmp_path)
    return folder


def _record(image: str) -> dict[str, Any]:
    return {"images": [image], "objects": [{"desc": "cat", "bbox_2d": BOX}], "width": 96, "height": 96, "coord_space": "pixel"}


def _prediction(image: str, desc: str = "dog") -> dict[str, Any]:
    item = {"type": "bbox_2d", "points": BOX, "desc": "cat"}
    return {"image": image, "width": 96, "height": 96, "mode": "coord", "coord_mode": "pixel", "gt": [item], "pred": [{**item, "desc": desc}], "errors": []}


def _lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _records(data: Path, image: str) -> str:
    return _lines(data / "train.jsonl", [_record("images/own.png"), _record(image)])


def _predictions(data: Path, image: str) -> str:
    _lines(data / "after/gt_vs_pred.jsonl", [_prediction("images/own.png", "cat"), _prediction(image, "cat")])
    return _lines(data / "run/gt_vs_pred.jsonl", [_prediction("images/own.png"), _prediction(image)])


def _coco(data: Path, image: str) -> str:
    images = [{"id": number, "file_name": name, "width": 96, "height": 96} for number, name in enumerate(("images/own.png", image), start=1)]
    annotations = [{"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 52, 52], "iscrowd": 0, "area": 2704} for number in (1, 2)]
    (data / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}))
    return str(data / "instances.json")


def _voc(data: Path, image: str) -> str:
    (data / "Annotations").mkdir()
    box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))
    for number, name in enumerate(("images/own.png", image)):
        text = f"<annotation><filename>{name}</filename><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        (data / "Annotations" / f"{number}.xml").write_text(text)
    return str(data)


def _yolo(data: Path, image: str) -> str:
    (data / "train.txt").write_text(f"images/own.png\n{image}\n")
    (data / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    return str(data / "data.yaml")


def _genome(data: Path, image: str) -> str:
    objects = [{"object_id": 1, "names": ["cat"], "x": 8, "y": 8, "w": 50, "h": 50}]
    rows = [{"image_id": number, "image_url": f"http://host/{name}", "objects": objects} for number, name in enumerate(("images/own.png", image), start=1)]
    (data / "objects.json").write_text(json.dumps(rows))
    return str(data / "objects.json")


def _swift(data: Path, image: str) -> str:
    return _lines(data / "rows.jsonl", [{"images": [name], "objects": {"ref": ["cat"], "bbox": [BOX]}} for name in ("images/own.png", image)])


def _training(data: Path, image: str) -> str:
    file = data / "train.yaml"
    file.write_text(
        f"model: {{model: {tiny_checkpoint()}, torch_dtype: float32}}\n"
        f"training: {{output_dir: {data.parent}/out/runs, run_name: r, learning_rate: 1.0e-3, max_steps: 1, per_device_train_batch_size: 2, use_cpu: true}}\n"
        f"custom: {{train_jsonl: {_records(data, image)}}}\n"
    )
    return str(file)


INFER = ["--model_checkpoint", str(tiny_checkpoint()), "--mode", "text", "--device", "cpu", "--max_new_tokens", "4"]
EVAL = ["--metrics", "f1ish", "--overlay", "--overlay-k", "5", "--label-match", "exact"]
Maker = Callable[[Path, str], str]
COMMANDS: dict[str, tuple[Maker, list[str]]] = {
    "train": (_training, ["train", "--config", "{}"]),
    "infer": (_records, ["infer", "--gt_jsonl", "{}", *INFER, "--out", "{out}/gt_vs_pred.jsonl"]),
    "vis": (_predictions, ["vis", "--pred_jsonl", "{}", "--save_dir", "{out}/vis", "--root_image_dir", "{data}"]),
    "eval": (_predictions, ["eval", "--pred_jsonl", "{}", "--out_dir", "{out}/eval", *EVAL, "--root_image_dir", "{data}", "--report"]),
    "report": (_predictions, ["report", "{data}/run", "--output", "{out}/report.html", "--root_image_dir", "{data}"]),
    "compare": (_predictions, ["eval", "compare", "{}", "{data}/after/gt_vs_pred.jsonl", "--out_dir", "{out}/compare", "--root_image_dir", "{data}"]),
    "doctor": (_records, ["doctor", "data", "{}", "--output", "{out}/doctor.html", "--model", str(tiny_checkpoint())]),
    "validate": (_records, ["data", "validate", "{}", "--images"]),
    "stats": (_records, ["data", "stats", "{}", "--output", "{out}/stats.html"]),
    "rescale": (_records, ["data", "rescale", "{}", "--into", "{out}", "--preset", "rescale_32_64"]),
    "filter": (_records, ["data", "filter", "{}", "--output", "{data}/filtered.jsonl", "--duplicates", "3"]),
    "merge": (_records, ["data", "merge", "one={}", "--output", "{out}/merged.jsonl"]),
    "export coco": (_records, ["data", "export", "coco", "{}", "--output", "{out}/coco.json"]),
    "export yolo": (_records, ["data", "export", "yolo", "train={}", "--output", "{out}/yolo"]),
    "import coco": (_coco, ["data", "import", "coco", "{}", "--images", "{data}", "--output", "{out}/coco.jsonl"]),
    "import voc": (_voc, ["data", "import", "voc", "{}", "--images", "{data}", "--output", "{out}/voc.jsonl"]),
    "import yolo": (_yolo, ["data", "import", "yolo", "{}", "--output", "{out}/yolo.jsonl"]),
    "import visual genome": (_genome, ["data", "import", "visual-genome", "{}", "--images", "{data}", "--output", "{out}/genome.jsonl"]),
    "import swift": (_swift, ["data", "import", "swift", "{}", "--images", "{data}", "--output", "{out}/swift.jsonl"]),
}
NAMES_ALONE = {"stats", "export coco"}
"""They open no picture: a link is no matter to them."""


def _pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    for path in folder.rglob("*"):
        if path.suffix in (".png", ".jpg"):
            yield str(path), Image.open(path)
        if path.suffix == ".html":
            for data in re.findall(r"data:image/\w+;base64,([\w+/=]+)", path.read_text()):
                yield str(path), Image.open(io.BytesIO(base64.b64decode(data)))


def _is_secret(image: Image.Image) -> bool:
    red, green, blue = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    return min(red, blue) - green > 100


def _run(command: str, data: Path, image: str) -> int:
    out = data.parent / "out"
    out.mkdir()
    make, arguments = COMMANDS[command]
    file = make(data, image)
    return main([part.replace("{}", file).replace("{out}", str(out)).replace("{data}", str(data)) for part in arguments])


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_command_works_where_nobody_attacks(command: str, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = _run(command, data, "images/other.png")
    said = capfd.readouterr()
    assert code in (0, 3), said.err
    if command in ("vis", "eval", "report", "compare", "doctor", "rescale", "export yolo", "import coco"):
        assert list(_pictures(data.parent / "out"))


@pytest.mark.parametrize("escape", TRIED)
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_picture_outside_of_the_folder_is_not_opened(command: str, escape: str, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = ESCAPES[escape].format(outside=data.parent)
    code = _run(command, data, image)
    said = capfd.readouterr()
    assert code in (0, 2, 3), said.err
    assert "Traceback" not in said.err
    assert [name for name, picture in _pictures(data.parent / "out") if _is_secret(picture)] == []
    written = [path.resolve() for path in (data.parent / "out").rglob("*") if path.is_file()]
    assert not any(path.samefile(data.parent / "secret.png") for path in written)


def test_the_secret_would_be_seen(data: Path) -> None:
    (data / "images/inside.png").write_bytes((data.parent / "secret.png").read_bytes())
    assert _run("report", data, "images/inside.png") == 0
    assert [name for name, picture in _pictures(data.parent / "out") if _is_secret(picture)]


SIDE = 30_000
UNPACKED = SIDE * SIDE


def _bomb(path: Path) -> Path:
    """A PNG of 30,000 x 30,000 grey pixels in less than a megabyte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(1 + SIDE)) for _ in range(SIDE)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert path.stat().st_size < 1 << 20
    return path


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bomb(tmp_path_factory.mktemp("bomb") / "bomb.png")


def _memory(name: str) -> int:
    """Bytes of this process, from a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in NAMES_ALONE])
def test_a_picture_that_unpacks_to_a_gigabyte_is_not_unpacked(
    command: str, data: Path, bomb: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.link(bomb, data / "images/bomb.png")
    claimed = {"width": SIDE, "height": SIDE}  # by the record too, so that no other rule is broken
    for make in (_record, _prediction):
        monkeypatch.setitem(globals(), make.__name__, lambda image, *rest, make=make: make(image, *rest) | (claimed if "bomb" in image else {}))
    importlib.import_module("coordexp.recipes.stage1")  # what libraries take is not the picture's
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted from here
    before = _memory("VmRSS")
    code = _run(command, data, "images/bomb.png")
    assert _memory("VmHWM") - before < UNPACKED // 2
    said = capfd.readouterr()
    assert code in (0, 2, 3), said.err
    assert "Traceback" not in said.err


def test_a_mask_that_unpacks_to_a_gigabyte_is_one_sentence(data: Path, bomb: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = _voc(data, "images/other.png")
    (data / "SegmentationObject").mkdir()
    os.link(bomb, data / "SegmentationObject/0.png")
    out = str(data.parent / "voc.jsonl")
    assert main(["data", "import", "voc", root, "--images", root, "--output", out, "--geometry", "poly"]) == 2
    assert "SegmentationObject/0.png: the segmentation cannot be read" in capfd.readouterr().err


def test_a_row_whose_picture_unpacks_to_a_gigabyte_is_one_sentence(data: Path, bomb: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", data.parent / "cache")
    rows = [{"image": bomb.read_bytes(), "bbox": [BOX], "label": ["cat"]}]
    datasets.Dataset.from_list(rows).to_parquet(str(data / "rows.parquet"))
    columns = ["--box-format", "xyxy", "--bbox", "bbox", "--label", "label"]
    assert main(["data", "import", "hf", str(data / "rows.parquet"), *columns, "--output", str(data.parent / "out.jsonl")]) == 2
    assert "limit" in capfd.readouterr().err
    assert not (data.parent / "out.jsonl").exists()
