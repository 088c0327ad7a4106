"""Data intake: records a second and peak memory of every step, for files of several lengths, with one and with two processes.

Each step is the real command in a process of its own. Records a second: those by which the longest file is longer than the shortest, over the seconds by
which it takes more, so that the start of a command does not count: CPU seconds of one process, which other load does not change, and wall-clock seconds of
one and of two, which it does. Peak memory is that of the largest process. Images are hard links to one small file, because headers are looked at and pixels
are not, but for rescaling.

python benchmarks/data_intake.py [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from suite.command import benchmark_parser, show_figures, write_figures

from coordexp.data.jsonl import write_records
from coordexp.models.assets import tiny_checkpoint
from coordexp.types.files import file_sha256
from coordexp.types.records import DetObject, Record

OBJECTS = 7
"""Of an image, as in COCO."""
SIDE = (64, 48)
STEPS = ("import", "coord", "validate")
"""Those that several processes can share."""


@dataclass(frozen=True, slots=True)
class Run:
    """One command."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def run(arguments: Sequence[str]) -> Run:
    """`coordexp …` in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "coordexp", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}\n{said}")
    return Run(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024)


def write_coco(folder: Path, count: int) -> Path:
    """An instances file of `count` images in `folder/images`, written as it is made."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", SIDE, "grey").save(folder / "grey.png")
    rng = random.Random(count)
    path = folder / "instances.json"
    with path.open("w") as stream:
        stream.write('{"categories": ' + json.dumps([{"id": number, "name": f"class {number}"} for number in range(80)]) + ', "images": [')
        for number in range(count):
            name = f"{number:07d}.png"
            # a file takes only so many links
            source = folder / "grey.png" if number % 20_000 == 0 else folder / "images" / f"{number - number % 20_000:07d}.png"
            (folder / "images" / name).write_bytes(source.read_bytes()) if number % 20_000 == 0 else os.link(source, folder / "images" / name)
            row = {"id": number, "file_name": name, "width": SIDE[0], "height": SIDE[1], "license": 1, "date_captured": "2026-01-01 00:00:00"}
            stream.write(", " * (number > 0) + json.dumps(row))
        stream.write('], "annotations": [')
        for number in range(count * OBJECTS):
            x, y, w, h = rng.uniform(0, 40), rng.uniform(0, 30), rng.uniform(1, 24), rng.uniform(1, 18)
            ring = [round(value, 2) for value in (x, y, x + w, y, x + w, y + h, x, y + h)]
            row = {"id": number, "image_id": number // OBJECTS, "category_id": rng.randrange(80), "bbox": [round(value, 2) for value in (x, y, w, h)]}
            stream.write(", " * (number > 0) + json.dumps(row | {"area": round(w * h, 3), "iscrowd": 0, "segmentation": [ring]}))
        stream.write("]}")
    return path


def intake_figures(folder: Path, counts: Sequence[int]) -> dict[str, float]:
    """Records a second, and peak memory of each step at each length."""
    figures: dict[str, float] = {}
    runs: dict[tuple[str, int], list[Run]] = {}
    for count in counts:
        root = folder / str(count)
        coco = write_coco(root, count)
        figures[f"coco_mb_{count}"] = coco.stat().st_size / 1e6
        for workers in (1, 2):
            pixels, tokens = root / f"train{workers}.jsonl", root / f"train{workers}.coord.jsonl"
            commands = {
                "import": ["data", "import", "coco", str(coco), "--images", str(root / "images"), "--output", str(pixels)],
                "coord": ["data", "coord", str(pixels)],
                "validate": ["data", "validate", str(tokens)],
            }
            for name in STEPS:
                runs.setdefault((name, workers), []).append(run([*commands[name], "--workers", str(workers)]))
                figures[f"{name}_peak_mb_{count}_{workers}"] = runs[name, workers][-1].peak_mb
        assert file_sha256(root / "train1.coord.jsonl") == file_sha256(root / "train2.coord.jsonl")
        assert sum(1 for _ in tokens.open()) == count
        command = ["doctor", "data", str(tokens), "--model", str(tiny_checkpoint()), "--samples", "1", "--output", str(root / "page.html")]
        runs.setdefault(("doctor", 1), []).append(run(command))
        figures[f"doctor_peak_mb_{count}"] = runs["doctor", 1][-1].peak_mb
    return {**speeds(runs, counts[-1] - counts[0]), **figures}


def speeds(runs: dict[tuple[str, int], list[Run]], more: int) -> dict[str, float]:
    """Records a second of CPU time of one process, of wall-clock time of one and two, and how much faster two are."""
    figures: dict[str, float] = {}
    for (name, workers), done in runs.items():
        if workers == 1:
            figures[f"{name}_records_s"] = more / (done[-1].cpu_s - done[0].cpu_s)
        figures[f"{name}_records_wall_s_{workers}"] = more / (done[-1].wall_s - done[0].wall_s)
        if workers == 2:
            figures[f"{name}_speedup"] = figures[f"{name}_records_wall_s_2"] / figures[f"{name}_records_wall_s_1"]
    return figures


def rescale_figures(folder: Path, count: int) -> dict[str, float]:
    """Images a second of wall-clock time by number of processes, start included; the same bytes each time."""
    source = folder / "photos"
    source.mkdir(parents=True)
    records: list[Record] = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(source / f"{number}.jpg", quality=90)
        records.append(Record("", f"{number}.jpg", 640, 480, (DetObject("cat", "bbox_2d", (1, 2, 300, 400)),), "pixel"))
    write_records(source / "train.jsonl", records)
    figures: dict[str, float] = {}
    outputs: list[list[bytes]] = []
    for workers in (1, 2):
        into = folder / f"with{workers}"
        command = ["data", "rescale", str(source / "train.jsonl"), "--into", str(into), "--preset", "rescale_32_256", "--workers", str(workers)]
        figures[f"rescale_images_s_{workers}"] = count / run(command).wall_s
        outputs.append([path.read_bytes() for path in sorted(into.rglob("*.png"))])
        figures[f"rescale_again_images_s_{workers}"] = count / run(command).wall_s
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == count
    return {**figures, "rescale_speedup": figures["rescale_images_s_2"] / figures["rescale_images_s_1"]}


def main() -> None:
    parser = benchmark_parser(__doc__, quick="500 and 5,000 records, 40 images")
    args = parser.parse_args()
    counts, images = ((500, 5_000), 40) if args.quick else ((10_000, 30_000, 100_000), 1_000)
    with tempfile.TemporaryDirectory() as name:
        figures = {**intake_figures(Path(name), counts), **rescale_figures(Path(name), images)}
    figures = {key: round(value, 2) for key, value in figures.items()}
    show_figures("data_intake", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
