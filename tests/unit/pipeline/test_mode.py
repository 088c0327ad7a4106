"""Mode auto: by what the numbers are, unless the records say it."""

import json
from pathlib import Path

import pytest

from coordexp.pipeline.mode import ModeChoice, choose_mode
from coordexp.pipeline.source import iter_source

TOKENS = [f"<|coord_{k}|>" for k in (1, 2, 30, 40)]


def lines(folder: Path, values: list, **fields: object):
    record = {"images": ["a.png"], "width": 100, "height": 80, "objects": [{"desc": "cat", "bbox_2d": values}], **fields}
    path = folder / "val.jsonl"
    path.write_text("{broken\n" + f"{json.dumps(record)}\n" * 3)
    return iter_source(path)


@pytest.mark.parametrize(
    ("values", "fields", "expected"),
    [
        (TOKENS, {}, ModeChoice("coord", "coord_tokens_found", 1)),
        ([1, 2, 700, 40], {"coord_space": "norm1000"}, ModeChoice("coord", "points_exceed_image", 2)),
        ([1, 2, 30, 40], {"coord_space": "norm1000"}, ModeChoice("coord", "coord_space_norm1000", 2)),
        ([1, 2, 30, 40], {"coord_space": "pixel"}, ModeChoice("text", "within_image_bounds", 2)),
        ([1, 2, 130, 40], {"coord_space": "pixel"}, ModeChoice("text", "coord_space_pixel", 2)),
    ],
    ids=["tokens", "beyond the image", "small bins", "pixels", "pixels beyond the border"],
)
def test_auto(tmp_path: Path, values: list, fields: dict, expected: ModeChoice) -> None:
    assert choose_mode("auto", lines(tmp_path, values, **fields), detect_samples=2) == expected


def test_a_configured_mode_looks_at_nothing(tmp_path: Path) -> None:
    assert choose_mode("text", lines(tmp_path, TOKENS), detect_samples=2) == ModeChoice("text", "configured", 0)


def test_nothing_valid_is_text(tmp_path: Path) -> None:
    assert choose_mode("auto", lines(tmp_path, [9, 9, 1, 1], coord_space="pixel"), detect_samples=2).reason == "no_valid_records"
