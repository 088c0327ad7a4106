"""The stage `infer` of one run, or of one part of it: what is done already, the model, the windows that are left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coordexp
from coordexp.codec.prompts import PromptSpec
from coordexp.config.infer import InferConfig, InferSection
from coordexp.config.loading import Loaded
from coordexp.evaluation.score_calibration import ScoreCalibration
from coordexp.generation.protocol import NUM_BATCHES, probabilities_of
from coordexp.pipeline.artifacts import ArtifactPaths, ImageRoot, write_manifest
from coordexp.pipeline.finished import fingerprint, is_finished
from coordexp.pipeline.infer import Inference, InferenceSettings, windows_under_way
from coordexp.pipeline.mode import choose_mode
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.shards import Shard
from coordexp.pipeline.source import Survey, iter_source, survey_source
from coordexp.pipeline.stage import StageFacts, describe_summary, write_predictions
from coordexp.pipeline.standardize import Mode
from coordexp.recipes.generating import infer_constraint, repeat_limits
from coordexp.types.errors import ConfigError
from coordexp.types.progress import Progress
from coordexp.types.rollouts import GenerationSettings

_WITHOUT_A_SAY: Any = {"shard": True, "num_workers": True, "backend": {"base_url", "auto_launch", "timeout_s", "client_concurrency"}}
"""Settings that do not decide the results: a run may go on with others."""


@dataclass(frozen=True, slots=True)
class InferRun:
    """What is to be done."""

    loaded: Loaded[InferConfig]
    section: InferSection
    whole: ArtifactPaths
    """Where the run's files go when it is not divided."""
    image_root: ImageRoot
    shard: Shard | None
    overwrite: bool
    resume: bool

    @property
    def paths(self) -> ArtifactPaths:
        """Where this part's files go."""
        return self.whole if self.shard is None else ArtifactPaths.under(self.shard.folder(self.whole.gt_vs_pred.parent))

    @property
    def base_mark(self) -> str:
        """Fingerprint of the run as a whole."""
        settings = self.section.model_dump(mode="json", exclude=_WITHOUT_A_SAY)
        if self.section.calibration is not None:
            settings["calibration"] = ScoreCalibration.read(self.section.calibration).as_dict()
        return fingerprint(
            {"infer": settings, "image_root": self.image_root.folder}, gt_jsonl=self.section.gt_jsonl, checkpoint=Path(self.section.model_checkpoint)
        )


def run_inference(run: InferRun, *, device: str, progress: Progress) -> None:
    """Generate what is not written yet.

    Raises:
        UserError: data, checkpoint or output cannot be used.
    """
    section, paths = run.section, run.paths
    survey = survey_source(section.gt_jsonl, coord_space=section.coord_space, limit=section.limit)
    base_mark = run.base_mark
    mark = base_mark if run.shard is None else f"{base_mark}:{run.shard}"
    if not run.overwrite and is_finished(paths, mark):
        progress.say(f"{paths.gt_vs_pred} is finished; --overwrite starts it again")
        return
    # torch is loaded here and not before: evaluation and pictures do without
    from coordexp.recipes.infer_backend import open_backend

    choice = choose_mode(section.mode, iter_source(section.gt_jsonl, coord_space=section.coord_space), detect_samples=section.detect_samples)
    if section.coord_decode == "expectation" and choice.mode != "coord":
        what = f"there are no coordinate tokens to take the expectation over in mode {choice.mode} ({choice.reason})"
        raise ConfigError(what, where="infer.coord_decode", fix="set it to argmax, or use mode coord")
    settings = inference_settings(section, choice.mode, survey, run.image_root)
    if settings.calibration is not None:
        top_tokens = None if section.backend.type == "hf" else section.backend.top_logprobs
        settings.calibration.fitted_on.check_scores(probabilities_of(top_tokens), where="infer.calibration")
    with open_backend(section, device=device, log=paths.gt_vs_pred.parent / "vllm_server.log", progress=progress) as opened:
        inference = Inference(opened.backend, opened.encoder, tokenizer=opened.tokenizer, settings=settings)
        details = {
            "fingerprint": mark,
            "version": coordexp.__version__,
            "mode": choice.mode,
            "mode_reason": choice.reason,
            **({} if opened.backend.info.route is None else {"route": opened.backend.info.route}),
            "prompt": settings.prompts.describe(),
        }
        stages = run.loaded.config.stages.model_dump()
        if run.shard is not None:
            details |= {"shard": str(run.shard), "whole": {"fingerprint": base_mark, "artifacts": run.whole.as_dict(), "stages": stages}}
            stages = {name: name == "infer" for name in stages}

        def begin() -> None:
            if not run.overwrite:
                is_finished(paths, mark)  # another run may have ended here since it was asked first
            paths.summary.unlink(missing_ok=True)
            write_manifest(paths, stages=stages, image_root=run.image_root, config=run.loaded.resolved(), details=details)

        lines = iter_source(section.gt_jsonl, coord_space=section.coord_space, limit=section.limit)
        shard_facts: dict[str, Any] | None = None
        total = survey.num_lines
        if run.shard is not None:
            places = run.shard.line_range(num_lines=total, window=settings.window)
            lines = run.shard.take(lines, num_lines=total, window=settings.window)
            shard_facts = {"index": run.shard.index, "count": run.shard.count, "lines": [places.start, places.stop], "num_lines": total}
            if not places:
                num_windows = -(-total // settings.window)
                what = f"part {run.shard} has nothing to do: {total} lines are {num_windows} windows of {settings.window}"
                progress.say(f"{what}; lower infer.generation.window to divide them further")
            total = len(places)
        batch_size = section.generation.batch_size
        facts = StageFacts(mode=choice, backend=opened.backend.info, settings=settings, batch_size=batch_size, fingerprint=mark, shard=shard_facts)
        is_resumed = run.resume and not run.overwrite
        summary = write_predictions(inference, lines, total=total, paths=paths, facts=facts, progress=progress, is_resumed=is_resumed, begin=begin)
    progress.say(describe_summary(summary, paths.gt_vs_pred))


def inference_settings(section: InferSection, mode: Mode, survey: Survey, root: ImageRoot) -> InferenceSettings:
    """The settings of the stage from its section."""
    assert root.folder is not None, "a data file has a folder"
    generation = section.generation
    spec = PromptSpec(
        ordering=section.object_ordering,
        field_order=section.object_field_order,
        coord_mode="coord" if mode == "coord" else "text",
        kinds=section.geometry_kinds,
    )
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
            constraint=infer_constraint(section, mode="coord" if mode == "coord" else "text", categories=survey.categories),
        ),
        window=_window(section),
        prompts=PromptPlan(spec=spec, labels=section.prompt_labels, categories=survey.categories, is_native=mode == "native"),
        image_root=root.folder,
        calibration=None if section.calibration is None else ScoreCalibration.read(section.calibration),
        expectation_window=section.coord_decode_window if section.coord_decode == "expectation" else None,
        num_loaders=section.num_workers,
        num_windows=_num_windows(section),
    )


def _window(section: InferSection) -> int:
    """Lines of a window. With transformers places are refilled within a window, and only at its end do they run empty; servers refill by themselves."""
    batch_size, chosen = section.generation.batch_size, section.generation.window
    if chosen is not None:
        return chosen
    return NUM_BATCHES * batch_size if section.backend.type == "hf" else batch_size


def _num_windows(section: InferSection) -> int:
    """Windows that are under way at a time: enough of them that vLLM always has as many requests as it may have."""
    if section.backend.type == "hf":
        return 1
    num_servers = 1 if section.backend.base_url is None else section.backend.base_url.count(",") + 1
    return windows_under_way(concurrency=num_servers * section.backend.client_concurrency, window=_window(section))
