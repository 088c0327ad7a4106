"""How much of a model's error comes from having to go on from its own words: its answers and its predictions under teacher forcing, on the same objects.

Only the objects that the own answer found are compared (assigned by IoU, 0.5 or more), so that both speak of the same. What training on own outputs can win is
the difference, less what the true coordinates of a box tell about its last one (in data whose shapes are as wide as high: all of it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordexp.geometry.bins import bins_to_pixels
from coordexp.geometry.boxes import box_iou

COORDINATES = ("x1", "y1", "x2", "y2")
_FOUND_IOU = 0.5
_NEAR_PIXELS = 1.0


def exposure(own: Path, teacher: Path) -> dict[str, float]:
    """Shares of right names, and of coordinates within one pixel, of both files on the objects that `own` found.

    Args:
        own: `gt_vs_pred.jsonl` of inference, in pixels.
        teacher: that of `teacher.teacher_forced`, in bins; its n-th prediction is of the n-th annotation.
    """
    names: dict[str, list[bool]] = {"own": [], "teacher": []}
    errors: dict[str, list[np.ndarray]] = {"own": [], "teacher": []}
    for line, forced in zip(_lines(own), _lines(teacher), strict=True):
        truth, said = line["gt"], line["pred"]
        size = {"width": line["width"], "height": line["height"]}
        for pred, gt in _found(said, truth):
            other = forced["pred"][gt]
            names["own"].append(said[pred]["desc"] == truth[gt]["desc"])
            names["teacher"].append(other["desc"] == truth[gt]["desc"])
            exact = np.array(truth[gt]["points"], dtype=float)
            errors["own"].append(np.abs(said[pred]["points"] - exact))
            errors["teacher"].append(np.abs(np.rint(bins_to_pixels(other["points"], **size)) - exact))
    found = {"objects": float(len(names["own"])), **{f"names_{who}": float(np.mean(right)) for who, right in names.items()}}
    for who, rows in errors.items():
        shares = (np.array(rows) <= _NEAR_PIXELS).mean(axis=0)
        found |= {f"{name}_{who}": float(share) for name, share in zip(COORDINATES, shares, strict=True)}
    return found


def exposure_table(found: Mapping[str, float]) -> list[str]:
    """As rows of a page."""
    columns = ("names", *COORDINATES)
    near = " | ".join(f"{name} within a pixel" for name in COORDINATES)
    lines = [
        f"| on the {found['objects']:.0f} objects that the starting checkpoint finds | right name | {near} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for who, words in (("own", "behind its own words"), ("teacher", "behind the annotation (teacher forcing)")):
        shares = [f"{100 * found[f'{name}_{who}']:.1f} %" for name in columns]
        lines.append(f"| {words} | {' | '.join(shares)} |")
    return lines


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _found(said: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[tuple[int, int]]:
    if not said or not truth:
        return []
    overlap = box_iou(*(np.array([item["points"] for item in items], dtype=float) for items in (said, truth)))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if overlap[row, column] >= _FOUND_IOU]
