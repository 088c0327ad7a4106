"""CPU seconds and memory of `coordexp eval --metrics both`, each as a whole command in a process of its own; pycocotools on the same data in the same run.

python benchmarks/evaluator.py [--quick] [--json PATH] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cli_startup import median_seconds
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from suite.command import benchmark_parser, show_figures, write_figures

WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class Scenes:
    """A generated set: what a fair detector says about random objects."""

    images: int
    classes: int
    gts_per_image: float
    polygons: float = 0.0
    """Share of objects that are polygons, of 12 vertices."""
    seed: int = 0

    def write(self, path: Path) -> int:
        """Writes a gt_vs_pred.jsonl. Returns the number of objects, ground truths and predictions."""
        rng = np.random.default_rng(self.seed)
        gt_counts = rng.poisson(self.gts_per_image, self.images)
        gt_boxes, gt_classes = self._boxes(rng, int(gt_counts.sum())), rng.integers(0, self.classes, int(gt_counts.sum()))
        found = rng.random(len(gt_boxes)) < 0.85
        sides = np.tile(gt_boxes[:, 2:] - gt_boxes[:, :2], 2)
        moved = np.clip(np.rint(gt_boxes + rng.normal(0, 0.06, gt_boxes.shape) * sides), 0, [WIDTH - 2, HEIGHT - 2] * 2)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        said = np.where(rng.random(len(gt_boxes)) < 0.9, gt_classes, rng.integers(0, self.classes, len(gt_boxes)))
        extra_counts = rng.poisson(2.5, self.images)
        extra, extra_classes = self._boxes(rng, int(extra_counts.sum())), rng.integers(0, self.classes, int(extra_counts.sum()))
        gt_ends, extra_ends = np.cumsum(gt_counts), np.cumsum(extra_counts)
        with path.open("wb") as stream:
            for image in range(self.images):
                own = slice(int(gt_ends[image] - gt_counts[image]), int(gt_ends[image]))
                more = slice(int(extra_ends[image] - extra_counts[image]), int(extra_ends[image]))
                pred_boxes = np.concatenate([moved[own][found[own]], extra[more]])
                pred_classes = np.concatenate([said[own][found[own]], extra_classes[more]])
                record = {"image": f"images/{image:012d}.jpg", "width": WIDTH, "height": HEIGHT, "mode": "coord", "coord_mode": "pixel", "errors": []}
                gt, pred = self._objects(rng, gt_boxes[own], gt_classes[own]), self._objects(rng, pred_boxes, pred_classes, scored=True)
                stream.write(msgspec.json.encode({**record, "gt": gt, "pred": pred}) + b"\n")
        return int(len(gt_boxes) + found.sum() + len(extra))

    def _boxes(self, rng: np.random.Generator, count: int) -> np.ndarray:
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        corner = rng.random((count, 2)) * (np.array([WIDTH - 1, HEIGHT - 1]) - sides)
        return np.rint(np.concatenate([corner, corner + sides], axis=1))

    def _objects(self, rng: np.random.Generator, boxes: np.ndarray, classes: np.ndarray, *, scored: bool = False) -> list[dict[str, Any]]:
        are_polygons = rng.random(len(boxes)) < self.polygons
        scores = rng.random(len(boxes)).tolist()
        objects: list[dict[str, Any]] = []
        for box, label, is_polygon, score in zip(boxes.astype(int).tolist(), classes.tolist(), are_polygons.tolist(), scores, strict=True):
            shape = {"type": "poly", "points": _ellipse(box)} if is_polygon else {"type": "bbox_2d", "points": box}
            objects.append({**shape, "desc": f"class {label}"} | ({"score": score} if scored else {}))
        return objects


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    peak_mb: float


def cost_of(command: list[str], **environment: str) -> Cost:
    """User and system seconds and the largest resident memory of a whole process."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read().decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def eval_cost(predictions: Path, *, labels: str = "exact", **environment: str) -> Cost:
    """The whole command: start, reading, all numbers, all files."""
    command = [sys.executable, "-m", "coordexp", "eval", "--pred_jsonl", str(predictions), "--out_dir", str(predictions.with_suffix(""))]
    return cost_of([*command, "--metrics", "both", "--label-match", labels], **environment)


def referee(folder: Path) -> dict[str, float]:
    """Runs in a process of its own: CPU seconds of pycocotools' evaluate and accumulate alone, on the files that our command wrote; and its AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "coco_gt.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(folder / "coco_preds.json")), "bbox")
        start = _own_cpu_s()
        evaluator.evaluate()
        evaluator.accumulate()
        seconds = _own_cpu_s() - start
        evaluator.summarize()
    return {"cpu_s": seconds, "AP": float(evaluator.stats[0])}


def against_pycocotools(folder: Path) -> dict[str, float]:
    """5,000 images, 80 classes, about 37,000 ground truths: our whole command over COCOeval alone."""
    predictions = folder / "coco_like.jsonl"
    Scenes(5000, 80, 7.3).write(predictions)
    ours = eval_cost(predictions)
    out = predictions.with_suffix("")
    answer = subprocess.run([sys.executable, __file__, "--referee", str(out)], capture_output=True, text=True, check=True)
    theirs = json.loads(answer.stdout)
    ap = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["metrics"]["bbox_AP"]
    if ap != theirs["AP"]:
        raise SystemExit(f"the numbers differ: {ap!r} here, {theirs['AP']!r} by pycocotools")
    return {"cpu_ratio_vs_pycocotools": ours.cpu_s / theirs["cpu_s"], "cpu_s": ours.cpu_s, "pycocotools_cpu_s": theirs["cpu_s"]}


def scaling(folder: Path, image_counts: tuple[int, ...]) -> dict[str, float]:
    """Slope of log CPU seconds of the whole command over log objects; of each size the better of two runs, since other load only adds."""
    sizes, seconds = [], []
    for count in image_counts:
        predictions = folder / f"scaling_{count}.jsonl"
        sizes.append(Scenes(count, 80, 12.3, seed=count).write(predictions))
        seconds.append(min(eval_cost(predictions).cpu_s for _ in range(2)))
        predictions.unlink()
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    ends = {"min_objects": sizes[0], "min_cpu_s": seconds[0], "max_objects": sizes[-1], "max_cpu_s": seconds[-1]}
    return {"scaling_exponent": slope, **{f"scaling_{name}": value for name, value in ends.items()}}


def one_record_cost(folder: Path, *, labels: str = "exact", **environment: str) -> Cost:
    """One image with one unknown name, so that the semantic rule needs its encoder."""
    predictions = folder / f"one_{labels}.jsonl"
    box = {"type": "bbox_2d", "points": [10, 10, 90, 90]}
    record = {"image": "a.jpg", "width": 100, "height": 100, "gt": [{**box, "desc": "sofa"}], "pred": [{**box, "desc": "couch", "score": 0.5}]}
    predictions.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return eval_cost(predictions, labels=labels, **environment)


def encoder_cpu_s(folder: Path) -> float | None:
    """What the text encoder adds to one record when nothing is cached; None without the extra `semantic`."""
    try:
        return one_record_cost(folder, labels="semantic", COORDEXP_CACHE=str(folder / "cache")).cpu_s - one_record_cost(folder).cpu_s
    except SystemExit as error:
        print(f"the encoder is not measured: {str(error).splitlines()[-1]}", file=sys.stderr)
        return None


def measure(folder: Path, *, quick: bool) -> dict[str, float | None]:
    figures: dict[str, float | None] = dict(against_pycocotools(folder))
    polygons = folder / "polygons.jsonl"
    Scenes(5000, 80, 7.3, polygons=0.4, seed=1).write(polygons)
    figures["polygon_cpu_s"] = eval_cost(polygons).cpu_s
    large = folder / "large.jsonl"
    Scenes(2500 if quick else 20_000, 1203, 12.3, seed=2).write(large)
    cost = eval_cost(large)
    figures |= {"large_cpu_s": cost.cpu_s, "large_peak_mb": cost.peak_mb}
    figures |= scaling(folder, (2500, 10_000) if quick else (5_000, 14_000, 40_000))
    figures["one_record_cpu_s"] = one_record_cost(folder).cpu_s
    figures["encoder_cpu_s"] = encoder_cpu_s(folder)
    figures["help_wall_s"] = median_seconds([sys.executable, "-m", "coordexp", "eval", "--help"], repeats=3 if quick else 15)
    return figures


def main() -> None:
    parser = benchmark_parser(__doc__, quick="smaller sets for large_* and scaling_*")
    parser.add_argument("--folder", type=Path, help="keep the generated sets and results here")
    parser.add_argument("--referee", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.referee:
        print(json.dumps(referee(args.referee)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, quick=args.quick)
    show_figures("evaluator", figures)
    if args.quick:
        print("quick form: large_* from 2,500 images instead of 20,000, scaling_* up to 250,000 objects instead of 1,000,000")
    write_figures({key: None if value is None else round(value, 4) for key, value in figures.items()}, args.json)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _ellipse(box: list[int]) -> list[int]:
    """Ring of 12 vertices that touches the sides of the box."""
    x1, y1, x2, y2 = box
    angles = [math.pi * step / 6 for step in range(12)]
    return [value for a in angles for value in (round((x1 + x2 + (x2 - x1) * math.cos(a)) / 2), round((y1 + y2 + (y2 - y1) * math.sin(a)) / 2))]


if __name__ == "__main__":
    main()
