"""What every single-file page needs: its assets, templates that escape by themselves, and the policy that lets its own scripts run and no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING

import coordexp
from coordexp.types.errors import BackendError

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = "templates"


def asset(name: str) -> str:
    """The text of a style sheet or script that the package brings along."""
    return resources.files("coordexp.viz").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")


def content_policy(scripts: Iterable[str], *, with_files: bool = False) -> str:
    """Only these scripts run; nothing is fetched, but pictures beside the page `with_files`."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    images = "data: 'self' file:" if with_files else "data:"
    return f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src {hashes}"


def page_environment() -> Environment:
    """Templates with the filters `signed`, `trend` and `count` and the global `version`.

    Raises:
        BackendError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise BackendError("jinja2 is not installed", where="report", fix="pip install 'coordexp[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coordexp.viz", _TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["signed"] = _signed
    environment.filters["trend"] = _trend
    environment.filters["count"] = _count
    environment.globals["version"] = coordexp.__version__  # pyright: ignore[reportArgumentType]
    return environment


def _signed(value: float) -> str:
    """Example: `+0.123`, `−0.050` with a true minus sign."""
    text = f"{value:+.3f}"
    return "±0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def _trend(value: float) -> str:
    """The style class of a change."""
    rounded = round(value, 3)
    return "up" if rounded > 0 else "down" if rounded < 0 else "same"


def _count(value: int) -> str:
    """Example: `12,345`"""
    return f"{value:,}"
