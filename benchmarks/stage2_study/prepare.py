"""Data of the study and its starting checkpoint; an interrupted preparation goes on where it was."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from coordexp.config.loading import Override, load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.synthetic import load_split, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint
from coordexp.pipeline.steps import StepChain
from coordexp.recipes.prepare import run_prepare
from coordexp.training.checkpoints import link_model
from coordexp.training.run_folder import list_checkpoints
from coordexp.types.files import file_sha256
from stage2_study.scores import infer
from stage2_study.study import HERE, PRESET, SPLITS, Study, coordexp, overrides_of, read_json, write_json


def prepare_data(study: Study) -> None:
    """Draw the splits, check their hashes, import, rescale, coordinate tokens: the way of any COCO file."""
    chain = StepChain(study.folder / ".steps")
    settings: dict[str, Any] = {"output": str(study.folder / "data"), "preset": PRESET}
    for name, split in SPLITS.items():
        shipped = load_split(split)
        count = (study.num_scenes or {}).get(name)
        scenes, sha256 = (shipped.settings, shipped.sha256) if count is None else (replace(shipped.settings, num_scenes=count), None)
        folder = study.folder / "coco" / name
        chain.run(name, settings=asdict(scenes), outputs=[folder], work=lambda: {"sha256": write_coco_dataset(scenes, folder, sha256=sha256).sha256})  # noqa: B023
        settings |= {f"splits.{name}.instances": str(folder / f"instances_{split}.json"), f"splits.{name}.images": str(folder / "images")}
    loaded = load_config(None, PrepareConfig, [Override(key, value) for key, value in settings.items()])
    records = [study.records(name) for name in SPLITS]
    chain.run("records", settings=settings, outputs=records, work=lambda: {split.name: split.num_objects for split in run_prepare(loaded)})


def prepare_start(study: Study) -> dict[str, Any]:
    """Train the starting checkpoint, or train it further when more steps are asked for, and score it; the content of `start.json`."""
    summary = study.folder / "start.json"
    if summary.exists() and study.start.exists() and read_json(summary)["steps"] == study.prepare_steps:
        return read_json(summary)
    schedule = {"num_stable_steps": study.stable_steps, "num_decay_steps": study.decay_steps, "min_lr_ratio": 0.2}
    settings = {
        "model.model": tiny_checkpoint(),
        "training.output_dir": study.folder / "prepare",
        "training.max_steps": study.prepare_steps,
        "training.lr_scheduler_kwargs": schedule,
        "training.resume_from_checkpoint": bool(checkpoints(study)),
        "custom.train_jsonl": study.records("train"),
    }
    arguments = ["train", "--config", str(HERE / "prepare.yaml"), *overrides_of(settings)]
    cost = coordexp(study, arguments, log=study.folder / "prepare.log", cpu=study.cpus[-1])
    run = Path(cost.output.rsplit("run folder: ", 1)[1].strip())
    link_model(run / "final", study.start)
    document = {
        "checkpoint": str(study.start),
        "weights": file_sha256(study.start / "model.safetensors"),
        "steps": study.prepare_steps,
        "eval": infer(study, study.start, study.folder / "scores" / "start", cpu=study.cpus[-1]),
    }
    write_json(summary, document)
    return document


def checkpoints(study: Study) -> list[Path]:
    """Of the preparation, by step."""
    runs = sorted((study.folder / "prepare").glob("v*/stage1"))
    return list_checkpoints(runs[-1]) if runs else []


def score_curve(study: Study) -> dict[int, dict[str, Any]]:
    """Scores of the preparation's checkpoints so far; each is measured once."""
    curve: dict[int, dict[str, Any]] = {}
    for checkpoint in checkpoints(study):
        out = study.folder / "scores" / checkpoint.name
        if not (out / "scores.json").exists():
            write_json(out / "scores.json", infer(study, checkpoint, out, cpu=study.cpus[-1]))
        curve[int(checkpoint.name.split("-")[1])] = read_json(out / "scores.json")
    return curve
