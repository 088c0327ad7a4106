"""`coordexp demo`: COCO files → records → shipped checkpoint → fine-tuning → inference → evaluation → report, each step done once."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coordexp.config.infer import InferConfig
from coordexp.config.loading import Override, load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.config.train import TrainConfig
from coordexp.data.synthetic import SceneSettings, load_split, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint
from coordexp.pipeline.steps import StepChain
from coordexp.recipes.infer import run_pipeline
from coordexp.recipes.prepare import run_prepare
from coordexp.recipes.report import run_report
from coordexp.recipes.shipped import shipped_config
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.files import ensure_output_folder, file_sha256, write_text
from coordexp.types.progress import NoProgress, Progress

PRESET = "rescale_16_36"
SPLITS = {"train": "digits-hard-train", "val": "digits-hard-val"}
QUICK_SCENES = {"train": 24, "val": 8}
QUICK_OVERRIDES = ("training.max_steps=4", "training.warmup_steps=1", "training.logging_steps=1", "training.save_steps=4")


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demo found; the content of `demo_summary.json`."""

    f1_50_before: float
    f1_50_after: float
    mean_iou_after: float
    seconds: float
    """Of the work of all steps, also of those that were reused."""
    peak_memory_mb: float
    """Of the run that did most of the work."""
    num_steps_reused: int
    report: str


def run_demo(output: Path, *, quick: bool = False, progress: Progress | None = None) -> DemoSummary:
    """Run everything that has not been run yet in `output`, write `report.html` and `demo_summary.json`, say what to do next.

    Args:
        output: folder for everything.
        quick: a few scenes and steps, to see that everything works; its scores say nothing.
        progress: shows the long loops.

    Raises:
        UserError: the folder cannot be written, or a part of the installation is missing.
    """
    progress = progress or NoProgress()
    started = time.perf_counter()
    ensure_output_folder(output)
    chain = StepChain(output / ".steps", progress=progress)
    prepared = output / "data" / PRESET
    data = {name: prepared / f"{name}.coord.jsonl" for name in SPLITS}

    progress.say("1/6  Handwritten digits on photographs and textures, as two COCO data sets (images + instances JSON)")
    for name, split in SPLITS.items():
        folder = output / "coco" / name
        scenes, sha256 = _scenes(name, split, quick=quick)
        work = partial(_make_coco, scenes, sha256, folder, progress)
        chain.run(f"coco_{name}", settings=asdict(scenes), outputs=[folder], work=work)

    progress.say("2/6  Import, rescale, coordinate tokens, validate: the way of any COCO file")
    chain.run("prepare", settings={"preset": PRESET}, outputs=list(data.values()), work=lambda: _prepare(output, progress))

    progress.say("3/6  Detect with the shipped checkpoint, before any fine-tuning")
    checkpoint = tiny_checkpoint()
    weights = file_sha256(checkpoint / "model.safetensors")
    before_folder = output / "before"
    infer_config = shipped_config("demo/infer.yaml")
    before = chain.run(
        "before",
        settings={"weights": weights, "config": infer_config.read_text(encoding="utf-8")},
        outputs=[before_folder / "gt_vs_pred.jsonl", before_folder / "eval"],
        work=lambda: _detect("before", checkpoint, data["val"], output, progress),
    )

    progress.say("4/6  Fine-tune it: Stage-1 with coordinate losses, a few minutes")
    train_config = shipped_config("demo/stage1.yaml")
    settings = {"weights": weights, "config": train_config.read_text(encoding="utf-8"), "overrides": QUICK_OVERRIDES if quick else ()}
    train = chain.run("train", settings=settings, outputs=[output / "train"], work=lambda: _train(checkpoint, data, output, settings, progress))
    run_folder = Path(train.result["run_folder"])

    progress.say("5/6  Detect again with the fine-tuned checkpoint")
    after_folder = output / "after"
    after = chain.run(
        "after",
        settings={"run": run_folder.parent.name},
        outputs=[after_folder / "gt_vs_pred.jsonl", after_folder / "eval"],
        work=lambda: _detect("after", Path(train.result["checkpoint"]), data["val"], output, progress),
    )

    progress.say("6/6  Report: before and after, worst images first")
    report = output / "report.html"
    chain.run(
        "report",
        settings={},
        outputs=[report],
        work=lambda: _report(before_folder, after_folder, run_folder, report, progress),
    )

    summary = DemoSummary(
        f1_50_before=before.result["f1_50"],
        f1_50_after=after.result["f1_50"],
        mean_iou_after=after.result["mean_iou"],
        seconds=round(chain.seconds, 1),
        peak_memory_mb=_peak_memory_mb(output / "demo_summary.json"),
        num_steps_reused=chain.num_reused,
        report=str(report),
    )
    write_text(output / "demo_summary.json", json.dumps(asdict(summary), indent=2) + "\n")
    progress.say(_closing_words(summary, output, seconds_now=time.perf_counter() - started))
    return summary


def _scenes(name: str, split: str, *, quick: bool) -> tuple[SceneSettings, str | None]:
    """What to draw, and the hash that it must have; none for the first scenes alone."""
    shipped = load_split(split)
    return (replace(shipped.settings, num_scenes=QUICK_SCENES[name]), None) if quick else (shipped.settings, shipped.sha256)


def _make_coco(scenes: SceneSettings, sha256: str | None, folder: Path, progress: Progress) -> dict[str, Any]:
    return {"sha256": write_coco_dataset(scenes, folder, sha256=sha256, progress=progress).sha256}


def _prepare(output: Path, progress: Progress) -> dict[str, Any]:
    overrides = [Override("output", str(output / "data")), Override("preset", PRESET)]
    for name, split in SPLITS.items():
        folder = output / "coco" / name
        overrides.append(Override(f"splits.{name}.instances", str(folder / f"instances_{split}.json")))
        overrides.append(Override(f"splits.{name}.images", str(folder / "images")))
    prepared = run_prepare(load_config(None, PrepareConfig, overrides), progress=progress)
    for split in prepared:
        progress.say(f"     {split.sentence()}")
    return {split.name: split.num_objects for split in prepared}


def _detect(name: str, checkpoint: Path, records: Path, output: Path, progress: Progress) -> dict[str, Any]:
    paths = {"run.name": name, "run.output_dir": output, "infer.gt_jsonl": records, "infer.model_checkpoint": checkpoint}
    overrides = [Override(key, str(value)) for key, value in paths.items()]
    artifacts = run_pipeline(load_config(shipped_config("demo/infer.yaml"), InferConfig, overrides), overwrite=True, progress=progress)
    metrics = json.loads((artifacts.eval_dir / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return {"f1_50": metrics["f1_det@0.50"], "mean_iou": metrics["mean_matched_iou"]}


def _train(checkpoint: Path, data: dict[str, Path], output: Path, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A run that was stopped goes on from its last checkpoint, if it was started with the same settings."""
    started = output / ".steps" / "train.started"
    key = json.dumps(settings, sort_keys=True)
    can_resume = started.exists() and started.read_text(encoding="utf-8") == key and any((output / "train").glob("v*/*/checkpoint-*/trainer_state.json"))
    paths = {
        "model.model": checkpoint,
        "training.output_dir": output / "train",
        "custom.train_jsonl": data["train"],
        "custom.val_jsonl": data["val"],
    }
    overrides: list[str | Override] = [Override(key, str(value)) for key, value in paths.items()]
    overrides += settings["overrides"]
    if can_resume:
        overrides.append("training.resume_from_checkpoint=true")
    write_text(started, key)
    run_folder = run_stage1(load_config(shipped_config("demo/stage1.yaml"), TrainConfig, overrides), argv=tuple(sys.argv), progress=progress)
    return {"run_folder": str(run_folder), "checkpoint": str(run_folder / "final")}


def _report(before: Path, after: Path, run_folder: Path, report: Path, progress: Progress) -> dict[str, Any]:
    run_report(after, before=before, training=run_folder, output=report, title="Handwritten digits on photographs and textures", progress=progress)
    return {"bytes": report.stat().st_size}


def _peak_memory_mb(earlier: Path) -> float:
    """Peak resident memory of this process and its children, or that of an earlier run of the demo when it was higher."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    before = json.loads(earlier.read_text(encoding="utf-8"))["peak_memory_mb"] if earlier.exists() else 0.0
    return max(round(kilobytes / 1024, 1), before)


def _closing_words(summary: DemoSummary, output: Path, *, seconds_now: float) -> str:
    return f"""
Done in {seconds_now:.0f} s ({summary.num_steps_reused} steps reused), {summary.peak_memory_mb:.0f} MB at most.
F1@0.5 on {SPLITS["val"]}: {summary.f1_50_before:.3f} before, {summary.f1_50_after:.3f} after fine-tuning (mean IoU of matches {summary.mean_iou_after:.3f}).

Report: {output / "report.html"}   (open it in a browser; it needs no network)

The same with your own COCO files:
  coordexp data prepare configs/data/coco.yaml output=output/mine preset={PRESET} \\
      splits.train.instances=train.json splits.train.images=train/ splits.val.instances=val.json splits.val.images=val/
  coordexp train --config configs/demo/stage1.yaml model.model={tiny_checkpoint()} training.output_dir=output/mine/train \\
      custom.train_jsonl=output/mine/{PRESET}/train.coord.jsonl custom.val_jsonl=output/mine/{PRESET}/val.coord.jsonl
  coordexp infer --config configs/demo/infer.yaml --gt_jsonl output/mine/{PRESET}/val.coord.jsonl --model_checkpoint <run folder>/final
"""
