"""Packing: how full the rows of a plan are and what planning costs, and what padding-free rows bring in training.

python benchmarks/packing.py [--quick] [--json PATH]

The lengths are those of a detection set with a heavy tail, as LVIS has it: 60 prompt tokens, 300 to 1,024 image tokens, and 14 to 21 tokens for each of 1
to 300 objects, most images with few. Training is one epoch of the shipped tiny model over drawn boxes (images of several sizes, 1 to 60 objects), each
sample once in every arm. Where TRL is installed its SFTTrainer runs on the same model and samples. Compare ratios: all figures are taken in one run, on one
thread, in CPU seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from suite.command import benchmark_parser, show_figures, write_figures

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image, ImageDraw

from coordexp.batching.packing import RowPlan, plan_rows
from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.data.jsonl import read_records, write_records
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import build_trainer
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.types.progress import NoProgress
from coordexp.types.records import DetObject, Record

CAPACITIES = (4096, 8192, 16384)
MAIN_CAPACITY = 8192
ROW_LENGTH = 1024
BATCH = 8


def lvis_like_lengths(count: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    objects = np.minimum(random.lognormal(1.75, 1.1, count).astype(int) + 1, 300)
    image = random.choice([768, 683, 768, 1024, 300], count, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    return 60 + image + objects * random.integers(14, 22, count)


def first_fit_decreasing(lengths: np.ndarray, capacity: int) -> int:
    """The textbook's number of rows, by a tournament tree over the rooms of the rows."""
    size = 1 << (len(lengths) - 1).bit_length()
    tree = [capacity] * (2 * size)
    last = 0
    for length in np.sort(lengths)[::-1].tolist():
        node = 1
        while node < size:
            node = 2 * node if tree[2 * node] >= length else 2 * node + 1
        last = max(last, node - size)
        tree[node] -= length
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return last + 1


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def measure_plans(*, num_baseline: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    lengths = lvis_like_lengths(1_000_000)
    print("1,000,000 lengths\ncapacity  rows      lower bound  ratio   fill    seconds  CPU s")
    for capacity in CAPACITIES:
        sizes = np.minimum(lengths, capacity)
        plan, wall, cpu = timed(lambda sizes=sizes, capacity=capacity: plan_rows(sizes, capacity=capacity, seed=(0, 0)))
        _show(plan, wall, cpu)
        if capacity == MAIN_CAPACITY:
            figures |= {"fill": plan.fill, "rows_over_lower_bound": len(plan) / plan.lower_bound, "plan_1m_seconds": wall, "plan_1m_cpu_seconds": cpu}
            buffered, wall, cpu = timed(lambda sizes=sizes: plan_rows(sizes, capacity=MAIN_CAPACITY, seed=(0, 0), buffer=1024, min_fill=0.6))
            _show(buffered, wall, cpu, name="in a stream through a buffer of 1,024")
            figures |= {"stream_fill": buffered.fill, "stream_1m_cpu_seconds": cpu}
    sizes = np.minimum(lengths[:num_baseline], MAIN_CAPACITY)
    figures["baselines"] = _baselines(sizes)
    return figures


def _show(plan: RowPlan, wall: float, cpu: float, *, name: str = "") -> None:
    ratio = len(plan) / plan.lower_bound
    print(f"{plan.capacity:<9} {len(plan):<9} {plan.lower_bound:<12} {ratio:.4f}  {100 * plan.fill:.2f}%  {wall:<8.2f} {cpu:.2f}  {name}")


def _baselines(sizes: np.ndarray) -> dict[str, Any]:
    """Rows over the lower bound and CPU seconds of each way, on the same lengths."""
    bound = -(-int(sizes.sum()) // MAIN_CAPACITY)
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: len(plan_rows(sizes, capacity=MAIN_CAPACITY, seed=0)),
        "first_fit_decreasing": lambda: first_fit_decreasing(sizes, MAIN_CAPACITY),
    }
    if find_spec("binpacking") is not None:
        import binpacking

        ways["binpacking"] = lambda: len(binpacking.to_constant_volume(sizes.tolist(), MAIN_CAPACITY))
    else:
        print("binpacking is not installed: not compared")
    print(f"\n{len(sizes):,} lengths, capacity {MAIN_CAPACITY}")
    found: dict[str, Any] = {"num_lengths": len(sizes)}
    for name, way in ways.items():
        rows, _, cpu = timed(way)
        print(f"{name:<22} rows over lower bound {rows / bound:.4f}, {cpu:.2f} CPU s")
        found[name] = {"rows_over_lower_bound": rows / bound, "cpu_seconds": cpu}
    return found


def draw_samples(folder: Path, count: int) -> Path:
    """A record file with images of several sizes and 1 to 60 boxes each, most with few."""
    random = np.random.default_rng(0)
    records: list[Record] = []
    for number in range(count):
        width, height = (int(side) * 16 for side in random.integers(4, 9, 2))
        image = Image.new("RGB", (width, height), "white")
        boxes: list[DetObject] = []
        for _ in range(min(60, int(random.lognormal(1.4, 1.0)) + 1)):
            left, top = (int(value) for value in random.integers(0, 900, 2))
            right, bottom = left + int(random.integers(20, 99)), top + int(random.integers(20, 99))
            boxes.append(DetObject("red square", "bbox_2d", (left, top, right, bottom)))
            ImageDraw.Draw(image).rectangle([left * width // 1000, top * height // 1000, right * width // 1000, bottom * height // 1000], fill="red")
        image.save(folder / f"{number}.png")
        records.append(Record("", f"{number}.png", width, height, tuple(boxes), "norm1000"))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def train_ours(data: Path, folder: Path, *, is_packed: bool) -> dict[str, float]:
    """One epoch; what is built before the first step is not counted."""
    file = folder / "ours.yaml"
    file.write_text(
        f"model: {{model: {tiny_checkpoint()}}}\n"
        f"global_max_length: {4 * ROW_LENGTH}\n"
        f"training: {{output_dir: {folder}/runs, run_name: a, learning_rate: 1.0e-4, num_train_epochs: 1, per_device_train_batch_size: {BATCH},"
        " save_strategy: 'no', use_cpu: true, report_to: none, logging_steps: 1000}\n"
        f"custom: {{train_jsonl: {data}, coord_soft_ce_w1: {{enabled: false}}, token_type_metrics: {{enabled: false}}}}\n"
    )
    packed = ("training.packing=true", f"global_max_length={ROW_LENGTH}", "training.per_device_train_batch_size=1", "training.effective_batch_size=4")
    config = load_config(file, TrainConfig, packed if is_packed else ()).config
    parts = prepare_stage1(config)
    trainer, loader = build_trainer(config, parts, folder=folder, progress=NoProgress(), process=PartialState(cpu=True))
    padded_tokens = sum(batch.model_inputs["input_ids"].numel() for step in range(len(loader)) for batch in loader.prepare(step))
    # the pictures that were encoded just now are kept: encoding is not what is compared
    _, wall, cpu = timed(trainer.train)
    loader.close()
    return _speed(len(parts.train), wall, cpu) | {"tokens_forwarded": padded_tokens, "steps": trainer.state.global_step}


def train_trl(data: Path, folder: Path) -> dict[str, Any]:
    """The same epoch in TRL's SFTTrainer, and the settings that it refuses for samples with images."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    loaded = load_model(tiny_checkpoint())
    config = load_config(folder / "ours.yaml", TrainConfig, ()).config
    source = prepare_stage1(config).train
    rows = []
    for index, record in enumerate(read_records(data)):
        prompt, segment = source.prompt(source.records[index], epoch=0), source.encode(index, epoch=0)
        answer = loaded.tokenizer.decode(segment.token_ids[int(np.flatnonzero(segment.ce_weight)[0]) :].tolist()).removesuffix("<|im_end|>")
        question = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        rows.append({"prompt": question, "completion": [{"role": "assistant", "content": answer}], "images": [Image.open(data.parent / record.image).copy()]})
    dataset = Dataset.from_list(rows)

    def make(**settings: Any) -> SFTTrainer:
        arguments = SFTConfig(
            output_dir=str(folder / "trl"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            logging_steps=1000,
            **{"max_length": None, **settings},
        )
        return SFTTrainer(model=load_model(tiny_checkpoint()).model, args=arguments, train_dataset=dataset, processing_class=loaded.processor)

    refused = {}
    for settings in ({"packing": True, "max_length": ROW_LENGTH}, {"padding_free": True}):
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        try:
            make(**settings)
            refused[name] = None
        except (ValueError, TypeError) as error:
            refused[name] = str(error).splitlines()[0]
    trainer = make()
    _, wall, cpu = timed(trainer.train)
    return _speed(len(rows), wall, cpu) | {"steps": trainer.state.global_step, "refused": refused}


def _speed(count: int, wall: float, cpu: float) -> dict[str, float]:
    return {"samples_per_cpu_second": count / cpu, "samples_per_second": count / wall}


def measure_training(count: int, *, repeats: int) -> dict[str, Any]:
    """The best of several runs of each arm, which take turns: other work on the machine disturbs all alike."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = draw_samples(folder, count)
        arms: dict[str, Callable[[], dict[str, Any]]] = {
            "padded": lambda: train_ours(data, folder, is_packed=False),
            "packed": lambda: train_ours(data, folder, is_packed=True),
        }
        if find_spec("trl") is not None:
            arms["trl"] = lambda: train_trl(data, folder)
        else:
            print("TRL is not installed: not compared")
        for _ in range(repeats):
            for arm, train in arms.items():
                result = train()
                if arm not in figures or result["samples_per_cpu_second"] > figures[arm]["samples_per_cpu_second"]:
                    figures[arm] = result
    print(f"\none epoch of {count} samples on the tiny model, float32, batches of {BATCH} or rows of {ROW_LENGTH} tokens; best of {repeats}")
    for arm in arms:
        print(f"{arm:8} {figures[arm]}")
        if arm != "packed":
            figures[f"packed_over_{arm}"] = figures["packed"]["samples_per_cpu_second"] / figures[arm]["samples_per_cpu_second"]
    return figures


def main() -> None:
    parser = benchmark_parser(__doc__, quick="fewer lengths for the baselines, fewer samples in training")
    args = parser.parse_args()
    figures = measure_plans(num_baseline=5_000 if args.quick else 50_000)
    figures["training"] = measure_training(48 if args.quick else 128, repeats=2 if args.quick else 3)
    figures |= {key: value for key, value in figures["training"].items() if key.startswith("packed_over_")}
    print()
    show_figures("packing", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
