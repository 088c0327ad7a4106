"""One data file with everything that can be wrong with a line or its picture, through the command: each line is answered or has its error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.codec.coord_tokens import coord_token
from coordexp.data.synthetic import load_split, render_scene
from coordexp.models.assets import tiny_checkpoint

SIDE = 96


def whole(image: Image.Image, path: Path) -> None:
    image.save(path)


def truncated(image: Image.Image, path: Path) -> None:
    image.save(path)
    path.write_bytes(path.read_bytes()[:300])


def as_cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path, quality=98)


def with_16_bits(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=98)


def linked_outside(image: Image.Image, path: Path) -> None:
    path.symlink_to(path.parent.parent / "outside.png")


def plain(width: int, height: int) -> Callable[[Image.Image, Path], None]:
    return lambda image, path: Image.new("RGB", (width, height), "gray").save(path)


def nothing(image: Image.Image, path: Path) -> None:
    return None


PICTURES: dict[str, tuple[Callable[[Image.Image, Path], None], dict[str, Any], list[str]]] = {
    "good.png": (whole, {}, []),
    "missing.png": (nothing, {}, ["image_error"]),
    "truncated.png": (truncated, {}, ["image_error"]),
    "dot.png": (plain(1, 1), {"width": 1, "height": 1, "objects": []}, ["empty_pred"]),
    "strip.png": (plain(20_000, 10), {"width": 20_000, "height": 10, "objects": []}, ["image_error"]),
    "cmyk.jpg": (as_cmyk, {}, []),
    "deep.png": (with_16_bits, {}, []),
    "turned.jpg": (turned, {}, []),
    "../outside.png": (whole, {}, ["image_error"]),
    "linked.png": (linked_outside, {}, ["image_error"]),
    "no_objects.png": (whole, {"objects": []}, []),
    "line.png": (whole, {"objects": [{"desc": "cat", "line": [1, 2, 3, 4]}]}, ["invalid_geometry"]),
    "swapped.png": (whole, {"objects": [{"desc": "cat", "bbox_2d": [coord_token(k) for k in (900, 10, 100, 500)]}]}, ["invalid_geometry"]),
    "other_size.png": (plain(64, 64), {}, ["size_mismatch"]),
    "last.png": (whole, {}, []),
}
"""Name → how the file is made, what is special in its record, which errors its line has."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[list[str]]]:
    """The folder, the lines of the result, the errors that each is to have."""
    folder = tmp_path_factory.mktemp("dirty")
    (folder / "data").mkdir()
    scene = render_scene(load_split("shapes-val").settings, 1)
    image = Image.fromarray(scene.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    scale = 999 / (scene.image.shape[0] - 1)
    objects = [{"desc": item.desc, "bbox_2d": [coord_token(round(value * scale)) for value in item.points]} for item in scene.objects]
    lines: list[str] = []
    expected: list[list[str]] = []
    for name, (make, special, errors) in PICTURES.items():
        make(image, folder / "data" / name)
        lines.append(json.dumps({"images": [name], "width": SIDE, "height": SIDE, "objects": objects, **special}))
        expected.append(errors)
    lines.insert(5, '{"images": ["good.png"], "wid')
    expected.insert(5, ["invalid_json"])
    (folder / "data" / "val.jsonl").write_text("\n".join(lines) + "\n")
    before = sorted(folder.rglob("*"))
    flags = {"gt_jsonl": folder / "data" / "val.jsonl", "model_checkpoint": tiny_checkpoint(), "mode": "coord", "device": "cpu", "max_new_tokens": 160}
    flags |= {"out": folder / "out" / "gt_vs_pred.jsonl", "batch-size": 4}
    assert main(["infer", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]) == 0
    written = sorted(set(folder.rglob("*")) - set(before))
    assert [path.name for path in written] == ["out", "gt_vs_pred.jsonl", "resolved_config.json", "summary.json"]
    results = [json.loads(line) for line in (folder / "out" / "gt_vs_pred.jsonl").read_text().splitlines()]
    return folder, results, expected


def test_every_line_is_answered_or_has_its_error_in_the_order_of_the_file(run) -> None:
    _, results, expected = run
    names = list(PICTURES)
    names.insert(5, "")
    assert [line["image"] for line in results] == names
    assert {line["image"]: line["errors"] for line in results} == dict(zip(names, expected, strict=True))
    assert all(line["message"] for line in results if line["finish_reason"] is None)


def test_the_counters_add_up(run) -> None:
    folder, results, _ = run
    summary = json.loads((folder / "out" / "summary.json").read_text())
    failed = [line for line in results if line["finish_reason"] is None]
    assert summary["total_read"] == summary["total_emitted"] == len(results) == 16
    assert (summary["total_answered"], summary["total_failed"]) == (16 - len(failed), len(failed))
    by_code = {code: sum(code in line["errors"] for line in results) for code in summary["counters"]}
    assert summary["counters"] == by_code
    assert summary["objects"]["kept"] == sum(len(line["pred"]) for line in results)


def test_the_same_scene_is_answered_alike_in_every_form(run) -> None:
    _, results, _ = run
    lines = {line["image"]: line for line in results}
    assert lines["good.png"]["pred"] == lines["last.png"]["pred"] == lines["no_objects.png"]["pred"]
    for name in ("good.png", "cmyk.jpg", "turned.jpg"):
        pred, truth = lines[name]["pred"], lines[name]["gt"]
        assert [item["desc"] for item in pred] == [item["desc"] for item in truth]
        np.testing.assert_allclose([item["points"] for item in pred], [item["points"] for item in truth], atol=3)
    assert len(lines["deep.png"]["pred"]) == len(lines["deep.png"]["gt"])  # grey: shapes without their colours
