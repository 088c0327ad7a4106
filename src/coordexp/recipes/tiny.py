"""`coordexp model tiny` and `coordexp model score-tiny`: the tiny checkpoint that the package ships, made and measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.data.coco import import_coco
from coordexp.data.convert import to_tokens
from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.rescale import rescale_dataset
from coordexp.data.synthetic import load_split, write_coco_dataset
from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.pretrain_tiny import SIDE, pretrain_tiny
from coordexp.models.tiny import SIDE_MULTIPLE, build_tiny
from coordexp.recipes.infer import run_pipeline
from coordexp.types.errors import DataError
from coordexp.types.files import ensure_output_folder, write_text
from coordexp.types.progress import NoProgress, Progress

SCORED_SPLITS = ("shapes-val", "digits-val")


def run_tiny(output: Path, *, pretrain: bool, seed: int = 0, progress: Progress | None = None) -> Path:
    """Build the tiny model at `output`, untrained or pretrained; an interrupted pretraining continues when it is called again.

    Raises:
        UserError: the folder cannot be written, or scikit-learn is not installed.
    """
    progress = progress or NoProgress()
    ensure_output_folder(output.parent)
    if not pretrain:
        build_tiny(output, seed=seed)
        progress.say(f"an untrained tiny Qwen3-VL lies in {output}")
        return output
    splits = {kind: load_split(f"{kind}-pretrain").settings for kind in ("shapes", "digits")}
    pretrain_tiny(output, seed=seed, work=output.with_name(f"{output.name}.work"), splits=splits, progress=progress)
    progress.say(f"the pretrained checkpoint lies in {output}")
    return output


def run_tiny_score(output: Path, *, checkpoint: Path | None = None, progress: Progress | None = None) -> Path:
    """Score the shipped checkpoint on the held-out splits through the whole product, and write `scores.json`.

    Raises:
        UserError: the folder cannot be written; the generator does not make the scenes whose hash the package holds.
    """
    progress = progress or NoProgress()
    checkpoint = checkpoint or tiny_checkpoint()
    ensure_output_folder(output)
    scores = {name: _score_split(name, output / name, checkpoint=checkpoint, progress=progress) for name in SCORED_SPLITS}
    write_text(output / "scores.json", json.dumps(scores, indent=2) + "\n")
    for name, score in scores.items():
        progress.say(f"{name}: f1_det@0.50 {score['f1_det@0.50']:.3f}, mean matched IoU {score['mean_matched_iou']:.3f}, {score['num_images']} scenes")
        for count, f1 in score["f1_det@0.50_by_num_objects"].items():
            progress.say(f"  {count} objects: {f1}")
    progress.say(f"scores: {output / 'scores.json'}")
    return output / "scores.json"


def prepare_split(name: str, folder: Path, *, progress: Progress) -> Path:
    """Draw, import, rescale and convert a split of the package; the path of its record file in coordinate tokens.

    Raises:
        DataError: the generator does not make the scenes whose hash the package holds.
    """
    split = load_split(name)
    written = write_coco_dataset(split.settings, folder / "coco", progress=progress)
    if written.sha256 != split.sha256:
        raise DataError(
            f"the scenes drawn here differ from the ones that scores are quoted for ({written.sha256[:12]} is not {split.sha256[:12]})",
            where=name,
            fix="install the versions of constraints.txt",
        )
    pixels, rescaled, tokens = folder / "coco" / "pixels.jsonl", folder / "rescaled" / "pixels.jsonl", folder / "rescaled" / "coord.jsonl"
    import_coco(written.instances, images=written.images, output=pixels, progress=progress)
    rescale_dataset(pixels, output=rescaled, multiple=SIDE_MULTIPLE, max_pixels=SIDE * SIDE, progress=progress)
    write_records(tokens, (to_tokens(record) for record in iter_records(rescaled)))
    return tokens


def _score_split(name: str, folder: Path, *, checkpoint: Path, progress: Progress) -> dict[str, Any]:
    data = prepare_split(name, folder, progress=progress)
    settings = {
        "run.name": "infer",
        "run.output_dir": str(folder),
        "infer.gt_jsonl": str(data),
        "infer.model_checkpoint": str(checkpoint),
        "infer.device": "cpu",
        "infer.generation.batch_size": 32,
        "infer.generation.max_new_tokens": 256,
    }
    config = load_config(None, InferConfig, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    run = run_pipeline(config, progress=progress)
    result = evaluate(run / "gt_vs_pred.jsonl", progress=progress)
    result.save(folder / "eval")
    return _numbers(result)


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    metrics: Mapping[str, float] = result.metrics
    shown = {key: metrics[key] for key in ("f1_det@0.50", "f1_det@0.75", "f1_det_miou", "mean_matched_iou")}
    by_count: dict[str, Any] = result.summary()["f1_det_by_num_objects"]  # type: ignore[assignment]
    return {**shown, "num_images": len(result.data.images), "f1_det@0.50_by_num_objects": by_count}
