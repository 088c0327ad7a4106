"""The files of an inference run: where they lie and what stands in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from coordexp.types.files import ensure_output_folder, write_text
from coordexp.types.predictions import Detection, SampleResult

SCHEMA_VERSION = 1
"""Of `resolved_config.json`. A reader refuses another major."""

RootSource: TypeAlias = Literal["env", "config", "gt_parent", "none"]


@dataclass(frozen=True, slots=True)
class ArtifactPaths:
    """Where everything goes; known before any stage runs.

    Example: `ArtifactPaths.under(Path("output/bench_smoke/run1")).gt_vs_pred` is `output/bench_smoke/run1/gt_vs_pred.jsonl`
    """

    gt_vs_pred: Path
    summary: Path
    resolved_config: Path
    eval_dir: Path
    vis_dir: Path

    @classmethod
    def under(cls, folder: Path, **explicit: Path | None) -> ArtifactPaths:
        """The usual names in `folder`; `explicit` names the field of each path that goes elsewhere (None: it does not)."""
        usual = {
            "gt_vs_pred": folder / "gt_vs_pred.jsonl",
            "summary": folder / "summary.json",
            "resolved_config": folder / "resolved_config.json",
            "eval_dir": folder / "eval",
            "vis_dir": folder / "vis",
        }
        return cls(**{name: _absolute(explicit.get(name) or path) for name, path in usual.items()})

    @classmethod
    def from_dict(cls, paths: Mapping[str, str]) -> ArtifactPaths:
        """The reverse of `as_dict`."""
        return cls(**{name.removesuffix("_jsonl").removesuffix("_json"): Path(path) for name, path in paths.items()})

    def as_dict(self) -> dict[str, str]:
        """For the manifest."""
        return {
            "gt_vs_pred_jsonl": str(self.gt_vs_pred),
            "summary_json": str(self.summary),
            "resolved_config_json": str(self.resolved_config),
            "eval_dir": str(self.eval_dir),
            "vis_dir": str(self.vis_dir),
        }


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """The folder that image paths count from, and who said so."""

    folder: Path | None
    source: RootSource


def find_image_root(*, environment: Mapping[str, str], configured: Path | None, gt_jsonl: Path | None) -> ImageRoot:
    """ROOT_IMAGE_DIR of the environment, else the configured folder, else the folder of the data file."""
    from_environment = environment.get("ROOT_IMAGE_DIR", "")
    if from_environment:
        return ImageRoot(_absolute(Path(from_environment)), "env")
    if configured is not None:
        return ImageRoot(_absolute(configured), "config")
    if gt_jsonl is not None:
        return ImageRoot(_absolute(gt_jsonl).parent, "gt_parent")
    return ImageRoot(None, "none")


def write_manifest(
    paths: ArtifactPaths, *, stages: Mapping[str, bool], image_root: ImageRoot, config: Mapping[str, Any], details: Mapping[str, Any] | None = None
) -> None:
    """Write `resolved_config.json`; `config` has its secrets redacted already.

    Raises:
        OutputError: it cannot be written.
    """
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stages": dict(stages),
        "artifacts": paths.as_dict(),
        "root_image_dir": None if image_root.folder is None else str(image_root.folder),
        "root_image_dir_source": image_root.source,
        **(details or {}),
        "config": dict(config),
    }
    write_json(paths.resolved_config, manifest)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_writable(*targets: Path) -> None:
    """Prove that files can be made at or below each target, and leave no trace: what comes next may still refuse to start.

    Raises:
        OutputError: a folder cannot be written, or a part of the path is a file.
    """
    for target in targets:
        folder = target
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        ensure_output_folder(folder)


def result_to_line(result: SampleResult) -> str:
    """One line of `gt_vs_pred.jsonl`, with its line end. The same result always gives the same bytes."""
    return json.dumps(result_to_json(result), ensure_ascii=False, allow_nan=False) + "\n"


def result_to_json(result: SampleResult) -> dict[str, Any]:
    """The line as a dictionary."""
    return {
        "image": result.image,
        "width": result.width,
        "height": result.height,
        "mode": result.mode,
        "coord_mode": result.coord_mode,
        "gt": [_ground_truth_to_json(item) for item in result.gt],
        "pred": [_prediction_to_json(item) for item in result.pred],
        "raw_output": result.raw_output,
        "errors": list(result.errors),
        "finish_reason": result.finish_reason,
        "score_source": result.score_source,
        **result.extras,
    }


def _ground_truth_to_json(item: Detection) -> dict[str, Any]:
    return {"type": item.kind, "points": list(item.points), "points_exact": _exact(item), "desc": item.desc}


def _exact(item: Detection) -> list[float] | None:
    return None if item.points_exact is None else list(item.points_exact)


def _prediction_to_json(item: Detection) -> dict[str, Any]:
    parts = None if item.score_parts is None else {"desc": item.score_parts.desc, "coord": item.score_parts.coord}
    return {"type": item.kind, "points": list(item.points), "points_exact": _exact(item), "desc": item.desc, "score": item.score, "score_parts": parts}


def _absolute(path: Path) -> Path:
    """Without following links: the manifest shows the path as the user knows it."""
    return Path(os.path.abspath(path))
