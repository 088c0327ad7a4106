"""`coordexp infer`: images in, `gt_vs_pred.jsonl` out; then evaluation and pictures from that file alone."""

from __future__ import annotations

import os
from pathlib import Path

import coordexp
from coordexp.codec.prompts import PromptSpec
from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig, InferSection
from coordexp.config.loading import Loaded
from coordexp.pipeline.artifacts import ArtifactPaths, ImageRoot, check_writable, find_image_root, write_manifest
from coordexp.pipeline.finished import fingerprint, is_finished
from coordexp.pipeline.infer import Inference, InferenceSettings
from coordexp.pipeline.mode import choose_mode
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import Survey, iter_source, survey_source
from coordexp.pipeline.stage import StageFacts, describe_summary, write_predictions
from coordexp.pipeline.standardize import Mode
from coordexp.recipes.evaluate import run_evaluation
from coordexp.recipes.generating import repeat_limits
from coordexp.recipes.vis import run_vis
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.rollouts import GenerationSettings
from coordexp.viz.page import page_environment


def run_pipeline(loaded: Loaded[InferConfig], *, overwrite: bool = False, progress: Progress | None = None) -> ArtifactPaths:
    """Run the stages that the configuration turns on. A finished inference is not repeated unless `overwrite` says so.

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
        _run_inference(loaded, config.infer, paths, overwrite=overwrite, progress=progress)
    elif paths.gt_vs_pred.is_file() and not paths.resolved_config.exists():
        # the manifest of the run that made the predictions is worth more than that of what looks at them
        write_manifest(paths, stages=config.stages.model_dump(), image_root=image_root(config), config=loaded.resolved())
    if config.stages.eval:
        run_evaluation(EvalConfig(pred_jsonl=paths.gt_vs_pred, out_dir=paths.eval_dir, **dict(config.eval)), progress=progress)
    if config.stages.vis:
        run_vis(paths.gt_vs_pred, paths.vis_dir, root_image_dir=image_root(config).folder, limit=config.vis.limit, progress=progress)
    return paths


def _run_inference(loaded: Loaded[InferConfig], section: InferSection, paths: ArtifactPaths, *, overwrite: bool, progress: Progress) -> None:
    survey = survey_source(section.gt_jsonl, coord_space=section.coord_space, limit=section.limit)
    root = image_root(loaded.config)
    mark = fingerprint(
        {"infer": section.model_dump(mode="json"), "image_root": root.folder}, gt_jsonl=section.gt_jsonl, checkpoint=Path(section.model_checkpoint)
    )
    if not overwrite and is_finished(paths, mark):
        progress.say(f"{paths.gt_vs_pred} is finished; --overwrite starts it again")
        return
    # torch is loaded here and not before: evaluation and pictures do without
    from coordexp.batching.prompt import PromptEncoder
    from coordexp.generation.hf import HfBackend
    from coordexp.pipeline.checkpoint import open_checkpoint

    assert section.mode != "native", "refused when the configuration was read"
    choice = choose_mode(section.mode, iter_source(section.gt_jsonl, coord_space=section.coord_space), detect_samples=section.detect_samples)
    model = open_checkpoint(
        Path(section.model_checkpoint),
        dtype=section.backend.torch_dtype,
        attn_implementation=section.backend.attn_impl,
        device=section.device,
        progress=progress,
    )
    backend = HfBackend(model, batch_size=section.generation.batch_size)
    settings = inference_settings(section, choice.mode, survey, root)
    inference = Inference(backend, PromptEncoder(model.processor), tokenizer=backend.text_tokenizer, settings=settings)
    details = {"fingerprint": mark, "version": coordexp.__version__, "mode": choice.mode, "mode_reason": choice.reason, "prompt": settings.prompts.describe()}
    paths.summary.unlink(missing_ok=True)
    write_manifest(paths, stages=loaded.config.stages.model_dump(), image_root=root, config=loaded.resolved(), details=details)
    lines = iter_source(section.gt_jsonl, coord_space=section.coord_space, limit=section.limit)
    facts = StageFacts(mode=choice, backend=backend.info, settings=settings)
    summary = write_predictions(inference, lines, total=survey.num_lines, paths=paths, facts=facts, progress=progress)
    backend.close()
    progress.say(describe_summary(summary, paths.gt_vs_pred))


def inference_settings(section: InferSection, mode: Mode, survey: Survey, root: ImageRoot) -> InferenceSettings:
    """The settings of the stage from its section."""
    assert root.folder is not None, "a data file has a folder"
    generation = section.generation
    spec = PromptSpec(ordering=section.object_ordering, field_order=section.object_field_order, coord_mode=mode, kinds=section.geometry_kinds)
    return InferenceSettings(
        mode=mode,
        pred_coord_mode=section.pred_coord_mode,
        generation=GenerationSettings(
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            repetition_penalty=generation.repetition_penalty,
            seed=generation.seed,
            repeat=repeat_limits(section.repeat_terminate),
        ),
        window=generation.batch_size,
        prompts=PromptPlan(spec=spec, labels=section.prompt_labels, categories=survey.categories),
        image_root=root.folder,
    )


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
