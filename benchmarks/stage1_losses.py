"""The three shipped loss recipes of Stage-1 at equal processor seconds: the tiny checkpoint on handwritten digits, then detection on held-out scenes.

python benchmarks/stage1_losses.py [--quick] [--json PATH] [--budget 60] [--seeds 1,2] [--folder DIR]

Everything but the weights of the coordinate losses is as in configs/demo/stage1.yaml, with a learning rate that does not depend on the number of steps.
Runs that are finished are not repeated.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from suite.command import benchmark_parser, write_figures

from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.config.train import TrainConfig
from coordexp.data.synthetic import load_split, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.infer import run_pipeline
from coordexp.recipes.prepare import run_prepare
from coordexp.recipes.stage1 import run_stage1

REPO = Path(__file__).resolve().parents[1]
RECIPES = ("pure_ce", "softce_w1_gate", "mixed")
WEIGHTS = ("soft_ce_weight", "w1_weight", "ce_weight", "gate_weight")
SPLITS = {"train": "digits-hard-train", "val": "digits-hard-val"}
SCORES = {"f1_50": "f1_det@0.50", "f1_75": "f1_det@0.75", "f1_miou": "f1_det_miou", "ap": "bbox_AP", "mean_iou": "mean_matched_iou"}


def main() -> None:
    parser = benchmark_parser(__doc__, quick="a few scenes and steps, to see that everything works: its scores say nothing")
    parser.add_argument("--budget", type=float, default=60.0, help="processor seconds of training of one run")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--folder", type=Path, default=Path("output/stage1_losses"), help="for everything")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if args.quick else args.folder.absolute()
        scenes = {"train": 16, "val": 4} if args.quick else {}
        seeds, budget = ([1], 2.0) if args.quick else ([int(seed) for seed in args.seeds.split(",")], args.budget)
        prepare(folder, scenes)
        figures = {recipe: mean_scores([measure(folder, recipe, seed, budget) for seed in seeds]) for recipe in RECIPES}
    print(f"| recipe | steps | {' | '.join(SCORES)} |")
    for recipe, scores in figures.items():
        print(f"| {recipe} | {scores['steps']:.0f} | {' | '.join(f'{scores[key]:.3f}' for key in SCORES)} |")
    write_figures(figures, args.json)


def prepare(folder: Path, scenes: dict[str, int]) -> None:
    """Both splits as COCO files, then as records."""
    if (folder / "data").exists():
        return
    splits: list[str] = []
    for name, split in SPLITS.items():
        shipped = load_split(split)
        settings = replace(shipped.settings, num_scenes=scenes[name]) if scenes else shipped.settings
        write_coco_dataset(settings, folder / "coco" / name, sha256=None if scenes else shipped.sha256)
        splits += [f"splits.{name}.instances={folder}/coco/{name}/instances_{split}.json", f"splits.{name}.images={folder}/coco/{name}/images"]
    run_prepare(load_config(None, PrepareConfig, [f"output={folder}/data", "preset=rescale_16_36", *splits]))


def measure(folder: Path, recipe: str, seed: int, budget: float) -> dict[str, float]:
    """Train, detect, evaluate; read from the disk when that was done before."""
    done = folder / "scores" / f"{recipe}-{seed}-{budget:g}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    output, data = folder / "runs" / f"{recipe}-{seed}-{budget:g}", folder / "data" / "rescale_16_36"
    losses = load_config(REPO / "configs/stage1" / f"{recipe}.yaml", TrainConfig).config.custom.coord_soft_ce_w1
    settings = {
        "model.model": tiny_checkpoint(),
        "custom.train_jsonl": data / "train.coord.jsonl",
        "custom.val_jsonl": data / "val.coord.jsonl",
        "training.output_dir": output,
        "training.max_steps": 100_000,
        "training.max_cpu_seconds": budget,
        "training.lr_scheduler_type": "constant_with_warmup",
        "training.save_steps": 100_000,
        "training.seed": seed,
        **{f"custom.coord_soft_ce_w1.{name}": getattr(losses, name) for name in WEIGHTS},
    }
    run = run_stage1(load_config(REPO / "configs/demo/stage1.yaml", TrainConfig, [f"{key}={value}" for key, value in settings.items()]))
    paths = {
        "run.name": output.name,
        "run.output_dir": folder / "infer",
        "infer.gt_jsonl": settings["custom.val_jsonl"],
        "infer.model_checkpoint": run / "final",
    }
    run_pipeline(load_config(REPO / "configs/demo/infer.yaml", InferConfig, [f"{key}={value}" for key, value in paths.items()]), overwrite=True)
    metrics = json.loads((folder / "infer" / output.name / "eval" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    summary = json.loads((run / "run_summary.json").read_text(encoding="utf-8"))
    scores = {"steps": float(summary["steps"]), **{name: float(metrics[key]) for name, key in SCORES.items()}}
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(scores) + "\n", encoding="utf-8")
    return scores


def mean_scores(runs: list[dict[str, float]]) -> dict[str, Any]:
    means = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
    return {**means, "seeds": len(runs), "f1_50_each": [round(run["f1_50"], 4) for run in runs]}


if __name__ == "__main__":
    main()
