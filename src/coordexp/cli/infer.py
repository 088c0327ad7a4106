"""`coordexp infer`: detection on a data file, and what may follow it: evaluation and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordexp.cli.flags import overrides_of
from coordexp.types.errors import ConfigError

if TYPE_CHECKING:
    from coordexp.config.loading import Override

_MODES = "coord | text | auto"


def infer(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file, such as infer.limit=5.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Pipeline file (YAML). Without it, only inference runs.")] = None,
    gt_jsonl: Annotated[Path | None, typer.Option("--gt_jsonl", "--gt-jsonl", help="Data file; required without --config.")] = None,
    model_checkpoint: Annotated[str | None, typer.Option("--model_checkpoint", "--model-checkpoint", help="Checkpoint; required without --config.")] = None,
    mode: Annotated[str | None, typer.Option("--mode", help=f"{_MODES}; required without --config.")] = None,
    pred_coord_mode: Annotated[str | None, typer.Option("--pred-coord-mode", "--pred_coord_mode", help="auto | pixel | norm1000")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda:0, …")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first N records; 0: all.")] = None,
    detect_samples: Annotated[int | None, typer.Option("--detect-samples", "--detect_samples", help="Records that mode auto looks at.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where gt_vs_pred.jsonl goes.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Where summary.json goes.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="hf | vllm")] = None,
    vllm_base_url: Annotated[str | None, typer.Option("--vllm-base-url", "--vllm_base_url", help="Server of the vllm backend.")] = None,
    vllm_model: Annotated[str | None, typer.Option("--vllm-model", "--vllm_model", help="Name that the server gives the model.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option("--top_p", "--top-p")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max_new_tokens", "--max-new-tokens")] = None,
    repetition_penalty: Annotated[float | None, typer.Option("--repetition_penalty", "--repetition-penalty")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "--batch_size")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    shard: Annotated[str | None, typer.Option("--shard", help="i/n: only the i-th of n parts; 'coordexp merge' puts them together.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with what an interrupted run has written, or start it again.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again whatever lies there.")] = False,
) -> None:
    """Detect objects on the images of a data file; flags win over the file.

    Leaves gt_vs_pred.jsonl, summary.json and resolved_config.json, and eval/ and vis/ when those stages are on.
    """
    from coordexp.cli.progress import console_progress
    from coordexp.config.infer import InferConfig
    from coordexp.config.loading import load_config

    flags = overrides_of(
        {
            "infer.gt_jsonl": ("--gt_jsonl", gt_jsonl),
            "infer.model_checkpoint": ("--model_checkpoint", model_checkpoint),
            "infer.mode": ("--mode", mode),
            "infer.pred_coord_mode": ("--pred-coord-mode", pred_coord_mode),
            "infer.device": ("--device", device),
            "infer.limit": ("--limit", limit),
            "infer.detect_samples": ("--detect-samples", detect_samples),
            "artifacts.gt_vs_pred_jsonl": ("--out", out),
            "artifacts.summary_json": ("--summary", summary),
            "infer.backend.type": ("--backend", backend),
            "infer.backend.base_url": ("--vllm-base-url", vllm_base_url),
            "infer.backend.model": ("--vllm-model", vllm_model),
            "infer.generation.temperature": ("--temperature", temperature),
            "infer.generation.top_p": ("--top_p", top_p),
            "infer.generation.max_new_tokens": ("--max_new_tokens", max_new_tokens),
            "infer.generation.repetition_penalty": ("--repetition_penalty", repetition_penalty),
            "infer.generation.batch_size": ("--batch-size", batch_size),
            "infer.generation.seed": ("--seed", seed),
            "infer.shard": ("--shard", shard),
        }
    )
    if config is None:
        flags = [*_run_of_flags(gt_jsonl, model_checkpoint, mode, out), *flags]
    loaded = load_config(config, InferConfig, [*(overrides or []), *flags])
    from coordexp.recipes.infer import run_pipeline

    run_pipeline(loaded, overwrite=overwrite, resume=resume, progress=console_progress())


def _run_of_flags(gt_jsonl: Path | None, model_checkpoint: str | None, mode: str | None, out: Path | None) -> list[Override]:
    """The run's folder when no file names it: that of --out, or `output/infer/<name of the data file>`.

    Raises:
        ConfigError: a flag is missing.
    """
    required = {"--gt_jsonl": gt_jsonl, "--model_checkpoint": model_checkpoint, "--mode": mode}
    missing = [flag for flag, value in required.items() if value is None]
    if gt_jsonl is None or missing:
        raise ConfigError(f"{', '.join(missing)} missing", where="coordexp infer", fix="give --config, or --gt_jsonl, --model_checkpoint and --mode")
    folder = out.absolute().parent if out is not None else Path("output/infer") / gt_jsonl.name.split(".")[0]
    return overrides_of({"run.name": ("--out", folder.name), "run.output_dir": ("--out", folder.parent)})
