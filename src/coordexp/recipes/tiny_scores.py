"""`coordexp model score-tiny`: the held-out scores of the model card, through the whole product: draw, prepare, infer, evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from coordexp.config.infer import InferConfig
from coordexp.config.loading import Override, load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.synthetic import load_split, write_coco_dataset
from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.tiny import SIDE_MULTIPLE
from coordexp.recipes.infer import run_pipeline
from coordexp.recipes.prepare import run_prepare
from coordexp.types.files import ensure_output_folder, write_text
from coordexp.types.progress import NoProgress, Progress

SCORED_SPLITS: Final = ("shapes-val", "digits-val")
PRESET: Final = f"rescale_{SIDE_MULTIPLE}_36"
"""36 blocks of 16 x 16: scenes of 192 x 192 become the 96 x 96 that the checkpoint was trained on."""
_SHOWN: Final = ("f1_det@0.50", "f1_det@0.75", "f1_det_miou", "mean_matched_iou")


def run_tiny_score(output: Path, *, checkpoint: Path | None = None, splits: tuple[str, ...] = SCORED_SPLITS, progress: Progress | None = None) -> Path:
    """Score a checkpoint, by default the shipped one, on held-out splits; the path of `scores.json`.

    Raises:
        UserError: the folder cannot be written; the scenes drawn here are not those that scores are quoted for.
    """
    progress = progress or NoProgress()
    checkpoint = checkpoint or tiny_checkpoint()
    ensure_output_folder(output)
    scores = {name: _numbers(_score(name, output / name, checkpoint=checkpoint, progress=progress)) for name in splits}
    write_text(output / "scores.json", json.dumps(scores, indent=2) + "\n")
    progress.say("\n".join(_table(scores)))
    progress.say(f"scores: {output / 'scores.json'}")
    return output / "scores.json"


def _score(name: str, folder: Path, *, checkpoint: Path, progress: Progress) -> EvaluationResult:
    split = load_split(name)
    written = write_coco_dataset(split.settings, folder / "coco", sha256=split.sha256, progress=progress)
    source = {"output": folder, "preset": PRESET, "splits.val.instances": written.instances, "splits.val.images": written.images}
    prepared = run_prepare(load_config(None, PrepareConfig, _overrides(source)), progress=progress)
    inference = {
        "run.name": "infer",
        "run.output_dir": folder,
        "infer.gt_jsonl": prepared[0].path,
        "infer.model_checkpoint": checkpoint,
        "infer.device": "cpu",
        "infer.mode": "coord",
        "infer.generation.batch_size": 32,
        "infer.generation.max_new_tokens": 256,
    }
    run = run_pipeline(load_config(None, InferConfig, _overrides(inference)), overwrite=True, progress=progress)
    result = evaluate(run.gt_vs_pred, progress=progress)
    result.save(folder / "eval")
    return result


def _overrides(values: Mapping[str, Path | str | int]) -> list[Override]:
    return [Override(key, value if isinstance(value, int) else str(value)) for key, value in values.items()]


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    by_count = {name: counts.f1(0.5) for name, counts in result.det.by_num_objects.items()}
    shown = {key: result.metrics[key] for key in _SHOWN if key in result.metrics}
    return {**shown, "num_scenes": len(result.data.images), "num_objects": len(result.data.gt), "f1_det@0.50_by_num_objects": by_count}


def _table(scores: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["split        scenes  objects  " + "  ".join(_SHOWN)]
    for name, score in scores.items():
        numbers = "  ".join(f"{score[key]:>{len(key)}.3f}" for key in _SHOWN if key in score)
        lines.append(f"{name:<12} {score['num_scenes']:>6}  {score['num_objects']:>7}  {numbers}")
    for name, score in scores.items():
        by_count = ", ".join(f"{count}: {f1:.3f}" for count, f1 in score["f1_det@0.50_by_num_objects"].items())
        lines.append(f"{name} by objects in the scene: {by_count}")
    return lines
