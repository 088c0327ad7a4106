"""Damaged COCO files: a byte more, less or another one anywhere, and the evaluation ends with numbers or with one sentence."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from coordexp.evaluation.evaluate import evaluate_coco
from coordexp.types.errors import DataError

DAMAGE = (b"", b"\xff", b"\x00", b"}", b"1e999", b'"', b"\\ud800")


def test_bytes_of_any_kind_in_any_place(make_coco: Any, write_coco: Any, long_count: Callable[[int, int], int]) -> None:
    paths = write_coco(*make_coco(1, num_images=3, gt_masks=True, pred_masks=True))
    clean = [path.read_bytes() for path in paths]
    num_refused = 0
    for seed in range(long_count(60, 3000)):
        rng = random.Random(seed)
        for path, content in zip(paths, clean, strict=True):
            start = rng.randrange(len(content))
            path.write_bytes(content[:start] + rng.choice(DAMAGE) + content[start + rng.randrange(3) :])
        with contextlib.suppress(DataError):
            evaluate_coco(*paths)
            num_refused -= 1
        num_refused += 1
    assert num_refused > 20
