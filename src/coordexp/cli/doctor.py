"""`coordexp doctor`: what this machine has, what is wrong with a data set, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordexp.cli.data import SpaceOption

app = typer.Typer(help="Look at what this machine has, and at data before it is trained on.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Look at what this machine has, and at data before it is trained on."""


@app.command("env")
def env(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON report.")] = False) -> None:
    """Packages, GPU, vLLM, memory and disk, and what is known not to work together. Exit code 0 clean, 3 warnings, 2 errors."""
    import json

    from coordexp.recipes.doctor_env import Level, examine_environment

    facts = examine_environment(Path.cwd())
    if as_json:
        typer.echo(json.dumps([fact.to_json() for fact in facts], indent=2, ensure_ascii=False))
    else:
        for fact in facts:
            typer.echo(f"{fact.level.name.lower():8} {fact.what}: {fact.detail}")
            if fact.fix is not None:
                typer.echo(f"{'':8} fix: {fact.fix}")
    worst = max(fact.level for fact in facts)
    raise typer.Exit({Level.OK: 0, Level.WARNING: 3, Level.ERROR: 2}[worst])


@app.command("engine")
def engine(
    tries: Annotated[bool, typer.Option("--try", help="Start a server with the tiny checkpoint on the CPU and ask it about one picture (a minute).")] = False,
) -> None:
    """Which vLLM would serve rollouts, its version, the routes that it has, and how to fix what is missing."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.doctor import diagnose_engine

    diagnose_engine(tries=tries, progress=console_progress())


@app.command("data")
def data(
    source: Annotated[Path, typer.Argument(help="A record file (JSONL).", show_default=False)],
    model: Annotated[Path, typer.Option("--model", help="Checkpoint folder that will be trained or asked; its weights are not read.")],
    samples: Annotated[int, typer.Option("--samples", min=0, help="Records that the page shows, those with findings first.")] = 8,
    max_length: Annotated[int | None, typer.Option("--global-max-length", min=1, help="Of the training; without it no length is checked.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page to write; NAME.doctor.html beside the file by default.")] = None,
    coord_space: SpaceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON report.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples.")] = 0,
) -> None:
    """What silently ruins a training run: wrong boxes, labels and images, tokens, prompts, lengths. Exit code 0 clean, 3 warnings, 2 errors."""
    import json

    from coordexp.cli.progress import console_progress
    from coordexp.recipes.doctor_data import default_page, examine_data

    report = examine_data(
        source,
        model=model,
        page=output or default_page(source),
        num_samples=samples,
        global_max_length=max_length,
        coord_space=None if coord_space is None else coord_space.value,
        seed=seed,
        progress=console_progress(),
    )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        for finding in report.findings:
            typer.echo(f"{finding.severity.name.lower()}: {finding.check.value}: {finding.what}")
            for place in finding.places:
                typer.echo(f"  {place.describe(str(source))}")
            typer.echo(f"  fix: {finding.fix}")
        typer.echo(report.sentence())
    raise typer.Exit(report.exit_code)
