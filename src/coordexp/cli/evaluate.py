"""`coordexp eval`: from gt_vs_pred.jsonl to numbers. Needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from coordexp.cli import compare, export
from coordexp.cli.flags import overrides_of, read_path
from coordexp.types.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIST_FLAGS = frozenset({"--iou-thrs", "--iou_thrs", "--f1ish-iou-thrs", "--f1ish_iou_thrs"})
_IGNORED = {"--unknown-policy": "unknown_policy", "--semantic-fallback": "semantic_fallback"}


class EvalGroup(TyperGroup):
    """Takes several values after one flag: `--iou-thrs 0.5 0.75` is `--iou-thrs 0.5,0.75`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_lists(args))


app = typer.Typer(
    cls=EvalGroup, invoke_without_command=True, rich_markup_mode=None, subcommand_metavar="[COMMAND]", short_help="Measure detections: COCO AP, F1, per class."
)
"""Evaluates by itself; sub-commands work on what was evaluated."""
app.command("compare", short_help="What changed between two runs on the same images.")(compare.compare)
app.command("export", short_help="A run for FiftyOne and other tools that read COCO.")(export.export)


def join_lists(args: list[str]) -> list[str]:
    """`["--iou-thrs", "0.5", "0.75", "--overlay"]` → `["--iou-thrs", "0.5,0.75", "--overlay"]`"""
    result: list[str] = []
    in_list = False
    for argument in args:
        if in_list and _is_number(argument) and result[-1] not in _LIST_FLAGS:
            result[-1] = f"{result[-1]},{argument}"
            continue
        in_list = argument in _LIST_FLAGS or (in_list and bool(result) and result[-1] in _LIST_FLAGS)
        result.append(argument)
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@app.callback()
def evaluate(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", help="Evaluation file (YAML); flags win over it.")] = None,
    pred_jsonl: Annotated[
        Path | None, typer.Option("--pred_jsonl", "--pred-jsonl", parser=read_path, metavar="<path>", help="The artifact gt_vs_pred.jsonl.")
    ] = None,
    coco_gt: Annotated[
        Path | None, typer.Option("--coco-gt", "--coco_gt", parser=read_path, metavar="PATH", help="COCO or LVIS instances, in place of --pred_jsonl.")
    ] = None,
    coco_preds: Annotated[
        Path | None, typer.Option("--coco-preds", "--coco_preds", parser=read_path, metavar="PATH", help="COCO results, with --coco-gt.")
    ] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Rules for COCO files: auto | coco | lvis")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out_dir", "--out-dir", parser=read_path, metavar="<path>", help="Folder for the results.")] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help="coco | f1ish | both")] = None,
    strict_parse: Annotated[bool | None, typer.Option("--strict-parse/--no-strict-parse", help="Stop at a line that is not JSON.")] = None,
    no_segm: Annotated[bool, typer.Option("--no-segm", "--no_segm", help="Boxes only.")] = False,
    iou_thrs: Annotated[str | None, typer.Option("--iou-thrs", "--iou_thrs", help="IoU thresholds of COCO AP.", metavar="NUMBERS")] = None,
    f1ish_iou_thrs: Annotated[str | None, typer.Option("--f1ish-iou-thrs", "--f1ish_iou_thrs", help="IoU thresholds of f1ish.", metavar="NUMBERS")] = None,
    f1ish_pred_scope: Annotated[str | None, typer.Option("--f1ish-pred-scope", "--f1ish_pred_scope", help="annotated | all")] = None,
    label_match: Annotated[str | None, typer.Option("--label-match", "--label_match", help="exact | semantic")] = None,
    semantic_model: Annotated[str | None, typer.Option("--semantic-model", "--semantic_model", help="Text encoder: folder or hub id.")] = None,
    semantic_threshold: Annotated[
        float | None, typer.Option("--semantic-threshold", "--semantic_threshold", help="Cosine from which on names are near.")
    ] = None,
    semantic_device: Annotated[str | None, typer.Option("--semantic-device", "--semantic_device", help="Where the encoder runs.")] = None,
    semantic_batch_size: Annotated[int | None, typer.Option("--semantic-batch-size", "--semantic_batch_size", help="Names encoded together.")] = None,
    pixel_mode: Annotated[str | None, typer.Option("--pixel-mode", "--pixel_mode", help="int | exact")] = None,
    score_mode: Annotated[str | None, typer.Option("--score-mode", "--score_mode", help="auto | model | constant")] = None,
    bootstrap: Annotated[int | None, typer.Option("--bootstrap", help="Resamples for 95 % intervals, such as 1000; 0: none.")] = None,
    bootstrap_seed: Annotated[int | None, typer.Option("--bootstrap-seed", "--bootstrap_seed", help="Seed of the resamples.")] = None,
    overlay: Annotated[bool | None, typer.Option("--overlay/--no-overlay", help="Draw the images with most errors.")] = None,
    overlay_k: Annotated[int | None, typer.Option("--overlay-k", "--overlay_k", help="How many are drawn.")] = None,
    report: Annotated[bool | None, typer.Option("--report/--no-report", help="Write report.html: numbers, curves, errors, every image.")] = None,
    root_image_dir: Annotated[Path | None, typer.Option("--root_image_dir", "--root-image-dir", help="Folder that image paths count from.")] = None,
    report_thumbnails: Annotated[
        str | None, typer.Option("--report-thumbnails", "--report_thumbnails", help="Pictures that are not in it: folder | inline | none")
    ] = None,
    num_workers: Annotated[int | None, typer.Option("--num-workers", "--num_workers", help="Threads that draw pictures; 0: by processors.")] = None,
    unknown_policy: Annotated[str | None, typer.Option("--unknown-policy", "--unknown_policy", help="Without effect.")] = None,
    semantic_fallback: Annotated[str | None, typer.Option("--semantic-fallback", "--semantic_fallback", help="Without effect.")] = None,
) -> None:
    """Measure detections: COCO AP, F1 within category, per class; results replace those of an earlier run in the folder."""
    if ctx.invoked_subcommand is not None:
        _refuse_flags_of_evaluation(ctx)
        return
    from coordexp.cli.progress import console_progress
    from coordexp.config.evaluation import EvalConfig
    from coordexp.config.loading import load_config

    given: dict[str, Any] = {name: value for name, value in ctx.params.items() if name != "config"}
    given |= {"no_segm": no_segm or None, "iou_thrs": _numbers("--iou-thrs", iou_thrs), "f1ish_iou_thrs": _numbers("--f1ish-iou-thrs", f1ish_iou_thrs)}
    flag_of = {param.name: param.opts[0] for param in ctx.command.params}
    flags = overrides_of({name: (flag_of[name], value) for name, value in given.items()})
    loaded = load_config(config, EvalConfig, flags)
    _warn_about_ignored(loaded.config.model_dump())
    from coordexp.recipes.evaluate import run_evaluation

    run_evaluation(loaded.config, progress=console_progress())


def _refuse_flags_of_evaluation(ctx: typer.Context) -> None:
    """Raises ConfigError for a flag that stands before a sub-command, where it would have no effect."""
    given = [f"--{name.replace('_', '-')}" for name, value in ctx.params.items() if value is not None and value is not False]
    if given:
        command = f"coordexp eval {ctx.invoked_subcommand}"
        raise ConfigError(f"{', '.join(given)} before '{ctx.invoked_subcommand}' has no effect", where=command, fix=f"see '{command} --help'")


def _numbers(flag: str, text: str | None) -> list[float] | None:
    """Raises ConfigError for what is not a list of numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise ConfigError(f"expected numbers, got '{text}'", where=flag, fix=f"write {flag} 0.5 0.75") from None


def _warn_about_ignored(values: Mapping[str, Any]) -> None:
    names = [flag for flag, key in _IGNORED.items() if values[key] is not None]
    if names:
        typer.echo(f"warning: {' and '.join(names)}: accepted for older commands, without effect", err=True)
