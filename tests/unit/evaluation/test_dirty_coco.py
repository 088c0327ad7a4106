"""Dirty COCO files: whatever stands in them, the evaluation ends with numbers and valid files, or with one sentence."""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.evaluate import evaluate_coco
from coordexp.types.errors import DataError

DIRT = (
    None, True, False, -1, 0, 1, 2, 7.5, -0.0, 1e308, -1e308, 10**25, -(10**400), 2**53, 2**63, math.nan, math.inf, -math.inf, "", "text", "\ud800", "é", "3",
    [], {}, [[]], [1, 2, 3], [[1, 2, 3, 4]], [[0, 0, 9, 0, 9, 9], [1]], {"size": [120, 160], "counts": "zz"}, {"size": [1, 1], "counts": [1]},
    {"size": [120, 160], "counts": [1e9]}, {"size": [10**12, 10**12], "counts": [0]}, [[1e300] * 6], json.loads("[" * 200 + "]" * 200),
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _soil(rng: random.Random, truth: Any, results: Any) -> None:
    for _ in range(rng.randrange(1, 6)):
        places = list(_places(rng.choice([truth, results])))
        if places:
            container, key = rng.choice(places)
            if rng.random() < 0.15 and isinstance(container, dict):
                del container[key]
            else:
                container[key] = rng.choice(DIRT)


def test_values_of_any_kind_in_any_place(make_coco: Any, write_coco: Any, tmp_path: Path, long_count: Callable[[int, int], int]) -> None:
    num_evaluated = 0
    for seed in range(long_count(80, 5000)):
        rng = random.Random(seed)
        truth, results = make_coco(seed % 5, num_images=4, gt_masks=seed % 2 == 0, pred_masks=seed % 4 == 0, lvis=seed % 3 == 0)
        _soil(rng, truth, results)
        try:
            result = evaluate_coco(*write_coco(truth, results))
        except DataError:
            continue
        result.save(tmp_path / "out")
        for path in (tmp_path / "out").glob("*.json"):
            json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert len(result.data.coco.pred) + result.counters["invalid_results"] == len(results)  # type: ignore[union-attr]
        num_evaluated += 1
    assert num_evaluated > 20


def test_bytes_of_any_kind_in_any_place(make_coco: Any, write_coco: Any, long_count: Callable[[int, int], int]) -> None:
    paths = write_coco(*make_coco(1, num_images=3, gt_masks=True, pred_masks=True))
    clean = [path.read_bytes() for path in paths]
    for seed in range(long_count(60, 3000)):
        rng = random.Random(seed)
        for path, content in zip(paths, clean, strict=True):
            start = rng.randrange(len(content))
            path.write_bytes(content[:start] + rng.choice([b"", b"\xff", b"\x00", b"}", b"1e999", b'"', b"\\ud800"]) + content[start + rng.randrange(3) :])
        with contextlib.suppress(DataError):
            evaluate_coco(*paths)
