"""Commands as processes that have loaded everything already: ended at any moment, they cost no start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [f"coordexp.{name}" for name in ("cli.main", "recipes.infer", "recipes.infer_backend", "recipes.stage1", "recipes.prepare", "recipes.evaluate")]
)


def start(*arguments: str, said: Path | None = None, begun: Path | None = None) -> Any:
    """A process that runs `coordexp …`; what it says goes to the end of the file `said`; the file `begun` is there when the command begins."""
    process = _FORKS.Process(target=_run, args=(arguments, said, begun))
    process.start()
    return process


def _run(arguments: tuple[str, ...], said: Path | None, begun: Path | None) -> None:
    import torch

    from coordexp.cli.main import main

    torch.set_num_threads(1)
    if said is not None:
        stream = said.open("ab", buffering=0)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 130  # of Ctrl-C before or behind the command
    try:
        if begun is not None:
            begun.touch()
        code = main(list(arguments))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        pass
    sys.exit(code)
