"""Inference, then evaluation and pictures when the file says so: the same as `coordexp infer …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run in the interpreter that PYTHON names, else in the repository's .venv when there is one, else in this one."""
    chosen = os.environ.get("PYTHON") or str(REPO / ".venv/bin/python")
    is_other = Path(chosen).exists() and Path(chosen).absolute() != Path(sys.executable).absolute()
    if is_other and os.environ.get("COORDEXP_SCRIPT_REEXEC") != "1":
        os.environ["COORDEXP_SCRIPT_REEXEC"] = "1"
        os.execv(chosen, [chosen, __file__, *sys.argv[1:]])
    sys.path.insert(0, str(REPO / "src"))
    from coordexp.cli.main import main as run

    return run(["infer", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
