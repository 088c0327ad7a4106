"""The command line that is running, for what a command writes about itself."""

from __future__ import annotations

import shlex
from contextvars import ContextVar

arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())
"""Set by `main`, without the program's name."""


def said_command() -> str:
    """As it can be typed again, without secrets. Example: `coordexp data coord train.jsonl`"""
    from coordexp.config.redact import redact_arguments

    return shlex.join(["coordexp", *redact_arguments(list(arguments.get()))])
