"""`coordexp model`: checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build, merge and score checkpoints.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Build, merge and score checkpoints."""


@app.command("tiny")
def tiny(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the checkpoint.")],
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Pretrain it on drawn shapes and handwritten digits (up to 90 minutes on a CPU).")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    without_coord_tokens: Annotated[bool, typer.Option("--without-coord-tokens", help="Leave the coordinate tokens out, as in a published Qwen3-VL.")] = False,
    trained: Annotated[bool, typer.Option("--trained", help="With --without-coord-tokens: the weights of the package without their coordinate rows.")] = False,
) -> None:
    """Build a tiny, real Qwen3-VL that runs on any machine; untrained unless --pretrain or --trained is given."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.tiny import run_plain_tiny, run_tiny

    if trained:
        if pretrain or not without_coord_tokens:
            raise typer.BadParameter("--trained goes with --without-coord-tokens alone; with them it is the checkpoint of the package")
        run_plain_tiny(output, progress=console_progress())
        return
    if pretrain and without_coord_tokens:
        raise typer.BadParameter("--pretrain needs the coordinate tokens")
    run_tiny(output, pretrain=pretrain, seed=seed, with_coord_tokens=not without_coord_tokens, progress=console_progress())


@app.command("score-tiny")
def score_tiny(output: Annotated[Path, typer.Option("--output", "-o", help="Folder for data and results.")]) -> None:
    """Reproduce the held-out scores of the shipped checkpoint's model card."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.tiny_scores import run_tiny_score

    run_tiny_score(output, progress=console_progress())


@app.command("merge")
def merge(
    adapter: Annotated[
        Path, typer.Option("--adapter", "--src", help="Folder of the adapter: checkpoint-<step> or final-adapter of a run, or of any LoRA made with PEFT.")
    ],
    dst: Annotated[Path, typer.Option("--dst", help="Folder of the merged checkpoint; replaced when it exists.")],
    base: Annotated[Path | None, typer.Option("--base", help="Folder of the model that the adapter was trained on, when it has moved.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; by default as in the training.")] = None,
) -> None:
    """Merge an adapter into its model: a plain checkpoint with the same answers that opens without this package."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.checkpoints import run_merge

    run_merge(adapter, dst, base=base, dtype=dtype, progress=console_progress())


@app.command("expand-vocab")
def expand_vocab(
    src: Annotated[Path, typer.Option("--src", help="A Qwen3-VL folder without coordinate tokens.")],
    dst: Annotated[Path, typer.Option("--dst", help="The new folder; an older checkpoint there is replaced.")],
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; by default as it is.")] = None,
    pad_to_multiple_of: Annotated[
        int, typer.Option("--pad-to-multiple-of", min=1, help="Round the number of embedding rows up; multiples of 64 are faster on GPUs.")
    ] = 1,
) -> None:
    """Add the 1,000 coordinate tokens to a Qwen3-VL folder: new rows are smooth over the bins, around the rows of the digits."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.checkpoints import run_expand_vocab

    run_expand_vocab(src, dst, dtype=dtype, pad_to_multiple_of=pad_to_multiple_of, progress=console_progress())


@app.command("inspect", context_settings={"ignore_unknown_options": True})
def inspect(
    folder: Annotated[Path, typer.Argument(help="A checkpoint or an adapter.", show_default=False)],
    config: Annotated[Path | None, typer.Option("--config", help="Training file: what it would train on this checkpoint.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the training file.")] = None,
) -> None:
    """Say what a checkpoint or adapter holds, by part of the model, and what a training would train of it."""
    from coordexp.config.loading import load_config
    from coordexp.config.train import TrainConfig

    loaded = None if config is None else load_config(config, TrainConfig, overrides or [])
    from coordexp.recipes.checkpoints import run_inspect

    for line in run_inspect(folder, loaded=loaded):
        typer.echo(line)
