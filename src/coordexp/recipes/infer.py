"""`coordexp infer`: images in, `gt_vs_pred.jsonl` out; then evaluation and pictures from that file alone."""

from __future__ import annotations

import os
from pathlib import Path

from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig, InferSection
from coordexp.config.loading import Loaded
from coordexp.pipeline.artifacts import ArtifactPaths, ImageRoot, check_writable, find_image_root, write_manifest
from coordexp.pipeline.merge import merge_parts
from coordexp.pipeline.shards import Shard
from coordexp.recipes.evaluate import run_evaluation
from coordexp.recipes.infer_ranks import Ranks
from coordexp.recipes.infer_stage import InferRun, run_inference
from coordexp.recipes.vis import run_vis
from coordexp.types.errors import ConfigError
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.page import page_environment


def run_pipeline(loaded: Loaded[InferConfig], *, overwrite: bool = False, resume: bool = True, progress: Progress | None = None) -> ArtifactPaths:
    """Run the stages that the configuration turns on.

    A finished inference is not repeated unless `overwrite` says so; one that was interrupted goes on unless `resume` is False. Under torchrun each rank does
    one part, and rank 0 puts them together and goes on with the other stages.

    Raises:
        UserError: data, checkpoint or output cannot be used; nothing has been written then.
    """
    progress = progress or NoProgress()
    config = loaded.config
    paths = artifact_paths(config)
    check_writable(paths.gt_vs_pred.parent, paths.summary.parent, paths.resolved_config.parent)
    if config.stages.eval and config.eval.report:
        page_environment()  # what the page needs is missed now and not after the work
    if config.stages.infer:
        assert config.infer is not None
        with Ranks.of(os.environ) as ranks:
            shard = _shard(config.infer, ranks)
            run = InferRun(loaded, config.infer, whole=paths, image_root=image_root(config), shard=shard, overwrite=overwrite, resume=resume)
            run_inference(run, device=ranks.device(config.infer.device), progress=progress)
            ranks.wait()
        if ranks.rank > 0:
            return paths
        if ranks.is_several:
            merge_parts(paths.gt_vs_pred.parent, overwrite=overwrite)
        elif shard is not None:
            progress.say(f"part {shard} is done; when all are: coordexp merge {paths.gt_vs_pred.parent}")
            return run.paths
    elif paths.gt_vs_pred.is_file() and not paths.resolved_config.exists():
        # the manifest of the run that made the predictions is worth more than that of what looks at them
        write_manifest(paths, stages=config.stages.model_dump(), image_root=image_root(config), config=loaded.resolved())
    if config.stages.eval:
        run_evaluation(EvalConfig(pred_jsonl=paths.gt_vs_pred, out_dir=paths.eval_dir, **dict(config.eval)), progress=progress)
    if config.stages.vis:
        run_vis(paths.gt_vs_pred, paths.vis_dir, root_image_dir=image_root(config).folder, limit=config.vis.limit, progress=progress)
    return paths


def run_merge(folder: Path, *, overwrite: bool = False, progress: Progress | None = None) -> ArtifactPaths:
    """`coordexp merge`: the parts in `<folder>/shards` as one run.

    Raises:
        UserError: a part is missing, or they do not belong together.
    """
    paths = merge_parts(folder, overwrite=overwrite)
    (progress or NoProgress()).say(f"{paths.gt_vs_pred} is whole")
    return paths


def _shard(section: InferSection, ranks: Ranks) -> Shard | None:
    if not ranks.is_several:
        return None if section.shard is None else Shard.parse(section.shard)
    if section.shard is not None:
        raise ConfigError("torchrun gives each rank its part", where="infer.shard", fix="leave it out, or start without torchrun")
    return Shard(ranks.rank + 1, ranks.world_size)


def artifact_paths(config: InferConfig) -> ArtifactPaths:
    """Where everything goes."""
    explicit = config.artifacts
    return ArtifactPaths.under(
        config.run.output_dir / config.run.name,
        gt_vs_pred=explicit.gt_vs_pred_jsonl,
        summary=explicit.summary_json,
        resolved_config=explicit.resolved_config_json,
        eval_dir=explicit.eval_dir,
        vis_dir=explicit.vis_dir,
    )


def image_root(config: InferConfig) -> ImageRoot:
    """The folder that image paths count from."""
    gt_jsonl = config.infer.gt_jsonl if config.infer is not None else None
    return find_image_root(environment=os.environ, configured=config.run.root_image_dir, gt_jsonl=gt_jsonl)
