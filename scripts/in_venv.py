"""Runs a `coordexp` command in the interpreter that PYTHON names, else in the repository's .venv when there is one, else in this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def run_command(command: str) -> int:
    """`coordexp <command> …` with the arguments of the script that calls this; does not come back when another interpreter takes over."""
    chosen = os.environ.get("PYTHON") or str(REPO / ".venv/bin/python")
    is_other = Path(chosen).exists() and Path(chosen).absolute() != Path(sys.executable).absolute()
    if is_other and os.environ.get("COORDEXP_SCRIPT_REEXEC") != "1":
        os.environ["COORDEXP_SCRIPT_REEXEC"] = "1"
        os.execv(chosen, [chosen, *sys.argv])
    sys.path.insert(0, str(REPO / "src"))
    from coordexp.cli.main import main

    return main([command, *sys.argv[1:]])
