"""Errors a user can act on. Each says where, what, and what to do; the command line prints it as one sentence and exits with 2."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """A mistake in the user's input, configuration or environment.

    Example: `DataError("x2=120 < x1=180", where="train.jsonl:412: objects[3].bbox_2d", fix="run 'coordexp data validate train.jsonl' to list all")`
    prints `train.jsonl:412: objects[3].bbox_2d: x2=120 < x1=180; run 'coordexp data validate train.jsonl' to list all`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(what, where, fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # processes of a training tell each other their errors
        return _rebuild, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{where}{self.what}{fix}"


def _rebuild(kind: type[UserError], what: str, where: str | None, fix: str | None) -> UserError:
    return kind(what, where=where, fix=fix)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing: enough of a library's error for a sentence of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class ConfigError(UserError):
    """A configuration file or override that cannot be used."""


class DataError(UserError):
    """A data file, record or image that breaks the data contract."""


class CheckpointError(UserError):
    """A model folder that cannot do what is asked of it."""


class OutputError(UserError):
    """An output folder or file that cannot be written."""


class BackendError(UserError):
    """A generation backend, text encoder or tool that is not available."""
