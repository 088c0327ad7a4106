"""`coordexp doctor`: what this machine has, and how to mend what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look at what this machine has.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Look at what this machine has."""


@app.command("engine")
def engine(
    tries: Annotated[bool, typer.Option("--try", help="Start a server with the tiny checkpoint on the CPU and ask it about one picture (a minute).")] = False,
) -> None:
    """Which vLLM would serve rollouts, its version, the routes that it has, and how to fix what is missing."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.doctor import diagnose_engine

    diagnose_engine(tries=tries, progress=console_progress())
